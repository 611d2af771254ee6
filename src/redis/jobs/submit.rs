//! Putting a job where workers find it.

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

/// How often a job is begun before it is a dead letter: once for bad luck, once more for worse.
const ATTEMPTS: u32 = 3;
/// The first pause before a stream that was full is tried again: a worker takes an ended job out about so long after its
/// last piece. It doubles with each try.
pub(super) const PAUSE: Duration = Duration::from_millis(1);

/// Why a job was not put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The workers have all they can start, or too many jobs wait already.
    #[error("there is no room for more jobs")]
    Full,
    /// Too many jobs of this caller wait already.
    #[error("{0} jobs of this caller wait already")]
    Many(usize),
    /// What waits of this caller already is too large.
    #[error("with it more than {0} bytes of this caller's jobs would wait")]
    Heavy(u64),
    /// It does not wait any more.
    #[error("the job does not wait any more")]
    Gone,
    /// Somebody else does the same.
    #[error("another is at it already")]
    Taken,
    /// Redis does not do it.
    #[error(transparent)]
    Lost(#[from] Loss),
    /// There is no randomness for a name.
    #[error("the system gives no random numbers")]
    NoName,
}

/// What becomes of a job whose answer nobody here reads any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is cancelled, or its answer is cleared away.
    Ends,
    /// It is cancelled, or its answer is kept for who asks again.
    IsKept,
    /// It goes on: somebody will ask for it.
    Remains,
}

/// A job whose answer this gateway reads.
pub struct Awaited {
    jobs: Jobs,
    side: Side,
    entry: Option<Arc<str>>,
    reader: Reader,
    lookout: Lookout,
    fate: Fate,
    why: Why,
    /// What the last piece was.
    last: Option<Kind>,
}

impl fmt::Debug for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Awaited").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl Jobs {
    /// Writes a job down and lets the workers of `side` have it, as soon as they have fewer than `ceiling`, which is
    /// waited for until `until`. Dropping what is returned before the answer is complete cancels the job.
    ///
    /// # Errors
    /// Why it was not. Then no worker runs it, or none for long.
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

    /// Has the key of a request that may be repeated stand for its job from now on.
    pub(super) async fn settle(&self, request: &Request) -> Result<(), Refused> {
        match &request.trial {
            Some(trial) if !trial.settle().await? => Err(Refused::Taken),
            _ => Ok(()),
        }
    }

    /// Takes back what was written down, before anything pointed to it.
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

    /// The next piece of the answer. Nothing may be asked for after the last. Where Redis has lost the job nobody runs it,
    /// and it ends with an error.
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

    /// Whether it goes on when this is dropped, and is read for how it ends, whichever run that is.
    #[must_use]
    pub fn remains(&self) -> bool {
        self.fate == Fate::Remains
    }

    /// Its time is over: dropping it says so.
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
            // It is still to end, or never began.
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
