//! Work for Redis after a response has ended: cancels jobs, deletes keys and stores answers.
//!
//! It runs in tasks of its own, because it starts in the `Drop` of a response body, which cannot
//! await.
//!
//! **Failure mode.** If Redis does not answer, each task is tried four times and then dropped. A job
//! that was not cancelled runs on to its end or its deadline with no reader. Keys that were not
//! deleted expire.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::answers::CancelOutcome;
use super::keys::{Job, Side};
use super::repeatable::Repeatable;
use super::stored::StoredAnswer;
use super::{JobQueue, PATIENCE};
use crate::metrics::RedisOp;
use crate::redis::link::RedisLoss;
use crate::redis::outbox::OpenTask;

/// Tasks that run at once.
const AT_ONCE: usize = 64;
/// Attempts per task, and the pause after each.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);

/// Why a gateway ends a job early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobEndReason {
    /// The client cancelled it or left.
    Cancelled,
    /// Its deadline has passed.
    Expired,
}

impl JobEndReason {
    /// The state, the reason and the message.
    pub(super) const fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Cancelled => ("cancelled", "cancelled", "The job was cancelled."),
            Self::Expired => ("expired", "upstream_timeout", "The job exceeded its deadline."),
        }
    }
}

/// Condition under which `cancel.lua` ends the job; the discriminants are the script's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndCondition {
    Any = 0,
    /// The job is past its deadline.
    Late = 1,
    /// No worker has started the job.
    Queued = 2,
}

/// A turn of a session, which ends when this is dropped.
pub(super) type HeldTurn = Arc<dyn std::fmt::Debug + Send + Sync>;

#[derive(Debug)]
pub(super) enum JobTask {
    /// Cancels a job: notifies its worker, or removes its stream entry if no worker has it yet. Only
    /// then the next turn of its session begins.
    Cancel { job: Job, side: Side, entry: Option<Arc<str>>, why: JobEndReason, _turn: Option<HeldTurn> },
    /// Deletes the reply of a job, after it was read to the end.
    Forget { job: Job },
    /// Deletes the hash of a job that nothing refers to.
    Withdraw { job: Job },
    /// Ends a turn of a session; the worker that answered has the next one, too.
    EndTurn { session: Arc<str>, turn: Job, worker: Option<Arc<str>> },
    /// Frees the `Idempotency-Key` of a request that never became a job.
    FreeKey { request: Arc<Repeatable>, job: Job },
    /// Stores an answer over HTTP for repeats of its request. `_done` is dropped at the end, stored
    /// or not.
    Store { request: Arc<Repeatable>, job: Job, answer: StoredAnswer, _done: oneshot::Sender<()> },
}

impl JobTask {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Cancel { .. } => "cancel a job",
            Self::Forget { .. } => "delete an answer",
            Self::Withdraw { .. } => "delete a job",
            Self::EndTurn { .. } => "end a turn",
            Self::FreeKey { .. } => "free a key",
            Self::Store { .. } => "store an answer",
        }
    }
}

impl JobQueue {
    pub(super) fn add_task(&self, task: JobTask) {
        let name = task.as_str();
        if !self.0.outbox.add(task) {
            tracing::debug!(task = name, "the queue of job tasks is full; dropped a task");
        }
    }

    /// Waits until every queued task is done or dropped, for at most `patience`.
    pub(crate) async fn flush(&self, patience: Duration) {
        if !self.0.outbox.flush(patience).await {
            tracing::warn!("shutdown: not all job tasks were done; jobs without a client may run on");
        }
    }

    pub(super) async fn run_tasks(&self, mut tasks: mpsc::Receiver<OpenTask<JobTask>>) {
        let mut running = JoinSet::new();
        while let Some(open) = tasks.recv().await {
            while running.len() >= AT_ONCE {
                running.join_next().await;
            }
            while running.try_join_next().is_some() {}
            let jobs = self.clone();
            running.spawn(async move { jobs.run_task(&open.task).await });
        }
    }

    async fn run_task(&self, task: &JobTask) {
        for attempt in 1..=TRIES {
            let done = match task {
                JobTask::Cancel { job, side, entry, why, .. } => {
                    self.cancel(*job, side, entry.as_deref(), *why).await.map(drop)
                }
                JobTask::Forget { job } => self.unlink(self.0.keys.reply(*job)).await,
                JobTask::Withdraw { job } => self.unlink(self.0.keys.job(*job)).await,
                JobTask::EndTurn { session, turn, worker } => {
                    self.end_turn(session, *turn, worker.as_deref().unwrap_or_default()).await
                }
                JobTask::FreeKey { request, job } => self.free_key(request, *job).await,
                JobTask::Store { request, job, answer, .. } => self.store(request, *job, answer).await,
            };
            match done {
                Ok(()) => return,
                Err(loss) if attempt == TRIES => {
                    tracing::debug!(%loss, task = task.as_str(), "a job task failed for the last time");
                }
                Err(loss) => {
                    tracing::debug!(%loss, task = task.as_str(), "a job task failed");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    pub(super) async fn unlink(&self, key: String) -> Result<(), RedisLoss> {
        self.0.link.call_within::<i64>(RedisOp::Jobs, PATIENCE, cmd("UNLINK").arg(key)).await.map(drop)
    }

    /// Ends a job, and removes its stream entry if no worker has it. Returns what was found.
    pub(super) async fn cancel(
        &self,
        job: Job,
        side: &Side,
        entry: Option<&str>,
        why: JobEndReason,
    ) -> Result<CancelOutcome, RedisLoss> {
        let Self(inner) = self;
        let was = self.end(job, why, EndCondition::Any).await?;
        if let Some(entry) = entry.filter(|_| was == CancelOutcome::Queued) {
            let mut call = inner.scripts.end.key(inner.keys.stream(side));
            call.key(inner.keys.dead(&side.pool)).arg(entry).arg(job).arg("");
            inner.link.run::<i64>(RedisOp::Jobs, PATIENCE, &call).await?;
        }
        Ok(was)
    }

    /// Ends a job that is past its deadline.
    pub(super) async fn expire(&self, job: Job) -> Result<CancelOutcome, RedisLoss> {
        self.end(job, JobEndReason::Expired, EndCondition::Late).await
    }

    /// Ends a job that no worker has started.
    pub(super) async fn drop_queued(&self, job: Job) -> Result<CancelOutcome, RedisLoss> {
        self.end(job, JobEndReason::Cancelled, EndCondition::Queued).await
    }

    async fn end(&self, job: Job, why: JobEndReason, only: EndCondition) -> Result<CancelOutcome, RedisLoss> {
        let inner = &*self.0;
        let (state, reason, message) = why.words();
        let mut call = inner.scripts.cancel.key(inner.keys.job(job));
        call.key(inner.keys.reply(job)).arg(&inner.keys.replies).arg(job).arg(&inner.keys.cancels);
        call.arg(state).arg(reason).arg(message).arg(only as u8);
        inner.link.run(RedisOp::Jobs, PATIENCE, &call).await
    }
}
