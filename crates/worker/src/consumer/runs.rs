//! Active runs of a worker: renews and stops them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use redis::RedisResult;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::run::{AnswerEngine, RunContext, RunStop};
use super::trust::Trust;
use super::{Consumer, StreamEntry};

/// Pause before resubscribing to cancels after the connection broke.
const AGAIN: Duration = Duration::from_millis(200);
/// Queued stops per run; more would say the same.
const STOPS: usize = 4;

/// Active runs of one worker.
pub struct Runs {
    consumer: Consumer,
    patience: Duration,
    /// By side and entry id.
    running: Mutex<HashMap<RunKey, RunHandle>>,
    trust: Trust,
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runs").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

/// A side, and the id of an entry in its stream.
type RunKey = (Arc<str>, String);

struct RunHandle {
    job: String,
    stops: mpsc::Sender<RunStop>,
}

/// Registration of a run, removed on drop.
struct RunSlot<'a> {
    runs: &'a Runs,
    key: RunKey,
}

impl Drop for RunSlot<'_> {
    fn drop(&mut self) {
        self.runs.running.lock().remove(&self.key);
    }
}

impl Runs {
    /// Creates an empty set. A run ends if Redis is away for `patience` or past the job's deadline.
    #[must_use]
    pub fn new(consumer: Consumer, patience: Duration) -> Self {
        Self { consumer, patience, running: Mutex::default(), trust: Trust::default() }
    }

    /// Returns the consumer.
    #[must_use]
    pub const fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// Runs the job of an entry on `engine` to its end, and then handles the entry.
    pub async fn work(&self, entry: &StreamEntry, engine: &impl AnswerEngine) {
        let (stops, mut stopped) = mpsc::channel(STOPS);
        let handle = RunHandle { job: entry.job.clone(), stops };
        // A worker that was suspended may claim an entry that it still runs; that run continues.
        let key = (Arc::clone(&entry.side), entry.id.clone());
        if self.running.lock().try_insert(key.clone(), handle).is_err() {
            return;
        }
        let _slot = RunSlot { runs: self, key };
        RunContext { engine, consumer: &self.consumer, patience: self.patience, trust: &self.trust }
            .work(entry, &mut stopped)
            .await;
    }

    /// Returns until when the worker should take no jobs, because it could not run the latest ones.
    pub(crate) fn pauses_until(&self) -> Option<Instant> {
        self.trust.until()
    }

    /// Returns `true` if there are no active runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.lock().is_empty()
    }

    /// Renews the active runs each interval, and stops those that another worker holds or that Redis has
    /// lost.
    pub async fn renew(&self) {
        let mut ticks = interval(self.consumer.place().interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut sides: BTreeMap<Arc<str>, Vec<String>> = BTreeMap::new();
            for (side, entry) in self.running.lock().keys() {
                sides.entry(Arc::clone(side)).or_default().push(entry.clone());
            }
            for (side, entries) in sides {
                if let Err(error) = self.renew_of(&side, entries).await {
                    tracing::debug!(%error, "could not renew active runs");
                }
            }
        }
    }

    /// Renews the runs of one side.
    async fn renew_of(&self, side: &Arc<str>, entries: Vec<String>) -> RedisResult<()> {
        let lost = match self.consumer.renew(side, &entries).await {
            // Redis has lost the stream. While all slots are in use, nobody reads and joins again.
            Err(error) if error.code() == Some("NOGROUP") => {
                self.consumer.join().await?;
                entries
            }
            renewed => renewed?,
        };
        for entry in lost {
            let key = (Arc::clone(side), entry);
            let Some(job) = self.running.lock().get(&key).map(|handle| handle.job.clone()) else { continue };
            // If only the stream was lost, nobody else can take the job: the run goes on.
            if !self.consumer.is_running(&job).await?
                && let Some(handle) = self.running.lock().get(&key)
            {
                handle.stop(RunStop::Lost);
            }
        }
        Ok(())
    }

    /// Stops cancelled runs. A cancel that is lost is reported by the next `emit`.
    pub async fn hear_cancels(&self) {
        loop {
            let heard = self.consumer.hear_cancels(|job, epoch| {
                let runs = self.running.lock();
                let run = runs.values().filter(|handle| handle.job == job);
                run.for_each(|handle| handle.stop(RunStop::Cancelled(epoch)));
            });
            if let Err(error) = heard.await {
                tracing::debug!(%error, "cancel subscription is down");
            }
            sleep(AGAIN).await;
        }
    }
}

impl RunHandle {
    fn stop(&self, stop: RunStop) {
        // If the queue is full the run already has a stop; if it is closed the run has ended.
        self.stops.try_send(stop).unwrap_or_default();
    }
}
