//! State shared with other gateways through Redis.

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

/// How long a draining gateway waits for its jobs to be cancelled.
const LEAVE: Duration = Duration::from_secs(1);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The connection to Redis and its background work.
pub(super) struct Together {
    pub(super) store: Store,
    pub(super) callers: Option<Arc<StoredCallers>>,
    /// Requests answered through Redis.
    pub(super) jobs: Option<Jobs>,
    /// `true` if only requests without room become jobs.
    pub(super) overflow: bool,
    /// Signs messages that others read.
    pub(super) sealing: Sealing,
    /// `true` if rules are counted in Redis.
    rules: bool,
    /// Background work; taken by [`Together::run`].
    work: Mutex<Option<Work>>,
}

impl fmt::Debug for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Together").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Together {
    /// Creates the shared state; `None` if the settings share nothing.
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

    /// Replaces the signing key, and the credentials for the next connection.
    pub(super) fn retell(&self, settings: &mut Settings) {
        self.sealing.replace(settings.redis_key.clone());
        let urls = &self.store.link().settings().urls;
        if urls.retell(&settings.shared.redis.urls) {
            // Shared, so that the next settings are compared with the credentials in use.
            settings.shared.redis.urls = urls.clone();
        }
        if let Some(callers) = &self.callers {
            callers.look_again();
        }
    }

    /// Stays connected and does the background work of requests while polled.
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

    /// Sends Redis all pending changes, as far as it answers, and signs off.
    pub(super) async fn leave(&self) {
        if let Some(jobs) = &self.jobs {
            jobs.leave(LEAVE).await;
        }
        self.store.leave().await;
    }

    /// Returns the counters for the rules of `ladder`.
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
