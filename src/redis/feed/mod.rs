//! The feed of heartbeats, from Redis to the roster.
//!
//! Pub/sub loses what is published while nobody listens, so each connection subscribes *first* and then reads the keys
//! under which the last heartbeats stand; what comes in between is known twice and counts once. A connection is
//! asked for a sign of life four times within the time after which the roster takes the feed for dead: with TCP alone
//! a Redis that hangs looks like a fleet that has nothing to say.
//!
//! * **Failure mode.** Redis is away: the roster's ages stand still, the fleet stays as it is, the log and the metrics
//!   say so. Redis is back, maybe empty: nothing is taken away; whoever lives says so with the next heartbeat.
//! * **Trade-off.** A connection of its own, besides that for commands: messages come on it in pushes of RESP3 (Redis 6
//!   and later), and a slow command must not hold them up.

mod backoff;
mod complaints;
mod keys;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use fastrand::Rng;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisError, RedisResult, Value, cmd};
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::backoff::Backoff;
use self::complaints::Complaints;
use super::connect::{Connection, beside};
use super::control::{Control, control_channel};
use super::pushes;
use super::settings::RedisSettings;
use crate::clock::{Clock, unix_millis};
use crate::fleet::colour::Switches;
use crate::fleet::roster::{GAP, Refused, Roster, Source};
use crate::metrics::Metrics;

/// How long a connection may take to be made, and a command to be answered.
const PATIENCE: Duration = GAP;
/// How often a sign of life is asked for.
const ASK: Duration = Duration::from_millis(250);
/// Messages that may wait to be handled, some seconds' worth of a thousand workers. What comes beyond is lost, and the
/// next heartbeat says it again.
const WAITING: usize = 4096;

/// The feed of one gateway.
pub struct Feed {
    settings: RedisSettings,
    channel: Arc<str>,
    control: Arc<str>,
    hearers: Hearers,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Who hears what the feed brings.
#[derive(Clone, Debug)]
pub struct Hearers {
    /// Hears heartbeats.
    pub roster: Arc<Mutex<Roster>>,
    /// Hears switches of colours.
    pub switches: Arc<Mutex<Switches>>,
    /// Notified when something was news.
    pub changed: Arc<Notify>,
    /// What this gateway is called among those that follow switches.
    pub id: Arc<str>,
    /// The epochs that its snapshot follows, as JSON by pool.
    pub epochs: Arc<ArcSwap<String>>,
}

/// The channel on which heartbeats come.
#[must_use]
pub fn health_channel(prefix: &str) -> Arc<str> {
    format!("{prefix}:health").into()
}

impl Feed {
    /// A feed to `hearers`.
    #[must_use]
    pub fn new(settings: RedisSettings, hearers: Hearers, metrics: Arc<Metrics>, clock: Clock) -> Self {
        let channel = health_channel(&settings.prefix);
        let control = control_channel(&settings.prefix);
        Self { settings, channel, control, hearers, metrics, clock }
    }

    /// Follows the feed for ever, through every outage.
    pub async fn run(self) {
        let mut backoff = Backoff::default();
        let mut random = Rng::new();
        let mut complaints = Complaints::default();
        let mut told = false;
        loop {
            let Err(error) = self.follow(&mut backoff, &mut told, &mut complaints).await;
            if !told {
                tracing::warn!(%error, "the feed of heartbeats is down; the fleet stays as it is");
                told = true;
            }
            sleep(backoff.next(&mut random)).await;
        }
    }

    /// Follows one connection to its end.
    async fn follow(
        &self,
        backoff: &mut Backoff,
        told: &mut bool,
        complaints: &mut Complaints,
    ) -> Result<Never, RedisError> {
        let (sender, mut pushes) = mpsc::channel(WAITING);
        let mut listening = pushes::connect(&self.settings, PATIENCE, sender, || ()).await?;
        listening.subscribe(&[&*self.channel, &*self.control]).await?;
        let mut connection = beside(&listening, &self.settings, PATIENCE).await?;
        // Colours before anything may be said about them: whoever counts as following knows them all.
        self.catch_up(&connection).await?;
        let asked = self.clock.now();
        let kept = keys::read(&mut connection, &self.settings.prefix).await?;
        let count = kept.len();
        let heard: Vec<_> = {
            // At once: who sees that the feed works sees what it brought.
            let mut roster = self.hearers.roster.lock();
            roster.caught_up(asked);
            let hear = |kept: keys::Kept| {
                roster.hear(&kept.text, Source::Key(kept.left), self.clock.now(), unix_millis())
            };
            kept.into_iter().map(hear).collect()
        };
        for heard in heard {
            self.note(heard, complaints);
        }
        if *told {
            tracing::info!(workers = count, "the feed of heartbeats is back");
        }
        *told = false;
        backoff.reset();

        let mut signs = std::pin::pin!(self.ask_for_signs(listening, connection));
        loop {
            tokio::select! {
                error = &mut signs => return Err(error),
                push = pushes.recv() => match push {
                    Some(PushInfo { kind: PushKind::Message, data }) => {
                        if let [Value::BulkString(channel), Value::BulkString(text)] = &data[..] {
                            if *channel == self.control.as_bytes() {
                                self.hear_switch(text);
                            } else {
                                let now = self.clock.now();
                                let mut roster = self.hearers.roster.lock();
                                let heard = roster.hear(text, Source::Channel, now, unix_millis());
                                drop(roster);
                                self.note(heard, complaints);
                            }
                        }
                    }
                    Some(PushInfo { kind: PushKind::Disconnection, .. }) | None => return Err(pushes::gone()),
                    Some(_) => {}
                },
            }
        }
    }

    /// Reads the switches that were told while nobody listened, and puts back those that Redis has lost.
    async fn catch_up(&self, connection: &Connection) -> RedisResult<()> {
        let mut control = Control::on(connection.clone(), Arc::clone(&self.settings.prefix));
        for text in control.kept().await? {
            self.hear_switch(&text);
        }
        let followed: Vec<_> = {
            let switches = self.hearers.switches.lock();
            switches.all().map(|switch| (switches.write(&switch), switch)).collect()
        };
        for (text, switch) in followed {
            control.tell(&switch.pool, switch.epoch, &text).await?;
        }
        Ok(())
    }

    fn hear_switch(&self, text: &[u8]) {
        match self.hearers.switches.lock().hear(text) {
            Ok(true) => self.hearers.changed.notify_one(),
            Ok(false) => {}
            Err(fault) => tracing::warn!("a switch of colours was not taken: {fault}"),
        }
    }

    /// Says which switches are followed, which is the sign of life that is asked for, until it is not answered.
    async fn ask_for_signs(
        &self,
        mut listening: MultiplexedConnection,
        connection: Connection,
    ) -> RedisError {
        let elsewhere = connection.is_spread();
        let mut control = Control::on(connection, Arc::clone(&self.settings.prefix));
        let mut ticks = interval(ASK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let asked = self.clock.now();
            if elsewhere && let Err(error) = cmd("PING").query_async::<()>(&mut listening).await {
                return error;
            }
            let epochs = self.hearers.epochs.load_full();
            match control.follow(&self.hearers.id, &epochs).await {
                // What was published before this was asked for has come before the answer.
                Ok(()) => self.hearers.roster.lock().alive(asked),
                // The answer may have come while nobody here could read it.
                Err(error) if error.is_timeout() && self.clock.was_late_since(asked) => {}
                Err(error) => return error,
            }
        }
    }

    /// Counts what became of a heartbeat, and has others look at what is news.
    fn note(&self, heard: Result<bool, Refused>, complaints: &mut Complaints) {
        match heard {
            Ok(true) => {
                self.metrics.heartbeat("taken");
                self.hearers.changed.notify_one();
            }
            Ok(false) => {}
            Err(refused) => {
                self.metrics.heartbeat(refused.as_str());
                complaints.about(&refused, self.clock.now());
            }
        }
    }
}

/// There is no end but an error.
enum Never {}
