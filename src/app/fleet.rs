//! Keeps the fleet in step with its workers: heartbeat feed → worker registry → snapshot.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::App;
use crate::clock::{Lag, Nanos};
use crate::config::Settings;
use crate::fleet::colour::Switches;
use crate::fleet::heartbeat::{Heartbeat, Key};
use crate::fleet::roster::{Report, Roll, Roster};
use crate::fleet::{Colours, Fleet, Standing};
use crate::redis::control::control_channel;
use crate::redis::feed::{Feed, Hearers};
use crate::shed::settings::GateSettings;

/// Poll interval for silent workers in the registry.
const LOOK: Duration = Duration::from_millis(100);
/// How long a starting gateway waits for Redis.
pub(super) const FIRST_WORD: Duration = Duration::from_secs(1);
/// Minimum time between two polls.
const PAUSE: Duration = Duration::from_millis(100);

/// State of the fleet sync beside the snapshot.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) roster: Arc<Mutex<Roster>>,
    lag: Lag,
    /// Colour switches in force.
    pub(super) switches: Arc<Mutex<Switches>>,
    /// Notified on news from the feed.
    changed: Arc<Notify>,
    /// Name of this gateway among those that follow switches.
    id: Arc<str>,
    /// Epochs of the snapshot as JSON, published to the other gateways.
    epochs: Arc<ArcSwap<String>>,
    /// Notified to reconnect to the feed.
    pub(super) anew: Notify,
    /// Notified on a reload.
    pub(super) reloaded: watch::Sender<()>,
    /// Inputs of the current snapshot.
    applied: Mutex<(Roll, Epochs, u32)>,
    /// Last heartbeat of each worker that its gate has received.
    told: Mutex<HashMap<Arc<str>, Arc<Heartbeat>>>,
}

impl Following {
    pub(super) fn new(settings: &Settings, id: Arc<str>, lag: &Lag) -> Self {
        Self {
            roster: Arc::new(Mutex::new(roster(settings, lag))),
            lag: lag.clone(),
            switches: Arc::new(Mutex::new(Switches::new(control(settings), key(settings)))),
            changed: Arc::default(),
            id,
            epochs: Arc::new(ArcSwap::from_pointee("{}".to_owned())),
            anew: Notify::new(),
            reloaded: watch::Sender::new(()),
            applied: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Takes new settings for the next snapshot.
    pub(super) fn retell(&self, settings: &Settings) {
        self.switches.lock().retell(control(settings), key(settings));
        let mut roster = self.roster.lock();
        match &settings.discovery {
            Some(discovery) => roster.retell(discovery.roster.clone(), settings.workers.clone()),
            // Otherwise workers that were once discovered would stay forever.
            None => *roster = self::roster(settings, &self.lag),
        }
    }

    /// Builds the fleet from `settings` and heartbeats, shared with `dams` gateways. Takes over
    /// gates and ledgers from `before`.
    pub(super) fn fleet(&self, settings: &Settings, dams: u32, before: &Fleet) -> Fleet {
        let mut roster = self.roster.lock();
        let roll = roster.roll();
        let (colours, epochs) = {
            let switches = self.switches.lock();
            (switches.colours(settings.active_colour.clone()), switches.epochs())
        };
        let standing = standing(settings, colours, &roll);
        *self.applied.lock() = (roll, epochs, dams);
        before.rebuilt(roster.specs(), GateSettings { dams, ..settings.gate.clone() }, standing)
    }

    fn is_current(&self, dams: u32) -> bool {
        let roll = self.roster.lock().roll();
        let epochs = self.switches.lock().epochs();
        (roll, epochs, dams) == *self.applied.lock()
    }

    /// Publishes the epochs of the latest snapshot as those in force.
    pub(super) fn publish(&self) {
        let epochs = &self.applied.lock().1;
        // A map of names to numbers always serializes.
        self.epochs.store(Arc::new(serde_json::to_string(epochs).unwrap_or_default()));
    }

    /// Returns the epoch of `pool` in the snapshot in force.
    pub(super) fn applied_epoch(&self, pool: &str) -> u64 {
        let epochs = self.epochs.load();
        let epochs: Epochs = serde_json::from_str(&epochs).unwrap_or_default();
        epochs.get(pool).copied().unwrap_or(0)
    }

    /// Signals news.
    pub(super) fn tell(&self) {
        self.changed.notify_one();
    }

    /// Passes worker reports to the gates: each heartbeat once, and weights when they change.
    fn hand_over(&self, fleet: &Fleet, dams: u32) {
        let reports = self.reports();
        let mut told = self.told.lock();
        told.retain(|id, _| reports.contains_key(id));
        for pool in fleet.pools() {
            for worker in pool.gate.snapshot().workers {
                let report = reports.get(&worker.id);
                let weight = report.map_or(1.0, |report| report.weight_of_one_seen(worker.answered));
                // Unchanged weights come from the same arithmetic, so they are equal.
                if (weight - worker.weight).abs() > f64::EPSILON {
                    pool.gate.weigh(&worker.id, weight);
                }
                let Some(report) = report else { continue };
                let news = told.insert(Arc::clone(&worker.id), Arc::clone(&report.beat));
                if !news.is_some_and(|before| Arc::ptr_eq(&before, &report.beat)) {
                    pool.gate.report(&worker.id, for_gate(report, worker.kv_tokens, dams));
                }
            }
        }
    }

    /// Returns the latest report of each worker.
    pub(super) fn reports(&self) -> HashMap<Arc<str>, Report> {
        let reports = self.roster.lock().reports();
        reports.into_iter().map(|report| (Arc::clone(&report.beat.worker), report)).collect()
    }
}

fn roster(settings: &Settings, lag: &Lag) -> Roster {
    let heard = settings.discovery.as_ref().map(|discovery| discovery.roster.clone());
    Roster::new(heard.unwrap_or_default(), settings.workers.clone()).with_lag(lag.clone())
}

/// Epochs by pool.
type Epochs = BTreeMap<Arc<str>, u64>;

fn control(settings: &Settings) -> Arc<str> {
    settings.discovery.as_ref().map(|discovery| control_channel(&discovery.redis.prefix)).unwrap_or_default()
}

fn key(settings: &Settings) -> Option<Key> {
    settings.discovery.as_ref()?.roster.key.clone()
}

/// Returns which workers are eligible.
pub(super) fn standing(settings: &Settings, colours: Colours, roll: &Roll) -> Standing {
    Standing { colours, held: roll.held.clone(), open: settings.discovery.is_some() }
}

/// Converts a report for the gate. It is valid, by the gate's clock, until the worker would count
/// as silent, so in a feed outage it soon expires. `dams` gateways share the cache in equal parts.
fn for_gate(report: &Report, kv_tokens: Option<u64>, dams: u32) -> crate::shed::Report {
    let beat = &report.beat;
    let used =
        |tokens: u64| beat.kv_used.map(|share| (share * tokens as f64) as u64 / u64::from(dams.max(1)));
    crate::shed::Report {
        kv_used: kv_tokens.and_then(used),
        running: beat.running,
        waiting: beat.waiting,
        valid_for: (beat.interval * 3).saturating_sub(report.age),
    }
}

impl App {
    /// Returns the number of gateways that share the workers. If several are configured, it is the
    /// number seen in Redis, if in use: the others take over the share of a dead gateway.
    pub(super) fn sharing_workers(&self, settings: &Settings) -> u32 {
        match &self.0.together {
            Some(together) if settings.gate.dams > 1 => together.store.dams().count(),
            _ => settings.gate.dams,
        }
    }

    fn is_current(&self) -> bool {
        self.0.following.is_current(self.sharing_workers(&self.0.live.load().settings))
    }

    /// Builds a new snapshot whenever eligibility has changed.
    pub(super) async fn follow_roster(self) {
        let following = &self.0.following;
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = following.changed.notified() => {}
            }
            if !self.is_current() {
                let _one_at_a_time = self.0.reloading.lock();
                let live = self.0.live.load();
                let dams = self.sharing_workers(&live.settings);
                let fleet = Arc::new(following.fleet(&live.settings, dams, &self.0.fleet.load()));
                self.0.fleet.store(Arc::clone(&fleet));
                fleet.take_over();
                following.publish();
            }
            let dams = self.sharing_workers(&self.0.live.load().settings);
            following.hand_over(&self.0.fleet.load(), dams);
            // A thousand workers send a thousand heartbeats a second: reading all of them ten times
            // a second is enough. The first one after an idle time is read at once.
            sleep(PAUSE).await;
        }
    }

    /// Follows the feed of the current settings.
    pub(super) async fn follow_feed(self) {
        let following = &self.0.following;
        let mut reloads = following.reloaded.subscribe();
        loop {
            let redis = self.redis();
            let moved = async {
                while self.redis() == redis {
                    // The sender lives as long as the gateway.
                    reloads.changed().await.ok();
                }
            };
            let Some(settings) = redis.clone() else {
                moved.await;
                continue;
            };
            let feed = Feed::new(
                settings,
                Hearers {
                    roster: Arc::clone(&following.roster),
                    switches: Arc::clone(&following.switches),
                    changed: Arc::clone(&following.changed),
                    id: Arc::clone(&following.id),
                    epochs: Arc::clone(&following.epochs),
                },
                Arc::clone(&self.0.metrics),
                self.0.clock.clone(),
            );
            tokio::select! {
                () = feed.run() => {}
                () = moved => {}
                () = following.anew.notified() => {}
            }
        }
    }

    /// Waits, but not for long, for the first state of the feed: without the active colours,
    /// requests would go to the wrong workers.
    pub(super) async fn catch_up(&self) {
        let caught_up = async {
            while self.feed_works() == Some(false) || !self.is_current() {
                sleep(PAUSE / 4).await;
            }
        };
        if timeout(FIRST_WORD, caught_up).await.is_err() {
            tracing::warn!("Redis does not answer; serving by the settings alone");
        }
    }

    /// Returns `true` if everything that the feed and Redis had at `time` is in force.
    pub(super) fn is_current_since(&self, time: Nanos) -> bool {
        let following = &self.0.following;
        let heard = self.redis().is_none() || following.roster.lock().caught_up_since(time);
        let counts = self.0.together.as_ref().is_none_or(|together| together.store.link().heard_since(time));
        let current = heard && counts && self.is_current();
        // A new snapshot is recorded before it is in force: wait for the lock.
        drop(self.0.reloading.lock());
        current
    }

    /// Redis of the heartbeat feed; `None` without discovery.
    pub(super) fn redis(&self) -> Option<crate::redis::settings::RedisSettings> {
        self.0.live.load().settings.discovery.as_ref().map(|discovery| discovery.redis.clone())
    }

    /// Redis reachable; `None` if Redis is not configured.
    pub(super) fn redis_works(&self) -> Option<bool> {
        let counts = self.0.together.as_ref().map(|together| together.store.link().is_up());
        match (self.feed_works(), counts) {
            (Some(hears), Some(counts)) => Some(hears && counts),
            (hears, counts) => hears.or(counts),
        }
    }

    /// Heartbeat feed working; `None` without discovery.
    pub(super) fn feed_works(&self) -> Option<bool> {
        self.redis()?;
        Some(self.0.following.roster.lock().hears(self.0.clock.now()))
    }
}
