//! Requests that are sent again: by their `Idempotency-Key`, the first job's answer is found.

use std::time::Duration;

use redis::cmd;
use sha2::{Digest, Sha256};

use super::keys::Job;
use super::{Jobs, PATIENCE};
use crate::metrics::RedisOp;
use crate::redis::link::Loss;

/// How long a key is remembered whose request is not accepted yet: longer than any waits for a seat.
const TRYING: Duration = Duration::from_secs(120);
/// How long one is whose request was.
const ACCEPTED: Duration = Duration::from_secs(24 * 3600);

/// A request as it is known again.
#[derive(Clone, Debug)]
pub struct Repeatable {
    key: String,
    body: String,
}

/// What is known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is new, and is to be this job.
    New(Job),
    /// It is that job.
    Same(Job),
    /// Another body came with this key.
    Other,
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Jobs {
    /// A request of `caller` to `path` with this key and body.
    #[must_use]
    pub fn repeatable<'a>(
        &self,
        (caller, path, key): (&str, &str, &[u8]),
        body: impl Iterator<Item = &'a [u8]>,
    ) -> Repeatable {
        let mut name = Sha256::new();
        // Only POST is ever a job, so the method is part of what `idem` means.
        for part in [caller.as_bytes(), path.as_bytes(), key] {
            name.update((part.len() as u64).to_le_bytes());
            name.update(part);
        }
        let mut whole = Sha256::new();
        body.for_each(|piece| whole.update(piece));
        Repeatable {
            key: format!("{}:idem:{}", self.prefix(), hex(name.finalize())),
            body: hex(whole.finalize()),
        }
    }

    /// Whether it was sent before. If not, `job` is what it is known as from now on.
    ///
    /// # Errors
    /// When Redis does not say.
    pub async fn know(&self, request: &Repeatable, job: Job) -> Result<Known, Loss> {
        let mut set = cmd("SET");
        set.arg(&request.key).arg(format!("{job} {}", request.body)).arg("NX").arg("GET").arg("PX");
        set.arg(millis(TRYING));
        let before: Option<String> = self.0.link.call_within(RedisOp::Jobs, PATIENCE, &set).await?;
        let Some(before) = before else { return Ok(Known::New(job)) };
        let known = before.split_once(' ').and_then(|(job, body)| Some((Job::parse(job)?, body)));
        Ok(match known {
            Some((job, body)) if body == request.body => Known::Same(job),
            _ => Known::Other,
        })
    }

    /// It was accepted as `job`.
    ///
    /// # Errors
    /// When Redis does not do it: then it may run again when it is sent again.
    pub async fn accepted(&self, request: &Repeatable, job: Job) -> Result<(), Loss> {
        let mut set = cmd("SET");
        set.arg(&request.key).arg(format!("{job} {}", request.body)).arg("PX").arg(millis(ACCEPTED));
        self.0.link.call_within(RedisOp::Jobs, PATIENCE, &set).await
    }

    /// It was not accepted: whoever sends it again begins anew.
    pub async fn unknow(&self, request: &Repeatable) {
        let forget = cmd("DEL").arg(&request.key).take();
        if self.0.link.call_within::<i64>(RedisOp::Jobs, PATIENCE, &forget).await.is_err() {
            tracing::debug!("a key of a request that was refused is remembered for a while");
        }
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
