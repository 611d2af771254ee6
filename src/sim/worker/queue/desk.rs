//! What runs now, and how it is stopped.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::super::service::Shop;
use super::run::Bench;
use crate::redis::consumer::{Consumer, Entry};

/// The wait before cancels are listened to again after the connection broke.
const AGAIN: Duration = Duration::from_millis(200);
/// Stops of one run that may wait to be looked at; more would say the same.
const STOPS: usize = 4;

/// Why a run stops before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nobody wants the run of this epoch.
    Cancelled(u64),
    /// The entry is somebody else's.
    Lost,
}

/// The runs of one worker.
pub(super) struct Desk {
    pub(super) shop: Arc<Shop>,
    pub(super) consumer: Consumer,
    /// By the ids of their entries.
    runs: Mutex<HashMap<String, Handle>>,
}

struct Handle {
    job: String,
    stops: mpsc::Sender<Stop>,
}

/// A run's place among the others, left when it is dropped.
struct Seat<'a> {
    desk: &'a Desk,
    entry: &'a str,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.desk.runs.lock().remove(self.entry);
    }
}

impl Desk {
    pub(super) fn new(shop: Arc<Shop>, consumer: Consumer) -> Self {
        Self { shop, consumer, runs: Mutex::default() }
    }

    /// Runs the job that an entry leads to, to its end.
    pub(super) async fn work(&self, entry: &Entry) {
        let (stops, mut stopped) = mpsc::channel(STOPS);
        let handle = Handle { job: entry.job.clone(), stops };
        // A worker that slept may claim what it runs itself; then that goes on.
        if self.runs.lock().try_insert(entry.id.clone(), handle).is_err() {
            return;
        }
        let _seat = Seat { desk: self, entry: &entry.id };
        Bench { shop: &self.shop, consumer: &self.consumer }.work(entry, &mut stopped).await;
    }

    /// Says each interval that what runs still runs, and stops what is somebody else's.
    pub(super) async fn renew(self: Arc<Self>) {
        let mut ticks = interval(self.consumer.place().interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let entries: Vec<String> = self.runs.lock().keys().cloned().collect();
            if entries.is_empty() {
                continue;
            }
            match self.consumer.renew(&entries).await {
                Ok(lost) => {
                    let runs = self.runs.lock();
                    let lost = lost.iter().filter_map(|entry| runs.get(entry));
                    lost.for_each(|handle| handle.stop(Stop::Lost));
                }
                Err(error) => tracing::debug!(%error, "what runs could not be renewed"),
            }
        }
    }

    /// Stops what is cancelled. A cancel that is not heard is told with the next part of the answer.
    pub(super) async fn hear_cancels(self: Arc<Self>) {
        loop {
            let heard = self.consumer.hear_cancels(|job, epoch| {
                let runs = self.runs.lock();
                let run = runs.values().filter(|handle| handle.job == job);
                run.for_each(|handle| handle.stop(Stop::Cancelled(epoch)));
            });
            if let Err(error) = heard.await {
                tracing::debug!(%error, "cancels are not heard");
            }
            sleep(AGAIN).await;
        }
    }
}

impl Handle {
    fn stop(&self, stop: Stop) {
        // A run that has not looked yet, or has ended, needs no second word.
        self.stops.try_send(stop).unwrap_or_default();
    }
}
