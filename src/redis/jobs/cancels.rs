//! Ends jobs early.

use super::answers::CancelOutcome;
use super::keys::{Job, Side};
use super::{JobQueue, PATIENCE};
use crate::metrics::{JobEnd, RedisOp};
use crate::redis::link::RedisLoss;

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

    pub(super) const fn end(self) -> JobEnd {
        match self {
            Self::Cancelled => JobEnd::Cancelled,
            Self::Expired => JobEnd::Expired,
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

impl JobQueue {
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
