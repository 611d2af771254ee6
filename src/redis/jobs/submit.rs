//! Enqueues jobs for workers.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::afterwards::{Errand, Why};
use super::entry::{Entry, Kind, Place};
use super::keys::{Job, Side};
use super::lookout::Lookout;
use super::reader::Reader;
use super::request::Request;
use super::{Jobs, PATIENCE};
use crate::metrics::{JobEnd, RedisOp};
use crate::redis::link::Loss;

/// Runs of a job before it becomes a dead letter: a retry after bad luck, and one more.
const ATTEMPTS: u32 = 3;
/// First pause before a retry when the stream is full, because a worker removes an ended job about
/// 1 ms after its last reply entry. The pause doubles with each retry.
pub(super) const PAUSE: Duration = Duration::from_millis(1);

/// Why a job was not enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The workers have as many jobs as they can start, or too many jobs are pending.
    #[error("there is no room for more jobs")]
    Full,
    /// The caller has too many pending jobs; the value is the limit.
    #[error("{0} jobs of this caller wait already")]
    Many(usize),
    /// The caller has too many bytes pending; the value is the limit.
    #[error("with it more than {0} bytes of this caller's jobs would wait")]
    Heavy(u64),
    /// The job is no longer pending.
    #[error("the job does not wait any more")]
    Gone,
    /// Another gateway or request is doing the same.
    #[error("another is at it already")]
    Taken,
    /// The command to Redis failed.
    #[error(transparent)]
    Lost(#[from] Loss),
    /// The system provides no randomness for a job id.
    #[error("the system gives no random numbers")]
    NoName,
}

/// What happens to a job when its reader is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// An incomplete job is cancelled; the reply of a complete one is deleted.
    Ends,
    /// An incomplete job is cancelled; the reply of a complete one is kept for repeats.
    IsKept,
    /// It continues: a client will ask for its reply.
    Remains,
}

/// A job whose reply this gateway reads.
pub struct Awaited {
    jobs: Jobs,
    side: Side,
    entry: Option<Arc<str>>,
    reader: Reader,
    lookout: Lookout,
    fate: Fate,
    why: Why,
    /// Kind of the entry that ended the reply; `None` before.
    last: Option<Kind>,
}

impl fmt::Debug for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Awaited").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl Jobs {
    /// Writes a job, and enqueues it for the workers of `side` once they have fewer than `ceiling`,
    /// if that happens by `until`. Dropping the returned value before the reply ends cancels it.
    ///
    /// # Errors
    /// Returns the reason. No worker runs the job then, or one only briefly.
    pub async fn submit(
        &self,
        job: Job,
        side: &Side,
        ceiling: u32,
        until: Instant,
        request: &Request,
    ) -> Result<Awaited, Refused> {
        let fate = if request.trial.is_some() { Fate::IsKept } else { Fate::Ends };
        let mut awaited = Awaited::new(self, side, self.read(job, Place::default()), None, fate);
        self.write_down(job, side, request, false).await?;
        if let Err(refused) = self.settle(request).await {
            awaited.fate = Fate::Remains;
            self.withdraw(job);
            return Err(refused);
        }
        let mut pause = PAUSE;
        loop {
            if let Some(entry) = self.enqueue(job, side, ceiling).await? {
                awaited.entry = Some(entry.into());
                request.succeed();
                return Ok(awaited);
            }
            if Instant::now() + pause >= until {
                awaited.fate = Fate::Remains;
                self.withdraw(job);
                return Err(Refused::Full);
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    /// Makes the key of a repeatable request name its job from now on.
    pub(super) async fn settle(&self, request: &Request) -> Result<(), Refused> {
        match &request.trial {
            Some(trial) if !trial.settle().await? => Err(Refused::Taken),
            _ => Ok(()),
        }
    }

    /// Deletes a job that was written and not yet enqueued.
    pub(super) fn withdraw(&self, job: Job) {
        self.0.afterwards.add(Errand::Withdraw { job });
    }

    pub(super) async fn write_down(
        &self,
        job: Job,
        side: &Side,
        request: &Request,
        alone: bool,
    ) -> Result<(), Loss> {
        let inner = &*self.0;
        let Request { path, headers, body, caller, class, stream, within, trial, .. } = request;
        let signature = request.signature(self.prefix(), job, side);
        let mut call = inner.scripts.create.key(inner.keys.job(job));
        call.key(inner.keys.reply(job)).arg(&inner.keys.replies).arg(job);
        call.arg(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
        for (field, value) in [
            ("pool", &*side.pool),
            ("colour", &*side.colour),
            ("path", path),
            ("headers", headers),
            ("caller", caller),
            ("class", class),
            ("signature", &signature),
            ("dam", if alone { "" } else { inner.dams.id() }),
            ("sealed", if request.key.is_some() { "1" } else { "" }),
        ] {
            call.arg(field).arg(value);
        }
        for (field, value) in [("async", alone), ("keep", trial.is_some()), ("stream", *stream)] {
            call.arg(field).arg(u8::from(value));
        }
        call.arg("max_attempts").arg(ATTEMPTS).arg("body").arg(body.as_slice());
        inner.link.run::<i64>(RedisOp::Enqueue, PATIENCE, &call).await.map(drop)
    }

    async fn enqueue(&self, job: Job, side: &Side, ceiling: u32) -> Result<Option<String>, Loss> {
        let inner = &*self.0;
        let mut call = inner.scripts.enqueue.key(inner.keys.stream(side));
        call.arg(ceiling).arg(job);
        inner.link.run(RedisOp::Enqueue, PATIENCE, &call).await
    }
}

impl Awaited {
    pub(super) fn new(jobs: &Jobs, side: &Side, reader: Reader, entry: Option<Arc<str>>, fate: Fate) -> Self {
        let (jobs, lookout, side) = (jobs.clone(), Lookout::new(jobs), side.clone());
        Self { jobs, side, entry, reader, lookout, fate, why: Why::Cancelled, last: None }
    }

    /// Polls for the next reply entry. It must not be called after the last entry. If Redis has
    /// lost the job, the reply ends with an error.
    pub fn poll_entry(&mut self, cx: &mut Context<'_>) -> Poll<Entry> {
        let entry = match self.reader.poll_entry(cx) {
            Poll::Ready(entry) => entry,
            Poll::Pending => {
                ready!(self.lookout.poll_lost(self.reader.job(), cx));
                Entry::lost()
            }
        };
        self.lookout.hear();
        self.last = Some(entry.kind).filter(|kind| kind.is_last());
        Poll::Ready(entry)
    }

    /// Returns `true` if the job continues after a drop; its reader then follows all its runs.
    #[must_use]
    pub fn remains(&self) -> bool {
        self.fate == Fate::Remains
    }

    /// Makes a drop report the job as expired instead of cancelled.
    pub fn expire(&mut self) {
        self.why = Why::Expired;
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let job = self.reader.job();
        let end = match (self.last, self.why) {
            (Some(Kind::End), _) => JobEnd::Answered,
            (Some(_), _) => JobEnd::Failed,
            (None, Why::Cancelled) => JobEnd::Cancelled,
            (None, Why::Expired) => JobEnd::Expired,
        };
        let errand = match (self.fate, self.last) {
            // It continues, or it was never enqueued.
            (Fate::Remains, None) if self.why == Why::Cancelled => return,
            (Fate::Ends, Some(_)) => Some(Errand::Forget { job }),
            (Fate::IsKept | Fate::Remains, Some(_)) => None,
            (Fate::Ends | Fate::IsKept | Fate::Remains, None) => {
                Some(Errand::Cancel { job, side: self.side.clone(), entry: self.entry.take(), why: self.why })
            }
        };
        let inner = &*self.jobs.0;
        inner.link.metrics().job(&self.side.pool, end);
        if let Some(errand) = errand {
            inner.afterwards.add(errand);
        }
    }
}
