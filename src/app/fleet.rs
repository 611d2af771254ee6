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
use crate::fleet::colour::ColourSwitches;
use crate::fleet::heartbeat::{Heartbeat, SigningKey};
use crate::fleet::registry::{RegistryRevision, WorkerRegistry, WorkerReport};
use crate::fleet::{Colours, Eligibility, Fleet};
use crate::redis::control::control_channel;
use crate::redis::feed::{FeedSubscribers, HeartbeatFeed};
use crate::shed::settings::GateSettings;

/// Poll interval for silent workers in the registry.
const LOOK: Duration = Duration::from_millis(100);
/// How long a starting gateway waits for Redis.
pub(super) const FIRST_WORD: Duration = Duration::from_secs(1);
/// Minimum time between two polls.
const PAUSE: Duration = Duration::from_millis(100);

/// State of the fleet sync beside the snapshot.
#[derive(Debug)]
pub(super) struct FleetSync {
    pub(super) registry: Arc<Mutex<WorkerRegistry>>,
    /// Colour switches in force.
    pub(super) switches: Arc<Mutex<ColourSwitches>>,
    /// Notified on news from the feed, or from a discovery source.
    pub(super) changed: Arc<Notify>,
    /// Name of this gateway among those that follow switches.
    id: Arc<str>,
    /// Epochs of the snapshot as JSON, published to the other gateways.
    epochs: Arc<ArcSwap<String>>,
    /// Notified to reconnect to the feed.
    pub(super) anew: Notify,
    /// Notified on a reload.
    pub(super) reloaded: watch::Sender<()>,
    /// Inputs of the current snapshot.
    applied: Mutex<(RegistryRevision, Epochs, u32)>,
    /// Last heartbeat of each worker that its gate has received.
    passed: Mutex<HashMap<Arc<str>, Arc<Heartbeat>>>,
}

impl FleetSync {
    pub(super) fn new(settings: &Settings, id: Arc<str>, lag: &Lag) -> Self {
        Self {
            registry: Arc::new(Mutex::new(registry(settings, lag))),
            switches: Arc::new(Mutex::new(ColourSwitches::new(control(settings), key(settings)))),
            changed: Arc::default(),
            id,
            epochs: Arc::new(ArcSwap::from_pointee("{}".to_owned())),
            anew: Notify::new(),
            reloaded: watch::Sender::new(()),
            applied: Mutex::default(),
            passed: Mutex::default(),
        }
    }

    /// Takes new settings for the next snapshot.
    pub(super) fn apply_settings(&self, settings: &Settings) {
        self.switches.lock().apply_settings(control(settings), key(settings));
        let mut registry = self.registry.lock();
        if settings.discovery.is_none() {
            // Otherwise workers that once sent heartbeats would stay forever.
            registry.forget_heartbeats();
        }
        registry.apply_settings(settings.registry.clone(), settings.workers.clone());
    }

    /// Builds the fleet from `settings` and heartbeats, shared with `gateways` gateways. Takes over
    /// gates and ledgers from `before`.
    pub(super) fn fleet(&self, settings: &Settings, gateways: u32, before: &Fleet) -> Fleet {
        let (colours, epochs, named) = {
            let switches = self.switches.lock();
            (colours(settings, &switches), switches.epochs(), switches.named_versions())
        };
        let mut registry = self.registry.lock();
        registry.name_versions(named);
        let revision = registry.expire_and_revise();
        let eligibility = eligibility(settings, colours, &revision);
        *self.applied.lock() = (revision, epochs, gateways);
        before.rebuilt(registry.specs(), GateSettings { gateways, ..settings.gate.clone() }, eligibility)
    }

    /// Returns the colours in force.
    pub(super) fn colours(&self, settings: &Settings) -> Colours {
        colours(settings, &self.switches.lock())
    }

    fn is_current(&self, gateways: u32) -> bool {
        let revision = self.registry.lock().expire_and_revise();
        let epochs = self.switches.lock().epochs();
        (revision, epochs, gateways) == *self.applied.lock()
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

    /// Returns the name of this gateway among those that follow switches.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Signals news.
    pub(super) fn tell(&self) {
        self.changed.notify_one();
    }

    /// Passes worker reports to the gates: each heartbeat once, and weights when they change.
    fn pass_reports(&self, fleet: &Fleet, gateways: u32) {
        let reports = self.reports();
        let mut passed = self.passed.lock();
        passed.retain(|id, _| reports.contains_key(id));
        for pool in fleet.pools() {
            for worker in pool.gate.snapshot().workers {
                let report = reports.get(&worker.id);
                let weight = report.map_or(1.0, |report| report.weight_if_answering(worker.answered));
                // Unchanged weights come from the same arithmetic, so they are equal.
                if (weight - worker.weight).abs() > f64::EPSILON {
                    pool.gate.weigh(&worker.id, weight);
                }
                let Some(report) = report else { continue };
                let news = passed.insert(Arc::clone(&worker.id), Arc::clone(&report.beat));
                if !news.is_some_and(|before| Arc::ptr_eq(&before, &report.beat)) {
                    pool.gate.report(&worker.id, for_gate(report, worker.kv_tokens, gateways));
                }
            }
        }
    }

    /// Returns the latest report of each worker.
    pub(super) fn reports(&self) -> HashMap<Arc<str>, WorkerReport> {
        let reports = self.registry.lock().reports();
        reports.into_iter().map(|report| (Arc::clone(&report.beat.worker), report)).collect()
    }
}

fn registry(settings: &Settings, lag: &Lag) -> WorkerRegistry {
    WorkerRegistry::new(settings.registry.clone(), settings.workers.clone()).with_lag(lag.clone())
}

/// Returns the colours that receive work; with a queue, the sides.
fn colours(settings: &Settings, switches: &ColourSwitches) -> Colours {
    let default_colour = settings.active_colour.clone();
    if has_queue(settings) { switches.sides(default_colour) } else { switches.colours(default_colour) }
}

/// Returns `true` if workers take their work from a queue.
pub(super) fn has_queue(settings: &Settings) -> bool {
    settings.registry.queue
}

/// Epochs by pool.
type Epochs = BTreeMap<Arc<str>, u64>;

fn control(settings: &Settings) -> Arc<str> {
    settings.discovery.as_ref().map(|discovery| control_channel(&discovery.redis.prefix)).unwrap_or_default()
}

pub(super) fn key(settings: &Settings) -> Option<SigningKey> {
    settings.registry.key.clone()
}

/// Returns which workers are eligible.
pub(super) fn eligibility(settings: &Settings, colours: Colours, revision: &RegistryRevision) -> Eligibility {
    Eligibility {
        colours,
        held: revision.held.clone(),
        unverified: revision.unverified.clone(),
        workers_may_join: settings.workers_may_join(),
    }
}

/// Converts a report for the gate. It is valid, by the gate's clock, until the worker would count
/// as silent, so in a feed outage it soon expires. `gateways` gateways share the cache in equal parts.
fn for_gate(report: &WorkerReport, kv_tokens: Option<u64>, gateways: u32) -> crate::shed::LoadReport {
    let beat = &report.beat;
    let used =
        |tokens: u64| beat.kv_used.map(|share| (share * tokens as f64) as u64 / u64::from(gateways.max(1)));
    crate::shed::LoadReport {
        kv_used: kv_tokens.and_then(used),
        running: beat.running,
        waiting: beat.waiting,
        valid_for: (beat.interval * 3).saturating_sub(report.age),
    }
}

impl App {
    /// Returns the number of gateways that share the workers. If several are configured, it is the
    /// number seen in Redis, if in use: the others take over the share of a dead gateway, and of one
    /// that drains, which gets no new requests. What that one still has comes on top for so long.
    pub(super) fn sharing_workers(&self, settings: &Settings) -> u32 {
        match &self.0.redis_parts {
            Some(redis_parts) if settings.gate.gateways > 1 => redis_parts.store.gateways().serving(),
            _ => settings.gate.gateways,
        }
    }

    fn is_current(&self) -> bool {
        self.0.fleet_sync.is_current(self.sharing_workers(&self.0.live.load().settings))
    }

    /// Builds a new snapshot whenever eligibility has changed.
    pub(super) async fn follow_roster(self) {
        let fleet_sync = &self.0.fleet_sync;
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = fleet_sync.changed.notified() => {}
            }
            fleet_sync.registry.lock().tick(self.0.clock.now());
            if !self.is_current() {
                let _one_at_a_time = self.0.reloading.lock();
                let live = self.0.live.load();
                let gateways = self.sharing_workers(&live.settings);
                let fleet = Arc::new(fleet_sync.fleet(&live.settings, gateways, &self.0.fleet.load()));
                self.0.fleet.store(Arc::clone(&fleet));
                fleet.take_over();
                fleet_sync.publish();
            }
            let gateways = self.sharing_workers(&self.0.live.load().settings);
            fleet_sync.pass_reports(&self.0.fleet.load(), gateways);
            // A thousand workers send a thousand heartbeats a second: reading all of them ten times
            // a second is enough. The first one after an idle time is read at once.
            sleep(PAUSE).await;
        }
    }

    /// Follows the feed of the current settings.
    pub(super) async fn follow_feed(self) {
        let fleet_sync = &self.0.fleet_sync;
        let mut reloads = fleet_sync.reloaded.subscribe();
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
            let feed = HeartbeatFeed::new(
                settings,
                FeedSubscribers {
                    registry: Arc::clone(&fleet_sync.registry),
                    switches: Arc::clone(&fleet_sync.switches),
                    changed: Arc::clone(&fleet_sync.changed),
                    id: Arc::clone(&fleet_sync.id),
                    epochs: Arc::clone(&fleet_sync.epochs),
                },
                Arc::clone(&self.0.metrics),
                self.0.clock.clone(),
            );
            tokio::select! {
                () = feed.run() => {}
                () = moved => {}
                () = fleet_sync.anew.notified() => {}
            }
        }
    }

    /// Waits, but not for long, for the first state of the feed and of other sources: without the
    /// active colours, requests would go to the wrong workers.
    pub(super) async fn catch_up(&self) {
        let awaited = || self.0.fleet_sync.registry.lock().awaited_targets();
        let caught_up = async {
            while self.feed_works() == Some(false) || !self.is_current() || !awaited().is_empty() {
                sleep(PAUSE / 4).await;
            }
        };
        if timeout(FIRST_WORD, caught_up).await.is_err() {
            if self.feed_works() == Some(false) {
                tracing::warn!("Redis does not answer; using only the settings");
            }
            for target in awaited() {
                let (source, target) = (target.source.as_str(), &*target.name);
                tracing::warn!(source, target, "no answer yet; the gateway is not ready until there is one");
            }
        }
    }

    /// Returns `true` if everything that the feed and Redis had at `time` is in force.
    pub(super) fn is_current_since(&self, time: Nanos) -> bool {
        let fleet_sync = &self.0.fleet_sync;
        let heard = self.redis().is_none() || fleet_sync.registry.lock().caught_up_since(time);
        let counts =
            self.0.redis_parts.as_ref().is_none_or(|redis_parts| redis_parts.store.link().heard_since(time));
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
        let counts = self.0.redis_parts.as_ref().map(|redis_parts| redis_parts.store.link().is_up());
        match (self.feed_works(), counts) {
            (Some(hears), Some(counts)) => Some(hears && counts),
            (hears, counts) => hears.or(counts),
        }
    }

    /// Heartbeat feed working; `None` without discovery.
    pub(super) fn feed_works(&self) -> Option<bool> {
        self.redis()?;
        Some(self.0.fleet_sync.registry.lock().feed_works(self.0.clock.now()))
    }
}
