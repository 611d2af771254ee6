//! The fleet follows its workers: from the feed to the roster, from the roster to the snapshot.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::App;
use crate::config::Settings;
use crate::fleet::roster::{Report, Roll, Roster};
use crate::fleet::{Colours, Fleet, Standing};
use crate::redis::feed::Feed;

/// How often the roster is looked at for workers that fell silent.
const LOOK: Duration = Duration::from_millis(100);

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
}

impl Following {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            roster: Arc::new(Mutex::new(roster(settings))),
            changed: Arc::default(),
            reloaded: watch::Sender::new(()),
            applied: Mutex::default(),
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
            if !following.is_current() {
                let _one_at_a_time = self.0.reloading.lock();
                let live = self.0.live.load();
                let fleet = Arc::new(following.fleet(&live.settings, &self.0.fleet.load()));
                self.0.fleet.store(Arc::clone(&fleet));
                fleet.take_over();
            }
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
