//! Status of jobs, and cancelling them for clients.

use redis::cmd;

use super::answers::{CancelOutcome, JobState};
use super::cancels::JobEndReason;
use super::keys::{Job, Side};
use super::{JobQueue, PATIENCE, PiecePlace};
use crate::clock::unix_millis;
use crate::metrics::RedisOp;
use crate::redis::gateways::alive_key;
use crate::redis::link::RedisLoss;
use crate::redis::odd::lossy;

/// Status of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobStatus {
    /// Its state.
    pub state: JobState,
    /// The caller, as its [`caller_hash`](super::caller_hash) hash.
    pub caller: String,
    /// The pool it was submitted to.
    pub pool: String,
    /// Number of the latest run.
    pub epoch: u64,
    /// Number of the last reply entry in that run.
    pub n: u64,
    /// Runs started since it was enqueued or requeued.
    pub attempt: u64,
    /// `true` if the client asked for a stream.
    pub stream: bool,
    /// When it was created, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it ended, in milliseconds since the Unix epoch.
    pub ended_ms: Option<u64>,
    /// Error of the latest failed run.
    pub last_error: Option<String>,
    deadline_ms: Option<u64>,
    colour: String,
    entry: Option<String>,
    /// Gateways that wait for its reply, separated by spaces.
    gateways: String,
    /// `true` for an asynchronous job: no particular gateway waits for it.
    is_async: bool,
}

impl JobStatus {
    /// Returns `true` if the job has ended.
    #[must_use]
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(self.state, JobState::Queued | JobState::Running)
    }

    /// Returns the place of the last reply entry.
    const fn last_place(&self) -> PiecePlace {
        PiecePlace { epoch: self.epoch, n: self.n }
    }

    /// Returns `true` if the deadline has passed by this gateway's clock.
    fn is_late(&self) -> bool {
        !self.has_ended() && self.deadline_ms.is_some_and(|deadline| deadline <= unix_millis())
    }
}

const FIELDS: [&str; 15] = [
    "state",
    "caller",
    "pool",
    "epoch",
    "attempt",
    "stream",
    "created_ms",
    "ended_ms",
    "last_error",
    "colour",
    "entry",
    "n",
    "deadline_ms",
    "dam",
    "async",
];

impl JobQueue {
    /// Returns the status of `job`; `None` if there is no such job. If its deadline has passed, the job expires first.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn look(&self, job: Job) -> Result<Option<JobStatus>, RedisLoss> {
        let found = self.read_status(job).await?;
        if found.as_ref().is_some_and(JobStatus::is_late) {
            self.expire(job).await?;
            return self.read_status(job).await;
        }
        Ok(found)
    }

    async fn read_status(&self, job: Job) -> Result<Option<JobStatus>, RedisLoss> {
        let mut look = cmd("HMGET");
        look.arg(self.0.keys.job(job)).arg(&FIELDS);
        let fields: [Option<Vec<u8>>; FIELDS.len()] =
            self.0.link.call_within(RedisOp::Jobs, PATIENCE, &look).await?;
        let [
            state,
            caller,
            pool,
            epoch,
            attempt,
            stream,
            created,
            ended,
            last_error,
            colour,
            entry,
            n,
            deadline,
            gateways,
            alone,
        ] = fields.map(|field| field.as_deref().map(lossy));
        let number = |field: Option<String>| field.and_then(|digits| digits.parse().ok());
        let state = state.as_deref().and_then(JobState::parse);
        Ok(state.map(|state| JobStatus {
            state,
            caller: caller.unwrap_or_default(),
            pool: pool.unwrap_or_default(),
            epoch: number(epoch).unwrap_or(0),
            n: number(n).unwrap_or(0),
            attempt: number(attempt).unwrap_or(0),
            stream: stream.as_deref() == Some("1"),
            created_ms: number(created).unwrap_or(0),
            ended_ms: number(ended),
            last_error,
            deadline_ms: number(deadline),
            colour: colour.unwrap_or_default(),
            entry,
            gateways: gateways.unwrap_or_default(),
            is_async: alone.as_deref() == Some("1"),
        }))
    }

    /// Returns `true` if the gateway has sent a heartbeat within the last 3 s.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn is_alive(&self, gateway: &str) -> Result<bool, RedisLoss> {
        if gateway == self.0.gateways.id() {
            return Ok(true);
        }
        let key = alive_key(self.prefix(), gateway);
        self.0.link.call_within(RedisOp::Jobs, PATIENCE, cmd("EXISTS").arg(key)).await
    }

    /// Cancels a queued synchronous job whose gateways are all gone: it may never have been
    /// enqueued. Returns `true` if it did. A worker that finds the job later does not start it.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn give_up_orphan(&self, job: Job, status: &JobStatus) -> Result<bool, RedisLoss> {
        if status.state != JobState::Queued || status.is_async {
            return Ok(false);
        }
        for gateway in status.gateways.split_whitespace() {
            if self.is_alive(gateway).await? {
                return Ok(false);
            }
        }
        Ok(self.drop_queued(job).await? == CancelOutcome::Queued)
    }

    /// Returns `true` if the reply stream of `job` exists.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn has_answer(&self, job: Job) -> Result<bool, RedisLoss> {
        let key = self.0.keys.reply(job);
        self.0.link.call_within(RedisOp::Jobs, PATIENCE, cmd("EXISTS").arg(key)).await
    }

    /// Returns `true` if the reply of `job` gets no entry after `at`, up to which it was read. Expires
    /// the job first if its deadline has passed; then the reply gets an error entry.
    ///
    /// A Redis that has lost its last writes may end the job at an earlier place than the reader's: it
    /// would never see that end.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn is_lost(&self, job: Job, at: PiecePlace) -> Result<bool, RedisLoss> {
        Ok(match self.expire(job).await? {
            CancelOutcome::Gone => true,
            CancelOutcome::Ended => {
                !self.has_answer(job).await?
                    || self.read_status(job).await?.is_none_or(|status| status.last_place() <= at)
            }
            _ => false,
        })
    }

    /// Cancels a job with this status, whether pending, enqueued or running.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn cancel_job(&self, job: Job, status: &JobStatus) -> Result<(), RedisLoss> {
        let side = Side { pool: status.pool.as_str().into(), colour: status.colour.as_str().into() };
        self.cancel(job, &side, status.entry.as_deref(), JobEndReason::Cancelled).await?;
        if status.entry.is_none() {
            self.remove(&status.pool, job, &status.caller).await?;
        }
        Ok(())
    }
}
