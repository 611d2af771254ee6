//! Work for Redis after a response has ended: cancels jobs, deletes keys and stores answers.
//!
//! It runs in tasks of its own, because it starts in the `Drop` of a response body, which cannot
//! await.
//!
//! **Failure mode.** While Redis is away, tasks wait for it: up to 16,384 in the outbox and 4096 that
//! are tried again each second, each until Redis forgets what it is about. A task beyond these bounds
//! is dropped. A job that was not cancelled then runs on to its end or its deadline with no reader.
//! Keys that were not deleted expire.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::cmd;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::answers::CancelOutcome;
use super::cancels::JobEndReason;
use super::keys::{Job, Side};
use super::lanes::Lanes;
use super::limits::SESSION_REMEMBERED;
use super::repeatable::Repeatable;
use super::stored::StoredAnswer;
use super::{JobQueue, PATIENCE};
use crate::metrics::{JobEnd, RedisOp};
use crate::redis::link::RedisLoss;
use crate::redis::outbox::OpenTask;

/// Tasks that talk to Redis at once. One that waits for its next try lets others talk.
const AT_ONCE: usize = 64;
/// Pause after the first try of a task; it doubles with each try, up to the longest one.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Refusals in a row after which a task is dropped, about half a minute. A server that is out of memory
/// or loads its data refuses everything for a while; later only the task's own key is the reason.
const REFUSALS: u32 = 32;

/// A turn of a session, which ends when this is dropped.
pub(super) type HeldTurn = Arc<dyn std::fmt::Debug + Send + Sync>;

#[derive(Debug)]
pub(super) enum JobTask {
    /// Cancels a job: notifies its worker, or removes its stream entry if no worker has it yet, and
    /// counts how it has ended. Only then the next turn of its session begins. It expires at `deadline`.
    Cancel {
        job: Job,
        side: Side,
        entry: Option<Arc<str>>,
        why: JobEndReason,
        deadline: Instant,
        _turn: Option<HeldTurn>,
    },
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

    /// The pool of a job that is to be cancelled.
    const fn pool(&self) -> Option<&Arc<str>> {
        match self {
            Self::Cancel { side, .. } => Some(&side.pool),
            _ => None,
        }
    }

    /// The job or turn that it is about.
    const fn job(&self) -> Job {
        match self {
            Self::Cancel { job, .. }
            | Self::Forget { job }
            | Self::Withdraw { job }
            | Self::EndTurn { turn: job, .. }
            | Self::FreeKey { job, .. }
            | Self::Store { job, .. } => *job,
        }
    }
}

/// A task, and when it is too late for it: Redis has forgotten what it is about.
#[derive(Debug)]
pub(super) struct TimedTask {
    task: JobTask,
    until: Instant,
}

impl JobQueue {
    pub(super) fn add_task(&self, task: JobTask) {
        let (inner, limits, now) = (&*self.0, self.limits(), Instant::now());
        let until = match &task {
            JobTask::Cancel { deadline, .. } => *deadline + limits.answers,
            JobTask::Forget { .. } => now + limits.answers,
            JobTask::Withdraw { .. } => now + limits.ttl + limits.answers,
            JobTask::EndTurn { .. } => now + SESSION_REMEMBERED,
            JobTask::FreeKey { .. } | JobTask::Store { .. } => now + limits.keep,
        };
        let (name, pool) = (task.as_str(), task.pool().cloned());
        let added = inner.outbox.add(TimedTask { task, until });
        let was_full = inner.tasks_full.swap(!added, Ordering::Relaxed);
        if added {
            return;
        }
        if !was_full {
            tracing::warn!(task = name, "too many job tasks wait for Redis; dropping those that come now");
        }
        self.count_uncancelled(pool.as_deref());
    }

    /// Counts a job that could not be cancelled: nobody ends it before its deadline.
    fn count_uncancelled(&self, pool: Option<&str>) {
        if let Some(pool) = pool {
            self.0.link.metrics().job(pool, JobEnd::Expired);
        }
    }

    /// Waits until every queued task is done or dropped, for at most `patience`.
    pub(crate) async fn flush(&self, patience: Duration) {
        if !self.0.outbox.flush(patience).await {
            tracing::warn!("shutdown: not all job tasks were done; jobs without a client may run on");
        }
    }

    pub(super) async fn run_tasks(&self, mut tasks: mpsc::Receiver<OpenTask<TimedTask>>) {
        let calls = Arc::new(Semaphore::new(AT_ONCE));
        let (mut lanes, mut running) = (Lanes::default(), JoinSet::new());
        loop {
            let next = tokio::select! {
                Some(ended) = running.join_next() => ended.ok().and_then(|job| lanes.leave(job)),
                open = tasks.recv(), if !lanes.is_full() => {
                    let Some(open): Option<OpenTask<TimedTask>> = open else { return };
                    lanes.enter(open.task.task.job(), open)
                }
            };
            if let Some(open) = next {
                let (jobs, calls) = (self.clone(), Arc::clone(&calls));
                running.spawn(async move {
                    jobs.run_task(&open.task, &calls).await;
                    open.task.task.job()
                });
            }
        }
    }

    /// Tries a task until Redis has done it, or it is too late.
    async fn run_task(&self, timed: &TimedTask, calls: &Semaphore) {
        let TimedTask { task, until } = timed;
        let (mut pause, mut refusals) = (PAUSE, 0);
        loop {
            let done = {
                let _call = calls.acquire().await;
                self.try_task(task).await
            };
            let Err(loss) = done else { return };
            tracing::debug!(%loss, task = task.as_str(), "a job task failed");
            refusals = if loss == RedisLoss::Refused { refusals + 1 } else { 0 };
            if refusals >= REFUSALS || Instant::now() + pause >= *until {
                break;
            }
            sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
        tracing::debug!(task = task.as_str(), "a job task failed for the last time");
        self.count_uncancelled(task.pool().map(|pool| &**pool));
    }

    async fn try_task(&self, task: &JobTask) -> Result<(), RedisLoss> {
        match task {
            JobTask::Cancel { job, side, entry, why, .. } => {
                match self.cancel(*job, side, entry.as_deref(), *why).await? {
                    CancelOutcome::Queued | CancelOutcome::Running => {
                        self.0.link.metrics().job(&side.pool, why.end());
                    }
                    // It ended before, in whichever way, or an earlier try has ended it.
                    CancelOutcome::Ended => self.count_end(&side.pool, *job).await,
                    // It was never written, or Redis has lost it.
                    CancelOutcome::Gone | CancelOutcome::Early | CancelOutcome::Begun => {}
                }
                Ok(())
            }
            JobTask::Forget { job } => self.unlink(self.0.keys.reply(*job)).await,
            JobTask::Withdraw { job } => self.unlink(self.0.keys.job(*job)).await,
            JobTask::EndTurn { session, turn, worker } => {
                self.end_turn(session, *turn, worker.as_deref().unwrap_or_default()).await
            }
            JobTask::FreeKey { request, job } => self.free_key(request, *job).await,
            JobTask::Store { request, job, answer, .. } => self.store(request, *job, answer).await,
        }
    }

    pub(super) async fn unlink(&self, key: String) -> Result<(), RedisLoss> {
        self.0.link.call_within::<i64>(RedisOp::Jobs, PATIENCE, cmd("UNLINK").arg(key)).await.map(drop)
    }
}
