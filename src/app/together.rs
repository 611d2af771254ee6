//! What this gateway shares with others through Redis.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::Either;
use parking_lot::Mutex;

use super::StartError;
use crate::clock::Clock;
use crate::config::Settings;
use crate::config::settings::JobsFor;
use crate::layers::limit::Counting;
use crate::limit::Ladder;
use crate::metrics::Metrics;
use crate::redis::callers::StoredCallers;
use crate::redis::dams::Dams;
use crate::redis::jobs::Jobs;
use crate::redis::link::Link;
use crate::redis::rules::{SharedRules, Store};
use crate::redis::sealing::Sealing;

/// How long a gateway that goes down waits until its jobs are cancelled.
const LEAVE: Duration = Duration::from_secs(1);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The connection to Redis, and what goes on beside requests.
pub(super) struct Together {
    pub(super) store: Store,
    pub(super) callers: Option<Arc<StoredCallers>>,
    /// Requests that are answered by way of Redis.
    pub(super) jobs: Option<Jobs>,
    /// Whether only that becomes a job for which there is no room.
    pub(super) overflow: bool,
    /// What is signed that others read.
    pub(super) sealing: Sealing,
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
        let jobs = shared.jobs != JobsFor::Nothing;
        if !shared.rules && !shared.callers && !jobs {
            return Ok(None);
        }
        let link = Link::new(shared.redis.clone(), clock.clone(), Arc::clone(metrics));
        let sealing = Sealing::from(settings.redis_key.clone());
        let callers = shared.callers.then(|| Arc::new(StoredCallers::new(link.clone(), sealing.clone())));
        let dams = Dams::new(settings.dams);
        let (jobs, serving) = match jobs.then(|| Jobs::new(link.clone(), Arc::clone(&dams), sealing.clone()))
        {
            Some((jobs, serving)) => (Some(jobs), Either::Left(serving)),
            None => (None, Either::Right(std::future::ready(()))),
        };
        let (store, work) = Store::new(link, dams, clock.clone());
        let work = async {
            tokio::join!(work, serving);
        };
        Ok(Some(Self {
            store,
            callers,
            jobs,
            overflow: shared.jobs == JobsFor::Overflow,
            sealing,
            rules: shared.rules,
            work: Mutex::new(Some(Box::pin(work))),
        }))
    }

    /// Takes another key for what is signed, and other credentials for the next connection.
    pub(super) fn retell(&self, settings: &mut Settings) {
        self.sealing.replace(settings.redis_key.clone());
        let urls = &self.store.link().settings().urls;
        if urls.retell(&settings.shared.redis.urls) {
            // Shared, so that the next settings are compared with what is in use.
            settings.shared.redis.urls = urls.clone();
        }
        if let Some(callers) = &self.callers {
            callers.look_again();
        }
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

    /// Tells Redis what it has not heard yet, as far as it listens, and that this gateway goes.
    pub(super) async fn leave(&self) {
        if let Some(jobs) = &self.jobs {
            jobs.leave(LEAVE).await;
        }
        self.store.leave().await;
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
