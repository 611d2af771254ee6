//! A worker that takes jobs from a queue, as in `docs/queue-protocol.md`, step by step.
//!
//! **Failure mode.** Without Redis no new job is read. Running jobs go on and are answered when
//! Redis is back, unless another worker claimed them. On shutdown the worker says so, takes no new
//! job, and finishes its jobs within limits. Others claim the rest.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use traffic_dam_core::clock::unix_millis;
use traffic_dam_core::fleet::heartbeat::{DesiredState, Heartbeat, SigningKey};

use crate::consumer::{AnswerEngine, Consumer, ConsumerIdentity, Runs, StreamEntry};
use crate::publisher::HeartbeatPublisher;
use crate::settings::RedisSettings;

/// Wait before a retry after an error from Redis.
const AGAIN: Duration = Duration::from_millis(200);
/// Redis outage after which a job is abandoned: the maximum time of any job.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The worker's queue and its identity there.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Connection to Redis.
    pub redis: RedisSettings,
    /// The worker's name, pool and colour.
    pub place: ConsumerIdentity,
    /// Key that signs heartbeats and must have signed jobs; `None` without signatures.
    pub key: Option<SigningKey>,
    /// Time for running jobs on shutdown.
    pub drain: Duration,
}

/// What an engine does at the moment, for heartbeats.
#[derive(Clone, Debug, Default)]
pub struct EngineReport {
    /// The name of its model.
    pub model: Option<Arc<str>>,
    /// Requests that run.
    pub running: Option<u32>,
    /// Requests that wait in the engine.
    pub waiting: Option<u32>,
    /// Used share of the KV cache, 0 to 1.
    pub kv_used: Option<f64>,
    /// Size of the KV cache in tokens.
    pub kv_tokens: Option<u64>,
}

/// Takes jobs for an engine, answers them, and sends heartbeats.
pub struct Drainer<E> {
    runs: Arc<Runs>,
    engine: Arc<E>,
    membership: Membership,
    slots: u32,
    report: Box<dyn Fn() -> EngineReport + Send + Sync>,
    /// `true` after a request to shut down.
    draining: watch::Sender<bool>,
}

impl<E> fmt::Debug for Drainer<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drainer").field("membership", &self.membership).finish_non_exhaustive()
    }
}

impl<E: AnswerEngine + Send + 'static> Drainer<E> {
    /// Creates a worker that runs up to `slots` jobs at once. `report` is called for each heartbeat.
    #[must_use]
    pub fn new(
        engine: Arc<E>,
        membership: Membership,
        slots: u32,
        report: impl Fn() -> EngineReport + Send + Sync + 'static,
    ) -> Self {
        let Membership { redis, place, key, .. } = &membership;
        let consumer = Consumer::new(redis, place.clone(), key.clone());
        let runs = Arc::new(Runs::new(consumer, PATIENCE));
        Self {
            runs,
            engine,
            membership,
            slots,
            report: Box::new(report),
            draining: watch::Sender::new(false),
        }
    }

    /// Takes jobs until `end` completes, then waits for the running jobs, at most the drain time.
    pub async fn drain(self, end: impl Future<Output = ()>) {
        let this = Arc::new(self);
        // Dropping this future drops both sets and their tasks.
        let (mut helpers, mut runs) = (JoinSet::new(), JoinSet::new());
        let (hearing, renewing) = (Arc::clone(&this.runs), Arc::clone(&this.runs));
        helpers.spawn(async move { hearing.hear_cancels().await });
        helpers.spawn(async move { renewing.renew().await });
        helpers.spawn(Arc::clone(&this).speak());
        let draining = async {
            end.await;
            this.draining.send_replace(true);
        };
        tokio::join!(draining, this.read(&mut runs));
        let ended = async { while runs.join_next().await.is_some() {} };
        if timeout(this.membership.drain, ended).await.is_err() {
            tracing::warn!(runs = runs.len(), "drain timeout: other workers may claim the remaining jobs");
        }
    }

    /// Fills free slots with jobs until shutdown.
    async fn read(&self, runs: &mut JoinSet<()>) {
        let slots = Arc::new(Semaphore::new(self.slots as usize));
        let mut draining = self.draining.subscribe();
        let mut source =
            EntrySource { consumer: self.runs.consumer(), joined: false, claims: Instant::now() };
        let mut deaf = false;
        loop {
            while runs.try_join_next().is_some() {}
            if let Some(until) = self.runs.pauses_until().filter(|until| *until > Instant::now()) {
                tokio::select! {
                    _ = draining.wait_for(|draining| *draining) => return,
                    () = sleep_until(until) => {}
                }
            }
            let slot = tokio::select! {
                biased;
                _ = draining.wait_for(|draining| *draining) => return,
                slot = Arc::clone(&slots).acquire_owned() => slot.ok(),
            };
            match source.next(1 + slots.available_permits()).await {
                Ok(entries) => {
                    if std::mem::take(&mut deaf) {
                        tracing::info!("Redis is back, reading jobs again");
                    }
                    let others = std::iter::repeat_with(|| Arc::clone(&slots).try_acquire_owned().ok());
                    for (entry, slot) in entries.into_iter().zip(std::iter::once(slot).chain(others)) {
                        if slot.is_none() {
                            // One of another stream came with it. If this fails, it is claimed later.
                            self.runs.consumer().hand_back(&entry).await.unwrap_or_default();
                            continue;
                        }
                        let (running, engine) = (Arc::clone(&self.runs), Arc::clone(&self.engine));
                        runs.spawn(async move {
                            running.work(&entry, &*engine).await;
                            drop(slot);
                        });
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut deaf, true) {
                        tracing::warn!(%error, "cannot read jobs from Redis");
                    }
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Publishes heartbeats at the interval, and at once on shutdown.
    async fn speak(self: Arc<Self>) {
        let Membership { redis, place, key, .. } = &self.membership;
        let mut publisher = HeartbeatPublisher::new(redis.clone(), key.clone());
        let mut draining = self.draining.subscribe();
        let mut ticks = interval(place.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let boot: Arc<str> = format!("{:016x}", fastrand::u64(..)).into();
        for seq in 1.. {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = draining.changed() => {}
            }
            let EngineReport { model, running, waiting, kv_used, kv_tokens } = (self.report)();
            let beat = Heartbeat {
                worker: Arc::clone(&place.worker),
                boot: Arc::clone(&boot),
                seq,
                at_ms: Some(unix_millis()),
                interval: place.interval,
                url: None,
                pool: Some(Arc::clone(&place.pool)),
                model,
                colour: Some(Arc::clone(&place.colour)),
                version: place.version.clone(),
                state: if *draining.borrow() { DesiredState::Draining } else { DesiredState::Ready },
                slots: Some(self.slots),
                running,
                waiting,
                kv_used,
                kv_tokens,
                ttft_p90: None,
                itl_p90: None,
                checks: Vec::new(),
            };
            if let Err(error) = publisher.publish(&beat).await {
                tracing::debug!(%error, "cannot publish heartbeats to Redis");
            }
        }
    }
}

struct EntrySource<'a> {
    consumer: &'a Consumer,
    joined: bool,
    /// Earliest time of the next claim of others' entries.
    claims: Instant,
}

impl EntrySource<'_> {
    /// Returns entries for at most `free` slots.
    async fn next(&mut self, free: usize) -> RedisResult<Vec<StreamEntry>> {
        let entries = self.entries(free).await;
        // After any error, the stream or its group may be gone.
        self.joined = entries.is_ok();
        entries
    }

    /// Claims abandoned entries once per interval, otherwise reads new ones.
    async fn entries(&mut self, free: usize) -> RedisResult<Vec<StreamEntry>> {
        if !self.joined {
            self.consumer.join().await?;
            // No lease is renewed in an outage. Owners then get a full lease time to renew.
            self.claims = Instant::now() + self.consumer.claim_after();
        }
        let now = Instant::now();
        if now < self.claims {
            return self.consumer.read().await;
        }
        self.claims = now + self.consumer.place().interval;
        self.consumer.claim(free).await
    }
}
