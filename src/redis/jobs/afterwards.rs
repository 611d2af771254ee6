//! What is done about a job when nobody waits for it: cancelling, and clearing away.
//!
//! It begins where a response body is dropped, which can wait for nothing.
//!
//! **Failure mode.** Redis does not answer: a cancel is tried for a second, then the job runs on to its end or its
//! deadline, for nobody. What is not cleared away goes by itself after ten minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::cmd;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::again::Repeatable;
use super::keys::{Job, Side};
use super::{Jobs, PATIENCE};
use crate::metrics::RedisOp;
use crate::redis::link::Loss;

/// Errands that may wait: a full gateway's clients that all leave at once.
const WAITING: usize = 16_384;
/// Errands on their way at once.
const AT_ONCE: usize = 64;
/// How often an errand is tried again, and after which pause.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);
/// How often is looked whether all is done, by who goes down.
const GLANCE: Duration = Duration::from_millis(2);

/// Why a job ends that nobody ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Its client does not want it any more.
    Cancelled,
    /// It took longer than it may.
    Expired,
}

impl Why {
    /// The state, the reason and the message.
    pub(super) const fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Cancelled => ("cancelled", "cancelled", "The job was cancelled."),
            Self::Expired => ("expired", "upstream_timeout", "The job took longer than it may."),
        }
    }
}

/// Which jobs the script ends; the numbers are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Only {
    /// Whichever has not ended.
    Any = 0,
    /// One whose time is over.
    Late = 1,
    /// One that nobody has begun.
    Queued = 2,
}

/// One thing to be done.
#[derive(Clone, Debug)]
pub(super) enum Errand {
    /// Nobody waits for it: tell its worker, and take its entry out if there is no worker yet.
    Cancel { job: Job, side: Side, entry: Option<Arc<str>>, why: Why },
    /// Its answer was read to the end.
    Forget { job: Job },
    /// It was written down, and nothing points to it.
    Withdraw { job: Job },
    /// The request never became a job: its key is free.
    Unknow { request: Arc<Repeatable>, job: Job },
}

impl Errand {
    /// The kind of errand, for the log.
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Cancel { .. } => "cancel a job",
            Self::Forget { .. } => "delete an answer",
            Self::Withdraw { .. } => "delete a job",
            Self::Unknow { .. } => "free a key",
        }
    }
}

/// Takes errands.
#[derive(Debug)]
pub(super) struct Afterwards {
    errands: mpsc::Sender<Errand>,
    open: AtomicUsize,
}

impl Afterwards {
    pub(super) fn new() -> (Self, mpsc::Receiver<Errand>) {
        let (errands, inbox) = mpsc::channel(WAITING);
        (Self { errands, open: AtomicUsize::new(0) }, inbox)
    }

    pub(super) fn add(&self, errand: Errand) {
        self.open.fetch_add(1, Ordering::Relaxed);
        if self.errands.try_send(errand).is_err() {
            self.open.fetch_sub(1, Ordering::Relaxed);
            tracing::debug!("too much waits for Redis: a job is left to its end");
        }
    }
}

impl Jobs {
    /// Waits until Redis was told everything, but no longer than `patience`.
    pub async fn leave(&self, patience: Duration) {
        let done = async {
            while self.0.afterwards.open.load(Ordering::Relaxed) > 0 {
                sleep(GLANCE).await;
            }
        };
        if timeout(patience, done).await.is_err() {
            tracing::warn!("Redis was not told of all jobs that nobody waits for");
        }
    }

    pub(super) async fn do_errands(&self, mut errands: mpsc::Receiver<Errand>) {
        let mut running = JoinSet::new();
        while let Some(errand) = errands.recv().await {
            while running.len() >= AT_ONCE {
                running.join_next().await;
            }
            while running.try_join_next().is_some() {}
            let jobs = self.clone();
            running.spawn(async move {
                jobs.go(errand).await;
                jobs.0.afterwards.open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    async fn go(&self, errand: Errand) {
        for _ in 0..TRIES {
            let done = match &errand {
                Errand::Cancel { job, side, entry, why } => {
                    self.cancel(*job, side, entry.as_deref(), *why).await.map(drop)
                }
                Errand::Forget { job } => self.unlink(self.0.keys.reply(*job)).await,
                Errand::Withdraw { job } => self.unlink(self.0.keys.job(*job)).await,
                Errand::Unknow { request, job } => self.unknow(request, *job).await,
            };
            match done {
                Ok(()) => return,
                Err(loss) => tracing::debug!(%loss, errand = errand.as_str(), "an errand for a job failed"),
            }
            sleep(PAUSE).await;
        }
    }

    async fn unlink(&self, key: String) -> Result<(), Loss> {
        self.0.link.call_within::<i64>(RedisOp::Jobs, PATIENCE, cmd("UNLINK").arg(key)).await.map(drop)
    }

    /// Ends a job and takes its entry out of the stream, if no worker has it. Says what the script says.
    pub(super) async fn cancel(
        &self,
        job: Job,
        side: &Side,
        entry: Option<&str>,
        why: Why,
    ) -> Result<String, Loss> {
        let Self(inner) = self;
        let was = self.end(job, why, Only::Any).await?;
        if let Some(entry) = entry.filter(|_| was == "QUEUED") {
            let mut call = inner.scripts.end.key(inner.keys.stream(side));
            call.key(inner.keys.dead(&side.pool)).arg(entry).arg(job).arg("");
            inner.link.run::<i64>(RedisOp::Jobs, PATIENCE, &call).await?;
        }
        Ok(was)
    }

    /// Ends a job that has no time left. Says what the script says.
    pub(super) async fn lapse(&self, job: Job) -> Result<String, Loss> {
        self.end(job, Why::Expired, Only::Late).await
    }

    /// Ends a job that nobody has begun. Says what the script says.
    pub(super) async fn drop_queued(&self, job: Job) -> Result<String, Loss> {
        self.end(job, Why::Cancelled, Only::Queued).await
    }

    async fn end(&self, job: Job, why: Why, only: Only) -> Result<String, Loss> {
        let inner = &*self.0;
        let (state, reason, message) = why.words();
        let mut call = inner.scripts.cancel.key(inner.keys.job(job));
        call.key(inner.keys.reply(job)).arg(&inner.keys.replies).arg(job).arg(&inner.keys.cancels);
        call.arg(state).arg(reason).arg(message).arg(only as u8);
        inner.link.run(RedisOp::Jobs, PATIENCE, &call).await
    }
}
