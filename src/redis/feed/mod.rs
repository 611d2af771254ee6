//! Heartbeat feed, from Redis to the worker registry.
//!
//! Pub/sub loses messages that are published without a subscription. So each connection first
//! subscribes, and then reads the keys with the last heartbeats; a heartbeat that comes both ways
//! counts once. The connection is probed four times within the time after which the registry takes
//! the feed for dead: with TCP alone, a hung Redis looks like a silent fleet.
//!
//! * **Failure mode.** Redis is away: the feed clock stops, so ages in the registry stand still and
//!   the fleet stays as it is; log and metrics report it. Redis comes back, maybe empty: nothing is
//!   removed, and live workers report with their next heartbeat.
//! * **Trade-off.** The feed has its own connection besides that for commands: messages come as
//!   pushes of RESP3 (Redis 6 and later), and a slow command must not delay them.

mod backoff;
mod keys;
mod log_limit;
mod probe;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use fastrand::Rng;
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, RedisError, RedisResult, Value};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use self::backoff::Backoff;
use self::log_limit::LogLimit;
use self::probe::FeedProbe;
use super::connect::{Connection, beside};
use super::control::{Control, control_channel};
use super::publisher::health_channel;
use super::pushes;
use super::settings::RedisSettings;
use crate::clock::{Clock, unix_millis};
use crate::fleet::colour::ColourSwitches;
use crate::fleet::registry::{GAP, HeartbeatRefusal, HeartbeatSource, WorkerRegistry};
use crate::metrics::Metrics;

/// Time limit for connecting, and for each answer.
const PATIENCE: Duration = GAP;
/// Queued messages: some seconds of a thousand workers. The next heartbeat repeats lost ones.
const WAITING: usize = 4096;

/// Heartbeat feed of a gateway.
pub(crate) struct HeartbeatFeed {
    settings: RedisSettings,
    channel: Arc<str>,
    control: Arc<str>,
    subscribers: FeedSubscribers,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl fmt::Debug for HeartbeatFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeartbeatFeed").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Subscribers of the feed.
#[derive(Clone, Debug)]
pub(crate) struct FeedSubscribers {
    /// Receives heartbeats.
    pub registry: Arc<Mutex<WorkerRegistry>>,
    /// Receives switches of colours.
    pub switches: Arc<Mutex<ColourSwitches>>,
    /// Notified after a change.
    pub changed: Arc<Notify>,
    /// Id of this gateway in the reports of applied switches.
    pub id: Arc<str>,
    /// Epochs of the switches that its snapshot has applied, as JSON by pool.
    pub epochs: Arc<ArcSwap<String>>,
}

impl HeartbeatFeed {
    /// Creates a feed to `subscribers`.
    #[must_use]
    pub(crate) fn new(
        settings: RedisSettings,
        subscribers: FeedSubscribers,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Self {
        let channel = health_channel(&settings.prefix);
        let control = control_channel(&settings.prefix);
        Self { settings, channel, control, subscribers, metrics, clock }
    }

    /// Follows the feed forever, and reconnects after each outage.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::default();
        let mut random = Rng::new();
        let mut log_limit = LogLimit::default();
        let mut down_logged = false;
        loop {
            let Err(error) = self.follow(&mut backoff, &mut down_logged, &mut log_limit).await;
            if !down_logged {
                tracing::warn!(%error, "heartbeat feed is down; the fleet stays as it is");
                down_logged = true;
            }
            sleep(backoff.next(&mut random)).await;
        }
    }

    /// Follows the feed on one connection, until it fails.
    async fn follow(
        &self,
        backoff: &mut Backoff,
        down_logged: &mut bool,
        log_limit: &mut LogLimit,
    ) -> Result<FeedNeverEnds, RedisError> {
        let (sender, mut pushes) = mpsc::channel(WAITING);
        let mut listening = pushes::connect(&self.settings, PATIENCE, sender, || ()).await?;
        listening.subscribe(&[&*self.channel, &*self.control]).await?;
        let mut connection = beside(&listening, &self.settings, PATIENCE).await?;
        // First the switches: a gateway that is counted as following must know all of them.
        self.catch_up(&connection).await?;
        let mut probe = FeedProbe::new(self, listening, &connection);
        // Only a server that accepts a probe ends an outage: one that refuses it is asked less often.
        probe.ask().await?;
        let asked = self.clock.now();
        let kept = keys::read(&mut connection, &self.settings.prefix).await?;
        let count = kept.len();
        let heard: Vec<_> = {
            // Under one lock: who sees the feed alive also sees the heartbeats that it read.
            let mut registry = self.subscribers.registry.lock();
            registry.caught_up(asked);
            let hear = |kept: keys::KeptHeartbeat| {
                registry.receive(&kept.text, HeartbeatSource::Key(kept.left), self.clock.now(), unix_millis())
            };
            kept.into_iter().map(hear).collect()
        };
        for heard in heard {
            self.note(heard, log_limit);
        }
        if *down_logged {
            tracing::info!(workers = count, "heartbeat feed is up again");
        }
        *down_logged = false;
        backoff.reset();

        let mut signs = std::pin::pin!(probe.repeat());
        loop {
            tokio::select! {
                error = &mut signs => return Err(error),
                push = pushes.recv() => match push {
                    Some(PushInfo { kind: PushKind::Message, data }) => {
                        if let [Value::BulkString(channel), Value::BulkString(text)] = &data[..] {
                            if *channel == self.control.as_bytes() {
                                self.receive_switch(text);
                            } else {
                                let now = self.clock.now();
                                let mut registry = self.subscribers.registry.lock();
                                let heard = registry.receive(text, HeartbeatSource::Channel, now, unix_millis());
                                drop(registry);
                                self.note(heard, log_limit);
                            }
                        }
                    }
                    Some(PushInfo { kind: PushKind::Disconnection, .. }) | None => return Err(pushes::gone()),
                    Some(_) => {}
                },
            }
        }
    }

    /// Reads switches published without a subscription, and stores those that Redis has lost.
    async fn catch_up(&self, connection: &Connection) -> RedisResult<()> {
        let mut control = Control::on(connection.clone(), Arc::clone(&self.settings.prefix));
        for text in control.stored().await? {
            self.receive_switch(&text);
        }
        let followed: Vec<_> = {
            let switches = self.subscribers.switches.lock();
            switches.all().map(|switch| (switches.write(&switch), switch)).collect()
        };
        for (text, switch) in followed {
            control.publish_again(&switch.pool, switch.epoch, &text).await?;
        }
        Ok(())
    }

    fn receive_switch(&self, text: &[u8]) {
        match self.subscribers.switches.lock().receive(text) {
            Ok(true) => self.subscribers.changed.notify_one(),
            Ok(false) => {}
            Err(fault) => tracing::warn!("rejected a colour switch: {fault}"),
        }
    }

    /// Counts the outcome of a heartbeat, and notifies of changes.
    fn note(&self, heard: Result<bool, HeartbeatRefusal>, log_limit: &mut LogLimit) {
        match heard {
            Ok(true) => {
                self.metrics.heartbeat("taken");
                self.subscribers.changed.notify_one();
            }
            Ok(false) => {}
            Err(refused) => {
                self.metrics.heartbeat(refused.as_str());
                log_limit.about(&refused, self.clock.now());
            }
        }
    }
}

/// Uninhabited: following ends only with an error.
enum FeedNeverEnds {}
