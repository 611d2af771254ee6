//! Requests that are sent again: by their `Idempotency-Key`, the first job's answer is found.
//!
//! The key stands for a request that tries to become a job, and then, for a day, for that job, whose record decides what
//! a repeat gets. It changes hands only from what the next one saw there, so of several repeats one runs.
//!
//! A gateway may die with a request that it has not put where workers find it. Nobody will then, so a repeat takes the key
//! over once the gateway is not heard of any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::cmd;
use sha2::{Digest, Sha256};

use super::afterwards::Errand;
use super::keys::Job;
use super::{Jobs, PATIENCE};
use crate::metrics::RedisOp;
use crate::redis::link::Loss;

/// How long a key is remembered whose request is no job yet: longer than any waits for a seat.
const TRYING: Duration = Duration::from_secs(120);
/// How long one is whose request is.
const ACCEPTED: Duration = Duration::from_secs(24 * 3600);
/// After the job and the body, as long as there is no job; then comes the gateway.
const WAITS: &str = "waits";

/// A request as it is known again.
#[derive(Debug)]
pub(super) struct Repeatable {
    key: String,
    body: String,
    /// The gateway that has it.
    gateway: String,
}

impl Repeatable {
    fn trying(&self, job: Job) -> String {
        format!("{job} {} {WAITS} {}", self.body, self.gateway)
    }

    fn accepted(&self, job: Job) -> String {
        format!("{job} {}", self.body)
    }

    fn forms(&self, job: Job) -> [String; 2] {
        [self.trying(job), self.accepted(job)]
    }

    fn read(&self, text: &str) -> Known {
        let mut words = text.split(' ');
        let job = words.next().and_then(Job::parse);
        match job.filter(|_| words.next() == Some(&self.body)) {
            Some(job) => {
                let (accepted, gateway) = (words.next().is_none(), words.next().map(str::to_owned));
                Known::Same(Before { job, accepted, gateway, text: text.to_owned() })
            }
            None => Known::Other,
        }
    }
}

/// A request that was sent before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// As this job.
    pub job: Job,
    /// Whether it became that job, or still tries to.
    pub accepted: bool,
    /// The gateway that has it, as long as it tries to.
    pub gateway: Option<String>,
    /// What the key holds.
    text: String,
}

/// What is known of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is new, and tries to become a job.
    New,
    /// It was sent before.
    Same(Before),
    /// Another body came with this key.
    Other,
}

/// A request that may be repeated, on its way to become a job. Dropped before it is one, it leaves its key to the next.
#[derive(Debug)]
pub struct Trial {
    jobs: Jobs,
    request: Arc<Repeatable>,
    job: Job,
    /// The key is, or may be, this request's, and it is no job.
    tries: AtomicBool,
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Jobs {
    /// A request of `caller` to `path` with this key and body, that is to be `job`.
    #[must_use]
    pub fn trial<'a>(
        &self,
        job: Job,
        (caller, path, key): (&str, &str, &[u8]),
        body: impl Iterator<Item = &'a [u8]>,
    ) -> Trial {
        let mut name = Sha256::new();
        // Only POST is ever a job, so the method is part of what `idem` means.
        for part in [caller.as_bytes(), path.as_bytes(), key] {
            name.update((part.len() as u64).to_le_bytes());
            name.update(part);
        }
        let mut whole = Sha256::new();
        body.for_each(|piece| whole.update(piece));
        let request = Repeatable {
            key: format!("{}:idem:{}", self.prefix(), hex(name.finalize())),
            body: hex(whole.finalize()),
            gateway: self.0.dams.id().to_owned(),
        };
        Trial { jobs: self.clone(), request: Arc::new(request), job, tries: AtomicBool::new(false) }
    }

    /// It never became `job`: whoever sends it again begins anew.
    pub(super) async fn unknow(&self, request: &Repeatable, job: Job) -> Result<(), Loss> {
        self.set_key(request, ("", Duration::ZERO), &request.forms(job)).await.map(drop)
    }

    async fn set_key(
        &self,
        request: &Repeatable,
        (to, length): (&str, Duration),
        from: &[String],
    ) -> Result<bool, Loss> {
        let mut call = self.0.scripts.key.key(&request.key);
        call.arg(to).arg(millis(length)).arg(from);
        self.0.link.run(RedisOp::Jobs, PATIENCE, &call).await
    }
}

impl Trial {
    /// The job that it is to be.
    #[must_use]
    pub const fn job(&self) -> Job {
        self.job
    }

    /// Whether it was sent before. If not, its key is its own from now on.
    ///
    /// # Errors
    /// When Redis does not say.
    pub async fn know(&self) -> Result<Known, Loss> {
        let mut set = cmd("SET");
        set.arg(&self.request.key).arg(self.request.trying(self.job)).arg("NX").arg("GET").arg("PX");
        set.arg(millis(TRYING));
        // The answer may never be heard, and the key be there.
        self.tries.store(true, Ordering::Release);
        let before: Option<String> = self.jobs.0.link.call_within(RedisOp::Jobs, PATIENCE, &set).await?;
        let Some(before) = before else { return Ok(Known::New) };
        self.tries.store(false, Ordering::Release);
        Ok(self.request.read(&before))
    }

    /// Takes the key over from what it stood for `before`, which came to nothing. Says whether nobody else did.
    ///
    /// # Errors
    /// When Redis does not say.
    pub async fn take_over(&self, before: &Before) -> Result<bool, Loss> {
        let from = [before.text.clone(), self.request.accepted(before.job)];
        let to = self.request.trying(self.job);
        self.tries.store(true, Ordering::Release);
        let done = self.jobs.set_key(&self.request, (&to, TRYING), &from).await?;
        self.tries.store(done, Ordering::Release);
        Ok(done)
    }

    /// Its job is written down, and about to be where somebody finds it: whatever becomes of this gateway, the key stands
    /// for the job. Says whether it was still its own.
    pub(super) async fn settle(&self) -> Result<bool, Loss> {
        let (from, to) = (self.request.forms(self.job), self.request.accepted(self.job));
        self.jobs.set_key(&self.request, (&to, ACCEPTED), &from).await
    }

    /// The job is there: the key is its own from now on.
    pub(super) fn succeed(&self) {
        self.tries.store(false, Ordering::Release);
    }

    /// It was refused: whoever sends it again begins anew, if it is no job.
    pub async fn forget(&self) {
        if self.tries.swap(false, Ordering::AcqRel)
            && self.jobs.unknow(&self.request, self.job).await.is_err()
        {
            tracing::debug!("a key of a request that was refused is remembered for a while");
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if *self.tries.get_mut() {
            let request = Arc::clone(&self.request);
            self.jobs.0.afterwards.add(Errand::Unknow { request, job: self.job });
        }
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
