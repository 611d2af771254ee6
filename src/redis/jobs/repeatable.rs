//! What Redis stores under an `Idempotency-Key`.

use super::keys::Job;

/// Marker after the job and the body digest while there is no job yet; the gateway follows it.
const WAITS: &str = "waits";

/// Identity of a repeatable request.
#[derive(Debug)]
pub(super) struct Repeatable {
    /// Key in Redis.
    pub(super) key: String,
    /// Digest of the body.
    pub(super) body: String,
    /// The gateway that handles the request.
    pub(super) gateway: String,
}

impl Repeatable {
    pub(super) fn trying(&self, job: Job) -> String {
        format!("{job} {} {WAITS} {}", self.body, self.gateway)
    }

    pub(super) fn accepted(&self, job: Job) -> String {
        format!("{job} {}", self.body)
    }

    pub(super) fn forms(&self, job: Job) -> [String; 2] {
        [self.trying(job), self.accepted(job)]
    }

    pub(super) fn read(&self, text: &str) -> KnownRequest {
        let mut words = text.split(' ');
        let job = words.next().and_then(Job::parse);
        match job.filter(|_| words.next() == Some(&self.body)) {
            Some(job) => {
                let (accepted, gateway) = (words.next().is_none(), words.next().map(str::to_owned));
                KnownRequest::Same(EarlierRequest { job, accepted, gateway, text: text.to_owned() })
            }
            None => KnownRequest::Other,
        }
    }
}

/// An earlier request with the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierRequest {
    /// Its job.
    pub job: Job,
    /// `true` if the request became that job; `false` if it still tries to.
    pub accepted: bool,
    /// The gateway that handles the request; `None` once it is a job.
    pub gateway: Option<String>,
    /// Value of the key, for compare-and-set.
    pub(super) text: String,
}

/// Result of looking up an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownRequest {
    /// The key is new. The request now owns it and may become a job.
    New,
    /// The same request was sent before.
    Same(EarlierRequest),
    /// The key was used with another body.
    Other,
}
