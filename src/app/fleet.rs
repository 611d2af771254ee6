//! The fleet follows its workers: from the feed to the roster, from the roster to the snapshot.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::App;
use crate::config::Settings;
use crate::fleet::heartbeat::Heartbeat;
use crate::fleet::roster::{Report, Roll, Roster};
use crate::fleet::{Colours, Fleet, Standing};
use crate::redis::feed::Feed;

/// How often the roster is looked at for workers that fell silent.
const LOOK: Duration = Duration::from_millis(100);
/// The least time between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// What is known of the workers beside the snapshot.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) roster: Arc<Mutex<Roster>>,
    /// Told when a heartbeat was news.
    changed: Arc<Notify>,
    /// Told when there are new settings.
    pub(super) reloaded: watch::Sender<()>,
    /// What the snapshot was made of.
    applied: Mutex<Roll>,
    /// The last heartbeat of each worker that its gate was told of.
    told: Mutex<HashMap<Arc<str>, Arc<Heartbeat>>>,
}

impl Following {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            roster: Arc::new(Mutex::new(roster(settings))),
            changed: Arc::default(),
            reloaded: watch::Sender::new(()),
            applied: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Takes new settings, for the next snapshot.
    pub(super) fn retell(&self, settings: &Settings) {
        let mut roster = self.roster.lock();
        match &settings.discovery {
            Some(discovery) => roster.retell(discovery.roster.clone(), settings.workers.clone()),
            // What was heard once would stand for ever.
            None => *roster = self::roster(settings),
        }
    }

    /// The fleet of `settings` and of what was heard. With `before` it takes over gates and ledgers.
    pub(super) fn fleet(&self, settings: &Settings, before: &Fleet) -> Fleet {
        let mut roster = self.roster.lock();
        let roll = roster.roll();
        let standing = standing(settings, &roll);
        *self.applied.lock() = roll;
        before.rebuilt(roster.specs(), settings.gate.clone(), standing)
    }

    fn is_current(&self) -> bool {
        self.roster.lock().roll() == *self.applied.lock()
    }

    /// Tells the gates what the workers say of themselves: each heartbeat once, and weights when they change.
    fn hand_over(&self, fleet: &Fleet, dams: u32) {
        let reports = self.reports();
        let mut told = self.told.lock();
        told.retain(|id, _| reports.contains_key(id));
        for pool in fleet.pools() {
            for worker in pool.gate.snapshot().workers {
                let report = reports.get(&worker.id);
                let weight = report.map_or(1.0, |report| report.weight_of_one_seen(worker.answered));
                // Both come from the same arithmetic, or are the same number.
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

    /// What the workers say of themselves.
    pub(super) fn reports(&self) -> HashMap<Arc<str>, Report> {
        let reports = self.roster.lock().reports();
        reports.into_iter().map(|report| (Arc::clone(&report.beat.worker), report)).collect()
    }
}

fn roster(settings: &Settings) -> Roster {
    let heard = settings.discovery.as_ref().map(|discovery| discovery.roster.clone());
    Roster::new(heard.unwrap_or_default(), settings.workers.clone())
}

/// Who may take work.
pub(super) fn standing(settings: &Settings, roll: &Roll) -> Standing {
    Standing {
        colours: Colours { everywhere: settings.active_colour.clone(), ..Colours::default() },
        held: roll.held.clone(),
        open: settings.discovery.is_some(),
    }
}

/// A report as a gate takes it. It counts as long as the worker is not taken for silent, by the clock of the gate, so
/// that in an outage of the feed it soon says nothing more. Of a cache that `dams` gateways share, each has its part.
fn for_gate(report: &Report, kv_tokens: Option<u64>, dams: u32) -> crate::shed::Report {
    let beat = &report.beat;
    let used =
        |tokens: u64| beat.kv_used.map(|share| (share * tokens as f64) as u64 / u64::from(dams.max(1)));
    crate::shed::Report {
        kv_used: kv_tokens.and_then(used),
        waiting: beat.waiting,
        valid_for: (beat.interval * 3).saturating_sub(report.age),
    }
}

impl App {
    /// Makes a new snapshot whenever who gets work has changed.
    pub(super) async fn follow_roster(self) {
        let following = &self.0.following;
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = following.changed.notified() => {}
            }
            // A thousand workers speak a thousand times a second; looking at all of them fifty times is enough.
            sleep(PAUSE).await;
            if !following.is_current() {
                let _one_at_a_time = self.0.reloading.lock();
                let live = self.0.live.load();
                let fleet = Arc::new(following.fleet(&live.settings, &self.0.fleet.load()));
                self.0.fleet.store(Arc::clone(&fleet));
                fleet.take_over();
            }
            let dams = self.0.live.load().settings.gate.dams;
            following.hand_over(&self.0.fleet.load(), dams);
        }
    }

    /// Follows the feed that the settings of the moment name.
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
                Arc::clone(&following.roster),
                Arc::clone(&following.changed),
                Arc::clone(&self.0.metrics),
                self.0.clock.clone(),
            );
            tokio::select! {
                () = feed.run() => {}
                () = moved => {}
            }
        }
    }

    /// Where heartbeats come from, if they are heard.
    fn redis(&self) -> Option<crate::redis::settings::RedisSettings> {
        self.0.live.load().settings.discovery.as_ref().map(|discovery| discovery.redis.clone())
    }

    /// Whether the feed of heartbeats works; nothing when there is none.
    pub(super) fn feed_works(&self) -> Option<bool> {
        self.redis()?;
        Some(self.0.following.roster.lock().hears(self.0.clock.now()))
    }
}
