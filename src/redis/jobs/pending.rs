//! Pending jobs: asynchronous jobs wait in Redis until any gateway has room to enqueue them.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::answers::{CancelOutcome, JobState, PendOutcome, PromoteOutcome};
use super::keys::{Job, Side, caller_hash};
use super::request::JobRequest;
use super::submit::{AwaitedJob, SubmitRefused, UnreadFate};
use super::{JobQueue, PATIENCE, PiecePlace};
use crate::clock::unix_millis;
use crate::metrics::{JobEnd, RedisOp};
use crate::redis::link::RedisLoss;
use crate::redis::millis;
use crate::request::{Caller, Class, Kind, RequestCost};

/// Bytes of pending bodies per pool; Redis holds them in memory.
const MOST_BYTES: u64 = 256 * 1024 * 1024;
/// Bytes per caller: an eighth. A caller with no pending job may add one of any size.
const MOST_BYTES_OF_ONE: u64 = MOST_BYTES / 8;
/// Pending jobs expired per read; the rest follows with the next reads.
const LAPSING: usize = 64;

/// What a gateway needs to enqueue a pending job when its turn comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// The caller, as the gate identifies it.
    caller: Arc<str>,
    class: String,
    weight: u32,
    /// `true` if the caller may use external workers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    external: bool,
    model: Option<Arc<str>>,
    prompt: u64,
    max: Option<u64>,
    output: u64,
    sequences: u32,
    stream: bool,
    path: String,
    /// Arrival, in milliseconds since the Unix epoch; orders the jobs of one caller.
    pub at_ms: u64,
    /// Caller hash whose count of pending jobs includes this one, for scripts. For a former dead
    /// letter it differs from the job's caller.
    #[serde(default, rename = "counted")]
    counted_for: String,
    /// Bytes of the body, for scripts.
    #[serde(default)]
    bytes: u64,
    /// Time limit when it was accepted, in milliseconds; 0 in records of older gateways.
    #[serde(default)]
    ttl_ms: u64,
    /// Time before which it must not start, in milliseconds since the Unix epoch; 0 if there is
    /// none. Also for scripts.
    #[serde(default)]
    not_before: u64,
}

/// Time limit of jobs whose record has none, in milliseconds.
const OLD_TTL_MS: u64 = 3_600_000;

impl Pending {
    /// Creates the record of a request to `path` that came at `at_ms`.
    #[must_use]
    pub(crate) fn new(caller: &Caller, request_cost: &RequestCost, path: &str, at_ms: u64) -> Self {
        Self {
            caller: Arc::clone(&caller.id),
            class: caller.class.as_str().to_owned(),
            weight: caller.weight,
            external: caller.external,
            model: request_cost.model.clone(),
            prompt: request_cost.prompt_tokens,
            max: request_cost.max_tokens,
            output: request_cost.expected_output,
            sequences: request_cost.sequences,
            stream: request_cost.stream,
            path: path.to_owned(),
            at_ms,
            counted_for: caller_hash(&caller.id),
            bytes: request_cost.body_bytes,
            ttl_ms: 0,
            not_before: 0,
        }
    }

    /// Sets the time before which it must not start, in milliseconds since the Unix epoch.
    #[must_use]
    pub(crate) fn starting(self, not_before_ms: Option<u64>) -> Self {
        Self { not_before: not_before_ms.unwrap_or(0), ..self }
    }

    /// Returns `true` if it may start at `now_ms`, in milliseconds since the Unix epoch.
    #[must_use]
    pub(crate) const fn is_due(&self, now_ms: u64) -> bool {
        self.not_before <= now_ms
    }

    /// Returns when it began to wait for a worker, in milliseconds since the Unix epoch.
    #[must_use]
    pub(crate) fn waits_since(&self) -> u64 {
        self.at_ms.max(self.not_before)
    }

    fn is_late(&self, now_ms: u64) -> bool {
        let ttl = if self.ttl_ms == 0 { OLD_TTL_MS } else { self.ttl_ms };
        self.at_ms.saturating_add(ttl) <= now_ms
    }

    /// Returns the caller.
    #[must_use]
    pub(crate) fn caller(&self) -> Caller {
        Caller {
            class: Class::parse(&self.class).unwrap_or_default(),
            weight: self.weight,
            external: self.external,
            ..Caller::new(Arc::clone(&self.caller))
        }
    }

    /// Returns the request cost.
    #[must_use]
    pub(crate) fn request_cost(&self) -> RequestCost {
        RequestCost {
            // All request kinds that can become jobs are treated alike here.
            kind: Kind::Chat,
            model: self.model.clone(),
            prompt_tokens: self.prompt,
            max_tokens: self.max,
            expected_output: self.output,
            sequences: self.sequences,
            stream: self.stream,
            // Once enqueued, a job belongs to the workers: its permit cannot go to another request.
            retryable: false,
            ..RequestCost::path()
        }
    }

    /// Returns the request path.
    #[must_use]
    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

impl JobQueue {
    /// Writes a job to Redis and adds it to the pending jobs.
    ///
    /// # Errors
    /// Returns [`SubmitRefused::Full`], [`SubmitRefused::Many`] or [`SubmitRefused::Heavy`] if too much is pending,
    /// or the error of Redis. The job then does not run.
    pub(crate) async fn accept(
        &self,
        job: Job,
        pool: &Arc<str>,
        request: &JobRequest,
        pending: &Pending,
    ) -> Result<(), SubmitRefused> {
        let side = Side { pool: Arc::clone(pool), colour: "".into() };
        self.create(job, &side, request, true).await?;
        let kept = async {
            self.settle(request).await?;
            self.keep(pool, job, pending).await
        };
        kept.await.inspect(|()| request.succeed()).inspect_err(|_| self.delete(job))
    }

    /// Adds a job whose hash is written to the pending jobs.
    pub(super) async fn keep(&self, pool: &str, job: Job, pending: &Pending) -> Result<(), SubmitRefused> {
        let [waiting, callers] = self.0.keys.pending(pool);
        let limits = self.limits();
        let pending = Pending { ttl_ms: millis(limits.ttl), ..pending.clone() };
        // Serializing strings and numbers cannot fail.
        let text = serde_json::to_string(&pending).unwrap_or_default();
        let mut call = self.0.scripts.pend.key(waiting);
        call.key(callers).arg(job).arg(&pending.counted_for).arg(limits.waiting).arg(limits.per_caller);
        call.arg(text).arg(MOST_BYTES).arg(MOST_BYTES_OF_ONE).arg(millis(limits.ttl));
        match self.0.link.run(RedisOp::Enqueue, PATIENCE, &call).await? {
            PendOutcome::Ok => Ok(()),
            PendOutcome::Full => Err(SubmitRefused::Full),
            PendOutcome::Many => Err(SubmitRefused::Many(limits.per_caller)),
            PendOutcome::Heavy => Err(SubmitRefused::Heavy(MOST_BYTES_OF_ONE)),
            PendOutcome::Past => Err(SubmitRefused::Past),
            PendOutcome::Far => Err(SubmitRefused::Far(limits.ttl)),
            PendOutcome::Later => Err(SubmitRefused::Delayed),
        }
    }

    /// Returns `true` if the job is pending in `pool`.
    pub(super) async fn waits(&self, pool: &str, job: Job) -> Result<bool, RedisLoss> {
        let [waiting, _] = self.0.keys.pending(pool);
        self.0.link.call_within(RedisOp::Jobs, PATIENCE, cmd("HEXISTS").arg(waiting).arg(job)).await
    }

    /// Returns the pending jobs of `pool`. Removes and expires those past their deadline.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn pending(&self, pool: &str) -> Result<Vec<(Job, Pending)>, RedisLoss> {
        let [key, _] = self.0.keys.pending(pool);
        let count: usize = self.0.link.call_within(RedisOp::Jobs, PATIENCE, cmd("HLEN").arg(&key)).await?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let all: Vec<(Vec<u8>, Vec<u8>)> =
            self.0.link.call_within(RedisOp::Jobs, PATIENCE, cmd("HGETALL").arg(&key)).await?;
        let read = |(job, record): (Vec<u8>, Vec<u8>)| {
            Some((Job::from_bytes(&job)?, serde_json::from_slice::<Pending>(&record).ok()?))
        };
        let now = unix_millis();
        let (mut waiting, late): (Vec<_>, Vec<_>) = self
            .0
            .unreadable
            .skip(&key, all, read)
            .into_iter()
            .partition(|(_, pending)| !pending.is_late(now));
        for (job, pending) in late.into_iter().take(LAPSING) {
            match self.give_up(pool, job, &pending).await {
                Ok(true) => {}
                Ok(false) => waiting.push((job, pending)),
                // Its key holds no job: the others are to expire all the same.
                Err(RedisLoss::Refused) => {}
                Err(loss) => {
                    tracing::debug!(%loss, "could not expire pending jobs");
                    break;
                }
            }
        }
        Ok(waiting)
    }

    /// Expires a pending job past its deadline by Redis' clock. Returns `false` if it is early.
    async fn give_up(&self, pool: &str, job: Job, pending: &Pending) -> Result<bool, RedisLoss> {
        let was = self.expire(job).await?;
        if was == CancelOutcome::Early {
            return Ok(false);
        }
        self.drop_pending(pool, job, pending).await?;
        // Several gateways may see the deadline pass; only the one that ended the job counts it.
        if !matches!(was, CancelOutcome::Gone | CancelOutcome::Ended) {
            self.0.link.metrics().job(pool, JobEnd::Expired);
        }
        Ok(true)
    }

    /// Enqueues a pending job for the workers of `side`, as [`JobQueue::submit`] does a new one. From
    /// then on it may take at most `within`. Dropping the returned value does not cancel the job.
    ///
    /// # Errors
    /// Returns [`SubmitRefused::Gone`] if the job is not pending, or the reason why it stays pending.
    pub(crate) async fn promote(
        &self,
        job: Job,
        caller: &str,
        side: &Side,
        ceiling: u32,
        (until, within): (Instant, Duration),
    ) -> Result<AwaitedJob, SubmitRefused> {
        let reader = self.read(job, PiecePlace::default());
        // The job hash names the colour only after the job is enqueued, because other gateways may
        // try another colour at the same time. But from here on no gateway may requeue the job.
        if self.mark(job, "", &[("requeued_ms", "")]).await? != Some(JobState::Queued) {
            self.remove(&side.pool, job, caller).await?;
            return Err(SubmitRefused::Gone);
        }
        let [waiting, callers] = self.0.keys.pending(&side.pool);
        let mut call = self.0.scripts.promote.key(waiting);
        call.key(callers).key(self.0.keys.stream(side)).arg(job).arg(caller).arg(ceiling).arg(&*side.colour);
        let mut pause = super::submit::PAUSE;
        loop {
            match self.0.link.run(RedisOp::Enqueue, PATIENCE, &call).await? {
                PromoteOutcome::Gone => return Err(SubmitRefused::Gone),
                // This gateway's clock is ahead of that of Redis.
                PromoteOutcome::Early => return Err(SubmitRefused::Delayed),
                PromoteOutcome::Full if Instant::now() + pause >= until => return Err(SubmitRefused::Full),
                PromoteOutcome::Full => sleep(pause).await,
                PromoteOutcome::Removed => return Err(RedisLoss::Refused.into()),
                PromoteOutcome::Enqueued(entry) => {
                    let most = millis(within).to_string();
                    let put = [("colour", &*side.colour), ("entry", &*entry)];
                    // For a cancel before a worker has the job. If this fails, the worker that
                    // takes the job sees the cancel.
                    if let Err(loss) = self.mark(job, &most, &put).await {
                        tracing::debug!(%loss, %job, "could not record the job's stream entry");
                    }
                    let fate = (UnreadFate::Remains, within);
                    return Ok(AwaitedJob::new(self, side, reader, Some(entry.into()), fate));
                }
            }
            pause *= 2;
        }
    }

    /// Adds this gateway to those that get the reply. Returns the job's state, or `None`.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn attach(&self, job: Job) -> Result<Option<JobState>, RedisLoss> {
        self.mark(job, "", &[]).await
    }

    pub(super) async fn mark(
        &self,
        job: Job,
        within: &str,
        fields: &[(&str, &str)],
    ) -> Result<Option<JobState>, RedisLoss> {
        let inner = &*self.0;
        let mut call = inner.scripts.attach.key(inner.keys.job(job));
        call.key(inner.keys.reply(job))
            .arg(&inner.keys.replies)
            .arg(job)
            .arg(inner.gateways.id())
            .arg(within);
        for (field, value) in fields {
            call.arg(*field).arg(*value);
        }
        inner.link.run(RedisOp::Jobs, PATIENCE, &call).await
    }

    pub(super) async fn drop_pending(
        &self,
        pool: &str,
        job: Job,
        pending: &Pending,
    ) -> Result<(), RedisLoss> {
        self.remove(pool, job, &caller_hash(&pending.caller)).await
    }

    pub(super) async fn remove(&self, pool: &str, job: Job, caller: &str) -> Result<(), RedisLoss> {
        let [waiting, callers] = self.0.keys.pending(pool);
        let mut call = self.0.scripts.promote.key(waiting);
        call.key(callers).arg(job).arg(caller);
        self.0.link.run::<PromoteOutcome>(RedisOp::Jobs, PATIENCE, &call).await.map(drop)
    }
}
