//! What workers need to know of a request.

use std::sync::Arc;
use std::time::Duration;

use super::again::Trial;
use super::keys::{Job, Side};
use crate::fleet::heartbeat::Key;

/// Which job a request is, when that was decided before it came to the queue: an extension of the request.
#[derive(Clone, Debug)]
pub enum Ticket {
    /// One that waits already, and is to be brought to the workers.
    Pending(Job),
    /// A new one, to be found again when the request is repeated.
    Repeatable(Arc<Trial>),
}

/// What workers need to know of a request.
#[derive(Clone, Debug)]
pub struct Request {
    /// What was asked.
    pub path: String,
    /// Headers for the worker: a JSON object.
    pub headers: String,
    /// The body.
    pub body: Vec<u8>,
    /// Who asks; nobody's name.
    pub caller: String,
    /// With which priority.
    pub class: &'static str,
    /// Whether the answer is to be a stream.
    pub stream: bool,
    /// How long it may take, from now on.
    pub within: Duration,
    /// By what it is known again, if it may be repeated. Then its answer is kept for a day.
    pub trial: Option<Arc<Trial>>,
    /// What it is signed with, if jobs are signed.
    pub key: Option<Key>,
}

impl Request {
    /// It is a job now.
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
