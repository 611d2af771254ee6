//! Request data of a job.

use std::sync::Arc;
use std::time::Duration;

use super::idempotency::KeyClaim;
use super::keys::{Job, Side};
use crate::fleet::heartbeat::SigningKey;

/// Request extension for a request whose job was chosen before it came to the queue.
#[derive(Clone, Debug)]
pub(crate) enum JobTicket {
    /// A pending job, which is now to be enqueued.
    Pending(Job),
    /// A new job, which a repeat of the request finds by its `Idempotency-Key`.
    Repeatable(Arc<KeyClaim>),
}

/// Request data of a job.
#[derive(Clone, Debug)]
pub(crate) struct JobRequest {
    /// The request path.
    pub path: String,
    /// Request headers for the worker, as a JSON object.
    pub headers: String,
    /// The request body.
    pub body: Vec<u8>,
    /// The caller, as its [`caller_hash`](super::caller_hash) hash.
    pub caller: String,
    /// Priority class.
    pub class: &'static str,
    /// `true` if the client asked for a stream.
    pub stream: bool,
    /// Time limit, from now on.
    pub within: Duration,
    /// Idempotency of a repeatable request. With it the reply is kept for a day.
    pub trial: Option<Arc<KeyClaim>>,
    /// Signature key, if jobs are signed.
    pub key: Option<SigningKey>,
}

impl JobRequest {
    /// Marks a repeatable request as enqueued.
    pub(super) fn succeed(&self) {
        if let Some(trial) = &self.trial {
            trial.succeed();
        }
    }

    pub(super) fn signature(&self, prefix: &str, job: Job, side: &Side) -> String {
        let Some(key) = &self.key else { return String::new() };
        let mut text = format!("{job}\n{}\n{}\n{}\n", side.pool, self.path, self.headers).into_bytes();
        text.extend_from_slice(&self.body);
        key.sign(&format!("{prefix}:job"), &text)
    }
}
