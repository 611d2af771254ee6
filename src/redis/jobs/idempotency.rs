//! Idempotent requests: a repeat with the same `Idempotency-Key` finds the first request's job.
//!
//! The key in Redis first names a request that tries to become a job; then, for a day, that job,
//! whose record decides what a repeat gets. The value changes only by compare-and-set, so that one
//! of several concurrent repeats runs.
//!
//! A gateway may die before it has enqueued its request, and then no one else will. So a repeat
//! takes the key over once that gateway's heartbeat has expired.
//!
//! Over HTTP there is no job. The key names the request until the answer is complete, and then the
//! answer that was stored ([`super::stored`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::cmd;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::keys::Job;
use super::repeatable::{KnownRequest, Repeatable};
use super::stored::StoredAnswer;
use super::tasks::JobTask;
use super::{JobQueue, PATIENCE};
use crate::metrics::RedisOp;
use crate::redis::link::RedisLoss;
use crate::redis::millis;

/// Lifetime of the key before there is a job: longer than any request waits for a permit.
const TRYING: Duration = Duration::from_secs(120);
/// Longest such lifetime, for a request that is answered over HTTP.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A repeatable request that may become a job. Dropping it before then frees its key.
#[derive(Debug)]
pub(crate) struct KeyClaim {
    jobs: JobQueue,
    request: Arc<Repeatable>,
    job: Job,
    /// Lifetime of the key before there is a job.
    lives: Duration,
    /// `true` while the key is, or may be, this request's and there is no job yet.
    tries: AtomicBool,
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl JobQueue {
    /// Returns a trial for a request of `caller` to `path`, with `job` as the job it would become, or
    /// by which its answer is stored. Without a job it may take the time `within`.
    #[must_use]
    pub(crate) fn trial<'a>(
        &self,
        job: Job,
        (caller, path, key): (&str, &str, &[u8]),
        body: impl Iterator<Item = &'a [u8]>,
        within: Duration,
    ) -> KeyClaim {
        let mut name = Sha256::new();
        // Only POST requests become jobs, so the method need not be hashed.
        for part in [caller.as_bytes(), path.as_bytes(), key] {
            name.update((part.len() as u64).to_le_bytes());
            name.update(part);
        }
        let mut whole = Sha256::new();
        body.for_each(|piece| whole.update(piece));
        let request = Repeatable {
            key: format!("{}:idem:{}", self.prefix(), hex(name.finalize())),
            body: hex(whole.finalize()),
            gateway: self.0.gateways.id().to_owned(),
            signing: self.0.signing.clone(),
        };
        let lives = within.clamp(TRYING, LONGEST);
        KeyClaim { jobs: self.clone(), request: Arc::new(request), job, lives, tries: AtomicBool::new(false) }
    }

    /// Frees the key of a request that never became `job`, so that a repeat starts anew.
    pub(super) async fn free_key(&self, request: &Repeatable, job: Job) -> Result<(), RedisLoss> {
        self.set_key(request, ("", Duration::ZERO), &request.forms(job)).await.map(drop)
    }

    pub(super) async fn set_key(
        &self,
        request: &Repeatable,
        (to, length): (&str, Duration),
        from: &[String],
    ) -> Result<bool, RedisLoss> {
        let mut call = self.0.scripts.key.key(&request.key);
        call.arg(to).arg(millis(length)).arg(from);
        self.0.link.run(RedisOp::Jobs, PATIENCE, &call).await
    }
}

impl KeyClaim {
    /// Returns the job that the request would become.
    #[must_use]
    pub(crate) const fn job(&self) -> Job {
        self.job
    }

    /// Looks up the key, and claims it for this request if it is new.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn claim(&self) -> Result<KnownRequest, RedisLoss> {
        let mut set = cmd("SET");
        set.arg(&self.request.key).arg(self.request.trying(self.job)).arg("NX").arg("GET").arg("PX");
        set.arg(millis(self.lives));
        // Set before the call: Redis may set the key and its answer be lost.
        self.tries.store(true, Ordering::Release);
        let before: Option<String> = self.jobs.0.link.call_within(RedisOp::Jobs, PATIENCE, &set).await?;
        let Some(before) = before else { return Ok(KnownRequest::New) };
        self.tries.store(false, Ordering::Release);
        Ok(self.request.read(before))
    }

    /// Takes the key over from a failed request, or one that is not signed. Returns `false` if another request was faster.
    ///
    /// # Errors
    /// Returns [`RedisLoss`] if the command to Redis fails.
    pub(crate) async fn take_over(&self, before: &KnownRequest) -> Result<bool, RedisLoss> {
        let from = match before {
            KnownRequest::Same(before) => vec![before.text.clone(), self.request.accepted(before.job)],
            KnownRequest::Unsigned(text) => vec![text.clone()],
            KnownRequest::New => return Ok(true),
            KnownRequest::Other => return Ok(false),
        };
        let to = self.request.trying(self.job);
        self.tries.store(true, Ordering::Release);
        let done = self.jobs.set_key(&self.request, (&to, self.lives), &from).await?;
        self.tries.store(done, Ordering::Release);
        Ok(done)
    }

    /// Makes the key name the job, which is written but not yet enqueued: from here on the key
    /// survives the death of this gateway. Returns `false` if another request owns the key by now.
    pub(super) async fn commit(&self) -> Result<bool, RedisLoss> {
        let (from, to) = (self.request.forms(self.job), self.request.accepted(self.job));
        self.jobs.set_key(&self.request, (&to, self.jobs.limits().keep), &from).await
    }

    /// Marks the job as enqueued, so that dropping the trial keeps the key.
    pub(super) fn succeed(&self) {
        self.tries.store(false, Ordering::Release);
    }

    /// Stores the answer to the request, which repeats get from now on. The returned receiver completes
    /// when that is done, or Redis did not answer.
    #[must_use]
    pub(crate) fn keep(&self, mut answer: StoredAnswer) -> oneshot::Receiver<()> {
        self.succeed();
        let (done, stored) = oneshot::channel();
        answer.fit(&mut self.jobs.0.stored.lock(), &self.jobs);
        let (request, job) = (Arc::clone(&self.request), self.job);
        self.jobs.add_task(JobTask::Store { request, job, answer, _done: done });
        stored
    }

    /// Frees the key after a refusal, unless the request became a job. If Redis does not answer, or this
    /// future is dropped, the drop of the claim leaves that to a task.
    pub(crate) async fn forget(&self) {
        if self.tries.load(Ordering::Acquire) && self.jobs.free_key(&self.request, self.job).await.is_ok() {
            self.tries.store(false, Ordering::Release);
        }
    }
}

impl Drop for KeyClaim {
    fn drop(&mut self) {
        if *self.tries.get_mut() {
            let request = Arc::clone(&self.request);
            self.jobs.add_task(JobTask::FreeKey { request, job: self.job });
        }
    }
}
