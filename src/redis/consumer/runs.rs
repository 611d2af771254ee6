//! What runs now, and how it is stopped.

use std::fmt;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::run::{Bench, Engine};
use super::{Consumer, Entry};

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
pub struct Runs {
    consumer: Consumer,
    patience: Duration,
    /// By the ids of their entries.
    running: Mutex<HashMap<String, Handle>>,
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runs").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

struct Handle {
    job: String,
    stops: mpsc::Sender<Stop>,
}

/// A run's place among the others, left when it is dropped.
struct Seat<'a> {
    runs: &'a Runs,
    entry: &'a str,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.runs.running.lock().remove(self.entry);
    }
}

impl Runs {
    /// Nothing runs yet. A run is given up when Redis is away for `patience`, or till its job's deadline.
    #[must_use]
    pub fn new(consumer: Consumer, patience: Duration) -> Self {
        Self { consumer, patience, running: Mutex::default() }
    }

    /// The way to the queue.
    #[must_use]
    pub const fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// Has `engine` run the job that an entry leads to, to its end, and does what is to be done about the entry.
    pub async fn work(&self, entry: &Entry, engine: &impl Engine) {
        let (stops, mut stopped) = mpsc::channel(STOPS);
        let handle = Handle { job: entry.job.clone(), stops };
        // A worker that slept may claim what it runs itself; then that goes on.
        if self.running.lock().try_insert(entry.id.clone(), handle).is_err() {
            return;
        }
        let _seat = Seat { runs: self, entry: &entry.id };
        Bench { engine, consumer: &self.consumer, patience: self.patience }.work(entry, &mut stopped).await;
    }

    /// Whether nothing runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.lock().is_empty()
    }

    /// Says each interval that what runs still runs, and stops what is somebody else's.
    pub async fn renew(&self) {
        let mut ticks = interval(self.consumer.place().interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let entries: Vec<String> = self.running.lock().keys().cloned().collect();
            if entries.is_empty() {
                continue;
            }
            match self.consumer.renew(&entries).await {
                Ok(lost) => {
                    let runs = self.running.lock();
                    let lost = lost.iter().filter_map(|entry| runs.get(entry));
                    lost.for_each(|handle| handle.stop(Stop::Lost));
                }
                Err(error) => tracing::debug!(%error, "what runs could not be renewed"),
            }
        }
    }

    /// Stops what is cancelled. A cancel that is not heard is told with the next part of the answer.
    pub async fn hear_cancels(&self) {
        loop {
            let heard = self.consumer.hear_cancels(|job, epoch| {
                let runs = self.running.lock();
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
