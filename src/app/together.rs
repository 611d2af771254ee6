//! What this gateway shares with others through Redis.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;

use super::StartError;
use crate::clock::Clock;
use crate::config::Settings;
use crate::layers::limit::Counting;
use crate::limit::Ladder;
use crate::metrics::Metrics;
use crate::redis::callers::StoredCallers;
use crate::redis::dams::Dams;
use crate::redis::link::Link;
use crate::redis::rules::{SharedRules, Store};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The connection to Redis, and what goes on beside requests.
pub(super) struct Together {
    pub(super) store: Store,
    pub(super) callers: Option<Arc<StoredCallers>>,
    /// Whether rules are counted in Redis.
    rules: bool,
    /// Taken by who runs it.
    work: Mutex<Option<Work>>,
}

impl fmt::Debug for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Together").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Together {
    /// What the settings share; nothing when they share nothing.
    pub(super) fn new(
        settings: &Settings,
        clock: &Clock,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, StartError> {
        let shared = &settings.shared;
        if !shared.rules && settings.dams > 1 && !settings.rules.is_empty() {
            tracing::warn!(
                dams = settings.dams,
                "`state: memory` counts in each gateway by itself: together they admit so many times each quota"
            );
        }
        if !shared.rules && !shared.callers {
            return Ok(None);
        }
        let mut redis = shared.redis.clone();
        if let Some(file) = &shared.ca {
            let pem =
                std::fs::read(file).map_err(|source| StartError::RedisCa { file: file.clone(), source })?;
            redis.authorities = Some(pem.into());
        }
        let link = Link::new(redis, clock.clone(), Arc::clone(metrics));
        let callers = shared.callers.then(|| Arc::new(StoredCallers::new(link.clone())));
        let (store, work) = Store::new(link, Dams::new(settings.dams), clock.clone());
        Ok(Some(Self { store, callers, rules: shared.rules, work: Mutex::new(Some(Box::pin(work))) }))
    }

    /// Keeps connected and does what requests left to be done, as long as it is polled.
    pub(super) async fn run(&self) {
        let Some(work) = self.work.lock().take() else { return };
        let link = self.store.link().clone();
        let dams = Arc::clone(self.store.dams());
        let follow = async {
            if let Some(callers) = &self.callers {
                callers.follow().await;
            }
        };
        tokio::join!(work, link.keep(dams), follow);
    }

    /// Where rules are counted.
    pub(super) fn counting(&self, ladder: &Arc<Ladder>, before: Option<&Counting>) -> Counting {
        if !self.rules {
            return Counting::Memory(Arc::clone(ladder));
        }
        let before = match before {
            Some(Counting::Shared(before)) => Some(&**before),
            Some(Counting::Memory(_)) | None => None,
        };
        Counting::Shared(Arc::new(SharedRules::new(self.store.clone(), Arc::clone(ladder), before)))
    }
}
