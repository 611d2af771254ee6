//! The colours of a pool, as their streams show them: who reads them, and moving jobs between them.
//!
//! A job belongs to one colour, and only that colour's workers can start it. If no worker of the
//! colour is left, the jobs that nobody has started are given to the colour that took over. A job
//! that a lost worker has started cannot continue at another version: it ends.
//!
//! Both halves of a move may be repeated, by this gateway or another: first the job's hash names
//! the new colour, so that a worker of the old one refuses it, then its entry moves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::cmd;

use super::answers::RecolourOutcome;
use super::keys::{Job, Side};
use super::{JobQueue, PATIENCE};
use crate::metrics::RedisOp;
use crate::redis::link::RedisLoss;
use crate::redis::millis;
use crate::redis::odd::lossy;

/// Entries looked at per call; the rest follows with the next one.
const MOST: usize = 256;

/// A worker's own stream, for the next turn of a session that it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnStream {
    /// The worker's pool.
    pub pool: Arc<str>,
    /// The sides whose jobs it takes.
    pub takes: Vec<Arc<str>>,
    /// The side that is the worker alone.
    pub side: Arc<str>,
    /// Jobs that it runs at once. Up to as many more may wait in its stream, each for a short time.
    pub slots: u32,
}

impl OwnStream {
    /// Returns how many jobs may be in the stream: with only as many as can run, a turn that comes
    /// while all slots are in use would go to another worker at once.
    pub(super) const fn bound(&self) -> u32 {
        self.slots.saturating_mul(2)
    }
}

/// What happens to jobs of a side without workers that a lost worker has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Started {
    /// They end with an error: no other version may continue.
    End = 1,
    /// They move too: another worker of the same version may run them.
    Move = 2,
}

/// Result of moving the jobs of a colour that has no worker left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MovedJobs {
    /// Jobs that now belong to the other colour.
    pub moved: usize,
    /// Jobs that a lost worker had started, and that have ended with an error.
    pub ended: usize,
}

/// The id of an entry of a stream, and its fields.
pub(super) type StreamedEntry = (String, Vec<(Vec<u8>, Vec<u8>)>);

impl JobQueue {
    /// Returns the names that have read from the stream of `side`, or renewed an entry in it,
    /// within the time `recent`; ten times that if it holds an entry.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn readers(&self, side: &Side, recent: Duration) -> Result<Vec<String>, RedisLoss> {
        let inner = &*self.0;
        let mut call = inner.scripts.readers.key(inner.keys.stream(side));
        call.arg(millis(recent));
        let names: Vec<Vec<u8>> = inner.link.run(RedisOp::Jobs, PATIENCE, &call).await?;
        // Also a process whose name is no text takes jobs, so it is to be seen.
        Ok(names.iter().map(|name| lossy(name)).collect())
    }

    /// Sets the workers that read a stream of their own.
    pub(crate) fn set_own_streams(&self, streams: HashMap<Arc<str>, OwnStream>) {
        self.0.own_streams.store(Arc::new(streams));
    }

    /// Returns the own stream of `worker` if it takes the jobs of `side`.
    #[must_use]
    pub(crate) fn own_stream(&self, worker: &str, side: &Side) -> Option<OwnStream> {
        let streams = self.0.own_streams.load();
        let stream = streams.get(worker).filter(|stream| stream.pool == side.pool)?;
        stream.takes.contains(&side.colour).then(|| stream.clone())
    }

    /// Gives one job to another side, unless a worker has started it.
    pub(super) async fn give_to(
        &self,
        job: Job,
        entry: &str,
        from: &Side,
        to: &Side,
    ) -> Result<(), RedisLoss> {
        let inner = &*self.0;
        let mut call = inner.scripts.recolour.key(inner.keys.job(job));
        call.key(inner.keys.reply(job)).arg(&inner.keys.replies).arg(job);
        call.arg(&*from.colour).arg(&*to.colour).arg("");
        let outcome: RecolourOutcome = inner.link.run(RedisOp::Jobs, PATIENCE, &call).await?;
        if outcome == RecolourOutcome::Moved {
            self.move_entry(from, to, entry, job, 0).await?;
        }
        Ok(())
    }

    /// Gives the jobs of `from` that no worker has started to `to`, and treats those that were
    /// started and not renewed for `abandoned` as `started` says. Looks at 256 jobs at most.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if a command to Redis fails. What was moved until then stays moved.
    pub(crate) async fn move_jobs(
        &self,
        from: &Side,
        to: &Side,
        abandoned: Duration,
        started: Started,
    ) -> Result<MovedJobs, RedisLoss> {
        let inner = &*self.0;
        let idle = millis(abandoned);
        let stream = inner.keys.stream(from);
        let mut range = cmd("XRANGE");
        range.arg(&stream).arg("-").arg("+").arg("COUNT").arg(MOST);
        let entries: Vec<StreamedEntry> = inner.link.call_within(RedisOp::Jobs, PATIENCE, &range).await?;
        let mut done = MovedJobs::default();
        if entries.is_empty() {
            return Ok(done);
        }
        // Without a group nothing was delivered. If Redis has failed, so do the next commands.
        let held = self.held(&stream).await.unwrap_or_default();
        let read = |(entry, fields): StreamedEntry| {
            let (_, job) = fields.into_iter().find(|(name, _)| name == b"job")?;
            Some((entry, Job::from_bytes(&job)?))
        };
        for (entry, job) in inner.unreadable.skip(&stream, entries, read) {
            let renewed = held.iter().find(|(id, _)| *id == entry).map(|(_, idle)| *idle);
            // A worker that is alive holds it: it starts the job, or hands it back.
            if renewed.is_some_and(|since| since < idle) {
                continue;
            }
            let mut call = inner.scripts.recolour.key(inner.keys.job(job));
            call.key(inner.keys.reply(job)).arg(&inner.keys.replies).arg(job);
            call.arg(&*from.colour).arg(&*to.colour);
            call.arg(if renewed.is_some() { started as u8 } else { 0 });
            let dead = match inner.link.run(RedisOp::Jobs, PATIENCE, &call).await? {
                RecolourOutcome::Moved => {
                    done.moved += usize::from(self.move_entry(from, to, &entry, job, idle).await?);
                    continue;
                }
                RecolourOutcome::Running => continue,
                RecolourOutcome::Ended => None,
                RecolourOutcome::Dead { error, keep_ms } => Some((error, keep_ms)),
            };
            let mut call = inner.scripts.end.key(&stream);
            call.key(inner.keys.dead(&from.pool)).arg(&entry).arg(job);
            match dead {
                Some((error, keep_ms)) => call.arg(error).arg(keep_ms),
                None => call.arg(""),
            };
            inner.link.run::<i64>(RedisOp::Jobs, PATIENCE, &call).await?;
            done.ended += 1;
        }
        Ok(done)
    }

    /// Returns the delivered entries of a stream, and the ms since each was renewed.
    async fn held(&self, stream: &str) -> Result<Vec<(String, u64)>, RedisLoss> {
        let mut pending = cmd("XPENDING");
        pending.arg(stream).arg("workers").arg("-").arg("+").arg(MOST);
        let held: Vec<(String, Vec<u8>, u64, u64)> =
            self.0.link.call_within(RedisOp::Jobs, PATIENCE, &pending).await?;
        Ok(held.into_iter().map(|(entry, _, idle, _)| (entry, idle)).collect())
    }

    async fn move_entry(
        &self,
        from: &Side,
        to: &Side,
        entry: &str,
        job: Job,
        idle: u64,
    ) -> Result<bool, RedisLoss> {
        let inner = &*self.0;
        let mut call = inner.scripts.move_entry.key(inner.keys.stream(from));
        call.key(inner.keys.stream(to)).arg(entry).arg(job).arg(&*to.colour).arg(idle);
        let moved: Option<String> = inner.link.run(RedisOp::Enqueue, PATIENCE, &call).await?;
        Ok(moved.is_some())
    }
}
