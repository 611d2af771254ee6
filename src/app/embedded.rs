//! Embedded consumer: this gateway runs jobs itself if no worker takes from a queue.
//!
//! A request without room waits in Redis. A gateway with a free permit takes it, forwards it over
//! HTTP and writes the answer as a queue worker would: same steps, renewals, cancels and fences.
//!
//! **Failure mode.** Jobs of a gateway that dies, or that Redis has not heard for three seconds, go
//! to the next gateway with a permit; after three runs they are dead letters. A drain finishes
//! running jobs, as it does connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::{Clock, Lag, Nanos};
use crate::layers::paths::Paths;
use crate::openai::anthropic;
use crate::redis::consumer::{AnswerEngine, Consumer, ConsumerIdentity, NoAnswer, Runs};
use crate::redis::jobs::JobQueue;
use crate::redis::settings::RedisSettings;
use crate::redis::signing::Signing;
use crate::request::Payload;
use crate::shed::Permit;
use crate::upstream::{Upstream, UpstreamBody};

/// Renewal interval of running jobs.
const INTERVAL: Duration = Duration::from_secs(1);

/// Longer than any job is kept.
const NEVER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Running jobs by pool.
pub(super) struct EmbeddedConsumers {
    jobs: JobQueue,
    clock: Clock,
    redis: RedisSettings,
    signing: Signing,
    pools: HashMap<Arc<str>, ConsumerPool>,
}

struct ConsumerPool {
    runs: Arc<Runs>,
    /// Background tasks; aborted with the pool.
    _beside: JoinSet<()>,
}

impl EmbeddedConsumers {
    pub(super) fn new(jobs: JobQueue, clock: Clock, redis: RedisSettings, signing: Signing) -> Self {
        Self { jobs, clock, redis, signing, pools: HashMap::new() }
    }

    pub(super) fn of(&mut self, pool: &Arc<str>) -> Arc<Runs> {
        if let Some(known) = self.pools.get(pool) {
            return Arc::clone(&known.runs);
        }
        let place = ConsumerIdentity {
            worker: self.jobs.gateway_id().into(),
            pool: Arc::clone(pool),
            // Empty: workers do not take jobs that gateways run.
            colour: "".into(),
            version: None,
            interval: INTERVAL,
        };
        let consumer = Consumer::new(&self.redis, place, self.signing.clone());
        // After this time anybody may take the job, so its permit is released.
        let patience = consumer.claim_after();
        let runs = Arc::new(Runs::new(consumer, patience));
        let mut beside = JoinSet::new();
        let (renewing, hearing) = (Arc::clone(&runs), Arc::clone(&runs));
        beside.spawn(async move { renewing.renew().await });
        beside.spawn(async move { hearing.hear_cancels().await });
        beside.spawn(revive(self.jobs.clone(), self.clock.clone(), Arc::clone(pool), patience));
        self.pools.insert(Arc::clone(pool), ConsumerPool { runs: Arc::clone(&runs), _beside: beside });
        runs
    }

    /// Drops pools that are gone and have no running jobs.
    pub(super) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.pools.retain(|name, pool| is_there(name) || !pool.runs.is_idle());
    }
}

/// Decides whether unrenewed jobs may be taken from other gateways.
#[derive(Debug, Default)]
struct RedisContact {
    since: Option<Nanos>,
}

impl RedisContact {
    /// Returns `true` if every gateway had time to renew: none can in an outage. If this one was
    /// paused, others on its machine may have been too, while the clock of Redis went on.
    fn may_take_over(&self, unheard: Duration, now: Nanos, lag: &Lag) -> bool {
        let paused = lag.pause(now).filter(|pause| pause.length() >= INTERVAL).map(|pause| pause.pause_to);
        let since = self.since.map(|since| since.max(paused.unwrap_or_default()));
        since.is_some_and(|since| now.since(since) >= unheard)
    }
}

/// Puts unrenewed jobs back into the queue.
async fn revive(jobs: JobQueue, clock: Clock, pool: Arc<str>, unheard: Duration) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut hearing = RedisContact::default();
    loop {
        ticks.tick().await;
        let is_time = hearing.may_take_over(unheard, clock.now(), clock.lag());
        // Before that the call only tests whether Redis answers.
        match jobs.requeue_idle(&pool, if is_time { unheard } else { NEVER }).await {
            Ok(count) => {
                hearing.since.get_or_insert_with(|| clock.now());
                if count > 0 {
                    tracing::warn!(%pool, count, "requeued jobs of silent gateways");
                }
            }
            Err(loss) => {
                tracing::debug!(%loss, %pool, "cannot look for jobs of silent gateways");
                hearing.since = None;
            }
        }
    }
}

/// Runs one job over HTTP under a permit that it already holds.
pub(super) struct QueuedRequest {
    upstream: Upstream,
    /// Currently allowed paths: entries in Redis may have been written by others.
    paths: Arc<Paths>,
    /// The request without head and body; taken when it is sent.
    request: Mutex<Option<Request<Payload>>>,
}

impl QueuedRequest {
    pub(super) fn new(
        upstream: Upstream,
        paths: Arc<Paths>,
        request: Request<Payload>,
        permit: Permit,
    ) -> Self {
        let mut request = request;
        request.extensions_mut().insert(permit);
        Self { upstream, paths, request: Mutex::new(Some(request)) }
    }
}

impl AnswerEngine for QueuedRequest {
    type Body = UpstreamBody;

    async fn answer(&self, head: Parts, body: Bytes) -> Result<Response<UpstreamBody>, NoAnswer> {
        let passes =
            self.paths.find(&Method::POST, head.uri.path()).is_ok_and(|found| found.kind.has_demand());
        if !passes {
            return Err(NoAnswer::Failed("The path of the job is not allowed.".into()));
        }
        let request = self.request.lock().take();
        let Some(mut request) = request else { return Err(NoAnswer::Silence) };
        *request.uri_mut() = head.uri;
        *request.headers_mut() = head.headers;
        *request.body_mut() = Payload::from(body);
        let answer = self.upstream.forward(request).await;
        let answer = answer.map_err(|refusal| NoAnswer::Failed(refusal.to_string()))?;
        // The job waits because there was no room: the same refusal again is no answer.
        let is_busy = matches!(
            answer.status(),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | anthropic::OVERLOADED
        );
        if is_busy {
            return Err(NoAnswer::Failed(format!("The worker answered {}.", answer.status())));
        }
        Ok(answer.map(UpstreamBody::for_gateway))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TICK;

    const UNHEARD: Duration = Duration::from_secs(3);

    #[test]
    fn others_are_judged_when_they_had_time_to_speak() {
        let (lag, mut hearing) = (Lag::default(), RedisContact::default());
        let mut now = Nanos::from_secs(1);
        let mut run = |length: Duration| {
            let until = now + length;
            while now < until {
                now = now + TICK;
                lag.tick(now);
            }
            now
        };
        let may = |hearing: &RedisContact, now| hearing.may_take_over(UNHEARD, now, &lag);
        assert!(!may(&hearing, run(UNHEARD * 2)), "Redis was not heard yet");
        hearing.since = Some(run(TICK));
        assert!(!may(&hearing, run(UNHEARD - TICK)));
        assert!(may(&hearing, run(TICK)));
        // Paused for five seconds, with all gateways of this machine: they renew within three.
        let now = run(TICK) + Duration::from_secs(5);
        assert!(!may(&hearing, now), "before the first tick");
        lag.tick(now);
        assert!(!may(&hearing, now + (UNHEARD - TICK)));
        let after = (0..300).fold(now, |now, _| {
            lag.tick(now + TICK);
            now + TICK
        });
        assert!(may(&hearing, after));
    }
}
