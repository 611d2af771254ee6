//! What a request asks of a gate, and what can go wrong with the worker it gets.

use std::sync::Arc;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use crate::clock::Nanos;
use crate::request::{Caller, Class, Demand};

use super::ledger::Load;

/// A request for one seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Who asks: waiting is fair between callers.
    pub caller: Arc<str>,
    /// The caller's share relative to others; 0 counts as 1.
    pub weight: u32,
    /// The priority.
    pub class: Class,
    /// Estimated prompt tokens.
    pub prompt_tokens: u64,
    /// Expected output tokens over all sequences.
    pub expected_output: u64,
    /// Sequences the worker will decode; 0 counts as 1.
    pub sequences: u32,
    /// Whether the answer is to be streamed: only then a first token will be told.
    pub stream: bool,
    /// Whether it may be sent to a worker twice: only then its seat can be given to a critical request.
    pub repeatable: bool,
    /// Bytes of body held in memory while the request waits.
    pub body_bytes: u64,
    /// The session, when the request belongs to one: it prefers the worker that has its cache.
    pub session: Option<u64>,
    /// When the client will no longer wait for a worker.
    pub deadline: Option<Nanos>,
}

impl Ask {
    /// What `caller` asks with `demand`.
    #[must_use]
    pub fn of(caller: &Caller, demand: &Demand) -> Self {
        Self {
            caller: Arc::clone(&caller.id),
            weight: caller.weight,
            class: caller.class,
            prompt_tokens: demand.prompt_tokens,
            expected_output: demand.expected_output,
            sequences: demand.sequences,
            stream: demand.stream,
            repeatable: demand.retryable,
            body_bytes: demand.body_bytes,
            session: demand.session,
            deadline: demand.deadline,
        }
    }

    /// A number that stands for the caller, the same in every class.
    pub(super) fn caller_key(&self) -> u64 {
        SipHasher13::new().hash(self.caller.as_bytes())
    }

    /// What the request puts on a worker.
    #[must_use]
    pub fn load(&self) -> Load {
        Load { sequences: self.sequences.max(1), prompt: self.prompt_tokens, output: self.expected_output }
    }
}

/// How a worker failed a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection could be made.
    Connect,
    /// The connection broke, or the answer was malformed.
    Broke,
    /// The worker was silent for too long.
    Timeout,
    /// The worker answered 429 or 503, and asked to be left alone for so long if it said so.
    Busy(Option<Duration>),
    /// The worker answered 502 or 504: what it stands for is not there.
    Refused,
    /// The worker answered 500, or something that is no answer to the request.
    Error,
}

impl Failure {
    /// Whether a worker that fails so again and again is ejected. One that cannot be reached is tried again by other
    /// rules, one that is late is its law's affair, and one that is busy is left alone.
    #[must_use]
    pub const fn counts(self) -> bool {
        matches!(self, Self::Broke | Self::Refused | Self::Error)
    }
}
