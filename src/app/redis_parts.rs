//! State shared with other gateways through Redis.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::StartError;
use crate::clock::Clock;
use crate::config::Settings;
use crate::config::settings::JobMode;
use crate::layers::jobs::JobHandling;
use crate::layers::limit::RuleCounting;
use crate::limit::RuleSet;
use crate::metrics::Metrics;
use crate::redis::callers::StoredCallers;
use crate::redis::exchange::TokenExchange;
use crate::redis::gateways::Gateways;
use crate::redis::jobs::JobQueue;
use crate::redis::link::RedisLink;
use crate::redis::responses::StoredResponses;
use crate::redis::rules::{SharedRules, Store};
use crate::redis::signing::Signing;

/// Maximum time that a shutdown waits until the cleanup of abandoned jobs has reached Redis.
const LEAVE: Duration = Duration::from_secs(1);

type BackgroundWork = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The connection to Redis and its background work.
pub(super) struct RedisParts {
    pub(super) store: Store,
    pub(super) callers: Option<Arc<StoredCallers>>,
    /// Queue of requests that become jobs; `None` if no requests do.
    pub(super) jobs: Option<JobQueue>,
    /// The same, or without jobs the store of answers to requests with an `Idempotency-Key`.
    answers: JobQueue,
    /// `true` if only requests that would be refused become jobs.
    pub(super) overflow: bool,
    pub(super) signing: Signing,
    /// `true` if rules are counted in Redis.
    rules: bool,
    /// Background work; taken by [`RedisParts::run`].
    work: Mutex<Option<BackgroundWork>>,
}

impl fmt::Debug for RedisParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisParts").field("store", &self.store).finish_non_exhaustive()
    }
}

impl RedisParts {
    /// Creates the shared state; `None` if rules, callers and jobs all do without Redis.
    pub(super) fn new(
        settings: &Settings,
        clock: &Clock,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, StartError> {
        let shared = &settings.shared;
        let jobs = shared.jobs != JobMode::Nothing;
        if !shared.rules && !shared.callers && !jobs {
            return Ok(None);
        }
        let link = RedisLink::new(shared.redis.clone(), clock.clone(), Arc::clone(metrics));
        let signing = Signing::from(settings.redis_key.clone());
        let callers = shared.callers.then(|| Arc::new(StoredCallers::new(link.clone(), signing.clone())));
        let gateways = Gateways::new(settings.gateways);
        let (answers, serving) = JobQueue::new(link.clone(), Arc::clone(&gateways), signing.clone(), jobs);
        answers.configure(settings.job_limits);
        let (store, work) = Store::new(link, gateways, clock.clone());
        let work = async {
            tokio::join!(work, serving);
        };
        Ok(Some(Self {
            store,
            callers,
            jobs: jobs.then(|| answers.clone()),
            answers,
            overflow: shared.jobs == JobMode::Overflow,
            signing,
            rules: shared.rules,
            work: Mutex::new(Some(Box::pin(work))),
        }))
    }

    pub(super) fn responses(&self) -> StoredResponses {
        StoredResponses::new(self.store.link().clone(), self.signing.clone())
    }

    pub(super) fn exchange(&self) -> TokenExchange {
        let gateways = Arc::clone(self.store.gateways());
        TokenExchange::new(self.store.link().clone(), gateways, self.signing.clone())
    }

    /// Returns the store of jobs and answers, and which requests become jobs.
    pub(super) fn job_handling(&self) -> (JobQueue, JobHandling) {
        let handling = match (&self.jobs, self.overflow) {
            (None, _) => JobHandling::None,
            (Some(_), true) => JobHandling::Overflow,
            (Some(_), false) => JobHandling::All,
        };
        (self.answers.clone(), handling)
    }

    /// Replaces the signing key, and the credentials for the next connection.
    pub(super) fn apply_settings(&self, settings: &mut Settings) {
        self.signing.replace(settings.redis_key.clone());
        let urls = &self.store.link().settings().urls;
        if urls.update_credentials(&settings.shared.redis.urls) {
            // Both share one `Urls`, so the next reload compares with the credentials in use.
            settings.shared.redis.urls = urls.clone();
        }
        self.answers.configure(settings.job_limits);
        if let Some(callers) = &self.callers {
            callers.look_again();
        }
    }

    /// While polled: stays connected, follows stored callers, and does the background work.
    pub(super) async fn run(&self) {
        let Some(work) = self.work.lock().take() else { return };
        let link = self.store.link().clone();
        let gateways = Arc::clone(self.store.gateways());
        let follow = async {
            if let Some(callers) = &self.callers {
                callers.follow().await;
            }
        };
        tokio::join!(work, link.keep(gateways), follow);
    }

    /// Tells other gateways that this one drains: they take over its part of the workers.
    pub(super) async fn drain(&self) {
        self.store.gateways().drain(self.store.link()).await;
    }

    /// Flushes job cleanups and settlements, each for at most 1 s, and deregisters this gateway.
    pub(super) async fn leave(&self) {
        self.answers.flush(LEAVE).await;
        self.store.leave().await;
    }

    /// Returns the counters of `rule_set`. With Redis, its local fallback continues from `before`.
    pub(super) fn counting(&self, rule_set: &Arc<RuleSet>, before: Option<&RuleCounting>) -> RuleCounting {
        if !self.rules {
            return RuleCounting::Memory(Arc::clone(rule_set));
        }
        let before = match before {
            Some(RuleCounting::Shared(before)) => Some(&**before),
            Some(RuleCounting::Memory(_)) | None => None,
        };
        RuleCounting::Shared(Arc::new(SharedRules::new(self.store.clone(), Arc::clone(rule_set), before)))
    }
}
