//! The parameters of a request, and the ways in which a worker can fail it.

use std::sync::Arc;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use crate::clock::Nanos;
use crate::request::{Caller, Class, PromptPrefix, RequestCost};

use super::canary_counts::LoadSide;
use super::ledger::RequestLoad;

/// A request for one permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermitRequest {
    /// Id of the caller; waiting is fair between callers.
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
    /// `true` if the answer is streamed: only then the first token is reported.
    pub stream: bool,
    /// `true` if it may be sent twice: only then its permit can be revoked for a critical request.
    pub repeatable: bool,
    /// Bytes of body held in memory while the request waits.
    pub body_bytes: u64,
    /// The session, if the request has one: it prefers the worker with its cache.
    pub session: Option<u64>,
    /// The prefix of the prompt, if it may choose the worker: the one that has read most of it.
    pub prefix: Option<Arc<PromptPrefix>>,
    /// When the client stops waiting for a worker; `None` if it sets no time.
    pub deadline: Option<Nanos>,
    /// The only worker that can serve it; `None` for any.
    pub worker: Option<Arc<str>>,
    /// `true` if it may go to an external worker.
    pub external: bool,
}

impl PermitRequest {
    /// Returns the request of `caller` with the cost `request_cost`.
    #[must_use]
    pub fn of(caller: &Caller, request_cost: &RequestCost) -> Self {
        Self {
            caller: Arc::clone(&caller.id),
            weight: caller.weight,
            class: caller.class,
            prompt_tokens: request_cost.prompt_tokens,
            expected_output: request_cost.expected_output,
            sequences: request_cost.sequences,
            stream: request_cost.stream,
            repeatable: request_cost.retryable,
            body_bytes: request_cost.body_bytes,
            session: request_cost.session,
            prefix: request_cost.prefix.clone(),
            deadline: request_cost.deadline,
            worker: None,
            external: caller.may_use_external(),
        }
    }

    /// Returns the hash of the caller's id, the same in every class.
    pub(super) fn caller_key(&self) -> u64 {
        SipHasher13::new().hash(self.caller.as_bytes())
    }

    /// Returns `true` if its permit may be revoked for a critical request later.
    pub(super) fn is_revocable(&self) -> bool {
        self.class == Class::Batch && self.repeatable
    }

    /// Returns the load that the request puts on a worker, if none of its prompt is cached there.
    #[must_use]
    pub fn load(&self) -> RequestLoad {
        RequestLoad {
            sequences: self.sequences.max(1),
            prompt: self.prompt_tokens,
            output: self.expected_output,
            cached: 0,
            external: self.external,
            side: LoadSide::default(),
        }
    }
}

/// Reasons to prefer some of the workers for a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Affinity {
    pub(super) session: Option<u64>,
    pub(super) prefix: Option<Arc<PromptPrefix>>,
}

/// How a worker failed a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkerFailure {
    /// No connection could be made.
    Connect,
    /// The connection broke, or the answer was malformed.
    Broke,
    /// The worker was silent for too long.
    Timeout,
    /// The worker answered 429 or 503; holds the time for which it asked to be left alone, if any.
    Busy(Option<Duration>),
    /// The worker answered 502 or 504: its backend is not there.
    Refused,
    /// An external worker answered 401 or 403: it does not accept the gateway's credentials.
    Rejected,
    /// The worker answered 500, or something that does not answer the request.
    Error,
}

impl WorkerFailure {
    /// Returns `true` if repeated failures of this kind eject a worker. Unreachable workers have a
    /// cool-down, late ones are left to the limit algorithm, busy ones are paused.
    #[must_use]
    pub const fn counts(self) -> bool {
        matches!(self, Self::Broke | Self::Refused | Self::Rejected | Self::Error)
    }
}
