//! Enqueues jobs for workers.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::cancels::JobEndReason;
use super::keys::{Job, Side};
use super::liveness::LivenessProbe;
use super::piece::AnswerPiece;
use super::reader::Reader;
use super::request::JobRequest;
use super::sessions::SessionTurn;
use super::sides::OwnStream;
use super::tasks::{HeldTurn, JobTask};
use super::{JobQueue, PATIENCE, PieceKind, PiecePlace};
use crate::metrics::{JobEnd, RedisOp};
use crate::redis::link::RedisLoss;
use crate::redis::millis;

/// First pause before a retry when the stream is full, because a worker removes an ended job about
/// 1 ms after its last reply entry. The pause doubles with each retry.
pub(super) const PAUSE: Duration = Duration::from_millis(1);

/// Why a job was not enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubmitRefused {
    /// The workers have as many jobs as they can start, or too many jobs are pending.
    #[error("there is no room for more jobs")]
    Full,
    /// The caller has too many pending jobs; the value is the limit.
    #[error("{0} jobs of this caller are already pending")]
    Many(usize),
    /// The caller has too many bytes pending; the value is the limit.
    #[error("this caller's pending jobs would exceed {0} bytes")]
    Heavy(u64),
    /// The job is no longer pending.
    #[error("the job is no longer pending")]
    Gone,
    /// Another gateway or request is doing the same.
    #[error("another request is already doing this")]
    Taken,
    /// The command to Redis failed.
    #[error(transparent)]
    Lost(#[from] RedisLoss),
    /// The time before which the job must not start is over by more than a minute.
    #[error("the time to start is in the past")]
    Past,
    /// The job would expire before the time at which it may start; the value is its time limit.
    #[error("the time to start is further ahead than {} s", .0.as_secs())]
    Far(Duration),
    /// Too many jobs wait for the time at which they may start.
    #[error("too many delayed jobs are already waiting")]
    Delayed,
    /// The system provides no randomness for a job id.
    #[error("the system provides no random numbers")]
    NoName,
}

/// What happens to a job when its reader is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnreadFate {
    /// An incomplete job is cancelled; the reply of a complete one is deleted.
    Ends,
    /// An incomplete job is cancelled; the reply of a complete one is kept for repeats.
    IsKept,
    /// It continues: a client will ask for its reply.
    Remains,
}

/// A job whose reply this gateway reads.
pub(crate) struct AwaitedJob {
    jobs: JobQueue,
    side: Side,
    entry: Option<Arc<str>>,
    reader: Reader,
    liveness_probe: LivenessProbe,
    fate: UnreadFate,
    why: JobEndReason,
    /// Kind of the entry that ended the reply; `None` before.
    last: Option<PieceKind>,
    /// The turn of the request in its session, which ends with the job.
    turn: Option<Arc<SessionTurn>>,
    /// How long it may wait in the stream of one worker.
    wait_for_worker: Option<Duration>,
    /// When it expires at the latest.
    deadline: Instant,
}

impl fmt::Debug for AwaitedJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwaitedJob").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl JobQueue {
    /// Writes a job, and enqueues it for the workers of `side` once they have fewer than `ceiling`,
    /// if that happens by `until`. With `own` it goes to that worker's stream first, if there is room,
    /// and after the given time to those of all if the worker has not started it. Dropping the returned
    /// value before the reply ends cancels it.
    ///
    /// # Errors
    /// Returns the reason. No worker runs the job then, or one only briefly.
    pub(crate) async fn submit(
        &self,
        job: Job,
        side: &Side,
        (ceiling, until): (u32, Instant),
        own: Option<(OwnStream, Duration)>,
        request: &JobRequest,
    ) -> Result<AwaitedJob, SubmitRefused> {
        let fate = if request.trial.is_some() { UnreadFate::IsKept } else { UnreadFate::Ends };
        let reader = self.read(job, PiecePlace::default());
        let mut awaited = AwaitedJob::new(self, side, reader, None, (fate, request.within));
        let of_worker =
            |own: &OwnStream| Side { pool: Arc::clone(&side.pool), colour: Arc::clone(&own.side) };
        let first = own.map(|(own, wait)| (of_worker(&own), own.bound(), wait));
        self.create(job, first.as_ref().map_or(side, |(first, ..)| first), request, false).await?;
        if let Err(refused) = self.settle(request).await {
            awaited.fate = UnreadFate::Remains;
            self.delete(job);
            return Err(refused);
        }
        if let Some((first, bound, wait)) = first {
            if let Some(entry) = self.enqueue(job, &first, bound).await? {
                awaited.entry = Some(entry.clone().into());
                awaited.side = first.clone();
                awaited.wait_for_worker = Some(wait);
                request.succeed();
                self.give_to_all_after(wait, job, entry, first, side.clone());
                return Ok(awaited);
            }
            self.mark(job, "", &[("colour", &*side.colour)]).await?;
        }
        let mut pause = PAUSE;
        loop {
            if let Some(entry) = self.enqueue(job, side, ceiling).await? {
                awaited.entry = Some(entry.into());
                request.succeed();
                return Ok(awaited);
            }
            if Instant::now() + pause >= until {
                awaited.fate = UnreadFate::Remains;
                self.delete(job);
                return Err(SubmitRefused::Full);
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    /// Gives a job in a worker's own stream to all workers, unless it starts within `wait`.
    fn give_to_all_after(&self, wait: Duration, job: Job, entry: String, from: Side, to: Side) {
        let jobs = self.clone();
        tokio::spawn(async move {
            sleep(wait).await;
            // The worker reads its own stream first; if this fails, it still starts the job.
            if let Err(loss) = jobs.give_to(job, &entry, &from, &to).await {
                tracing::debug!(%loss, %job, "could not give a session's job to other workers");
            }
        });
    }

    /// Makes the key of a repeatable request name its job from now on.
    pub(super) async fn settle(&self, request: &JobRequest) -> Result<(), SubmitRefused> {
        match &request.trial {
            Some(trial) if !trial.commit().await? => Err(SubmitRefused::Taken),
            _ => Ok(()),
        }
    }

    /// Deletes a job that was written and not yet enqueued.
    pub(super) fn delete(&self, job: Job) {
        self.add_task(JobTask::Withdraw { job });
    }

    pub(super) async fn create(
        &self,
        job: Job,
        side: &Side,
        request: &JobRequest,
        alone: bool,
    ) -> Result<(), RedisLoss> {
        let inner = &*self.0;
        let JobRequest { path, headers, body, caller, class, stream, within, trial, .. } = request;
        let signature = request.signature(self.prefix(), job, side);
        let mut call = inner.scripts.create.key(inner.keys.job(job));
        call.key(inner.keys.reply(job)).arg(&inner.keys.replies).arg(job);
        call.arg(millis(*within));
        for (field, value) in [
            ("pool", &*side.pool),
            ("colour", &*side.colour),
            ("path", path),
            ("headers", headers),
            ("caller", caller),
            ("class", class),
            ("signature", &signature),
            ("dam", if alone { "" } else { inner.gateways.id() }),
            ("sealed", if request.key.is_some() { "1" } else { "" }),
        ] {
            call.arg(field).arg(value);
        }
        for (field, value) in [("async", alone), ("keep", trial.is_some()), ("stream", *stream)] {
            call.arg(field).arg(u8::from(value));
        }
        let limits = self.limits();
        call.arg("max_attempts").arg(limits.attempts);
        call.arg("keep_ms").arg(millis(limits.keep)).arg("answers_ms").arg(millis(limits.answers));
        call.arg("body").arg(body.as_slice());
        inner.link.run::<i64>(RedisOp::Enqueue, PATIENCE, &call).await.map(drop)
    }

    async fn enqueue(&self, job: Job, side: &Side, ceiling: u32) -> Result<Option<String>, RedisLoss> {
        let inner = &*self.0;
        let mut call = inner.scripts.enqueue.key(inner.keys.stream(side));
        call.arg(ceiling).arg(job).arg(&*side.colour);
        inner.link.run(RedisOp::Enqueue, PATIENCE, &call).await
    }
}

impl AwaitedJob {
    pub(super) fn new(
        jobs: &JobQueue,
        side: &Side,
        reader: Reader,
        entry: Option<Arc<str>>,
        (fate, within): (UnreadFate, Duration),
    ) -> Self {
        let (jobs, liveness_probe, side) = (jobs.clone(), LivenessProbe::new(jobs), side.clone());
        let why = JobEndReason::Cancelled;
        let (last, turn, wait_for_worker) = (None, None, None);
        let deadline = Instant::now() + within;
        Self { jobs, side, entry, reader, liveness_probe, fate, why, last, turn, wait_for_worker, deadline }
    }

    /// Returns how long it may wait for one worker, before any may take it.
    #[must_use]
    pub(crate) const fn wait_for_worker(&self) -> Option<Duration> {
        self.wait_for_worker
    }

    /// Keeps the turn of the request until the job ends.
    pub(crate) fn hold(&mut self, turn: Option<Arc<SessionTurn>>) {
        self.turn = turn;
    }

    /// Polls for the next reply entry. It must not be called after the last entry. If Redis has
    /// lost the job, the reply ends with an error.
    pub(crate) fn poll_entry(&mut self, cx: &mut Context<'_>) -> Poll<AnswerPiece> {
        let entry = match self.reader.poll_entry(cx) {
            Poll::Ready(entry) => entry,
            Poll::Pending => {
                ready!(self.liveness_probe.poll_lost(self.reader.place(), cx));
                AnswerPiece::lost()
            }
        };
        self.liveness_probe.record_entry();
        self.last = Some(entry.kind).filter(|kind| kind.is_last());
        Poll::Ready(entry)
    }

    /// Returns `true` if the job continues after a drop; its reader then follows all its runs.
    #[must_use]
    pub(crate) fn remains(&self) -> bool {
        self.fate == UnreadFate::Remains
    }

    /// Makes a drop report the job as expired instead of cancelled.
    pub(crate) fn expire(&mut self) {
        self.why = JobEndReason::Expired;
    }
}

impl Drop for AwaitedJob {
    fn drop(&mut self) {
        let job = self.reader.job();
        let inner = &*self.jobs.0;
        // A job that is cancelled is counted when Redis has ended it.
        if let Some(last) = self.last {
            let end = if last == PieceKind::End { JobEnd::Answered } else { JobEnd::Failed };
            inner.link.metrics().job(&self.side.pool, end);
        }
        let task = match (self.fate, self.last) {
            // It continues, or it was never enqueued.
            (UnreadFate::Remains, None) if self.why == JobEndReason::Cancelled => return,
            (UnreadFate::Ends, Some(_)) => Some(JobTask::Forget { job }),
            (UnreadFate::IsKept | UnreadFate::Remains, Some(_)) => None,
            (UnreadFate::Ends | UnreadFate::IsKept | UnreadFate::Remains, None) => Some(JobTask::Cancel {
                job,
                side: self.side.clone(),
                entry: self.entry.take(),
                why: self.why,
                deadline: self.deadline,
                _turn: self.turn.take().map(|turn| turn as HeldTurn),
            }),
        };
        if let Some(task) = task {
            self.jobs.add_task(task);
        }
    }
}
