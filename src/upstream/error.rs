//! Errors of attempts and of answers, and which of them allow another worker.

use std::error::Error as _;
use std::time::Duration;

use http::{Method, StatusCode};

use super::connections::{
    ConnectError, ExchangeError, Http1Error, LinkError, describe_break, is_unprocessed,
};
use super::deadline::TimedOutWait;
use super::upload::Upload;
use crate::redis::jobs::{self, SubmitRefused};
use crate::redis::link::BACK;
use crate::refusal::{Reason, Refusal, with_jitter};
use crate::request::PayloadError;
use crate::shed::WorkerFailure;

/// `Retry-After` when a queue is full although the gate has room: other gateways fill it, and each
/// makes room as its responses end.
const FULL: Duration = Duration::from_secs(1);

/// Error that ended an attempt without a response.
#[derive(Debug)]
pub(crate) enum AttemptError {
    /// No connection: the worker has not seen the request.
    Unreachable(ConnectError),
    /// Connection failed, or carried no HTTP, after the request may have been written.
    Broke(LinkError),
    /// Reused idle connection ended as the request was written on it, and no byte came back. Both
    /// sides may be correct: the worker closes connections it considers unused.
    Stale,
    /// Worker refused the request on a shared connection before it did anything with it.
    Unprocessed,
    /// Queue job failed.
    Job(jobs::JobError),
    /// Job could not be put into the queue.
    NotQueued(SubmitRefused),
    /// Worker switched to a protocol that was not requested.
    Switched,
    /// Response that cannot be passed on; says what it is instead.
    Unusable(&'static str),
    /// Pool was switched to its other colour before the request was sent.
    ColourSwitched,
    /// Timeout before the first content.
    Silent(TimedOutWait),
    /// External worker's provider has no quota left; with the time until it has some, if it said so.
    Exhausted(Option<Duration>),
    /// External worker does not accept the gateway's credentials.
    Rejected(StatusCode),
    /// Client's request body failed while it was being forwarded: not the worker's error.
    Client(Refusal),
}

/// Error that broke a response off.
#[derive(Debug)]
pub(crate) enum AnswerBreak {
    /// Connection failed.
    Http(LinkError),
    /// Job failed.
    Job(jobs::JobError),
}

impl From<ConnectError> for AttemptError {
    fn from(error: ConnectError) -> Self {
        Self::Unreachable(error)
    }
}

impl From<ExchangeError> for AttemptError {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Link(error) => Self::of_exchange(error),
            ExchangeError::Switched => Self::Switched,
            ExchangeError::Silent(wait) => Self::Silent(wait),
        }
    }
}

impl From<AnswerBreak> for AttemptError {
    fn from(error: AnswerBreak) -> Self {
        match error {
            AnswerBreak::Http(error) => Self::of_exchange(error),
            AnswerBreak::Job(fault) => Self::Job(fault),
        }
    }
}

impl AttemptError {
    /// Classifies an error of the exchange, which may be one of the client's body.
    fn of_exchange(error: LinkError) -> Self {
        let error = match error {
            LinkError::Http1(Http1Error::Payload(client)) => return Self::Client(client.refusal()),
            LinkError::Http1(error) => return Self::Broke(LinkError::Http1(error)),
            LinkError::Http2(error) => error,
        };
        match error.source().and_then(|source| source.downcast_ref::<PayloadError>()) {
            Some(client) => Self::Client(client.refusal()),
            None if is_unprocessed(&error) => Self::Unprocessed,
            None => Self::Broke(LinkError::Http2(error)),
        }
    }

    /// Turns [`AttemptError::Broke`] into [`AttemptError::Stale`], for a reused connection.
    pub(crate) fn stale(self) -> Self {
        match self {
            Self::Broke(_) => Self::Stale,
            fault => fault,
        }
    }

    /// Blames the client if its body failed, or if the worker failed while the rest of its body was
    /// due: a worker may time that out, and has nothing to answer before.
    pub(crate) fn blame_client_upload(self, upload: Option<&Upload>) -> Self {
        let of_worker = matches!(self, Self::Broke(_) | Self::Stale | Self::Silent(_) | Self::Unusable(_));
        if !of_worker {
            return self;
        }
        if let Some(refusal) = upload.and_then(Upload::fault) {
            return Self::Client(refusal);
        }
        if !upload.is_some_and(Upload::is_owed) {
            return self;
        }
        let message = match self {
            Self::Silent(_) => "The rest of the request body did not arrive in time.",
            _ => "The worker ended the request before the rest of its body had arrived.",
        };
        Self::Client(Refusal::new(Reason::BodyTimeout, message))
    }

    /// Returns whether the worker may have begun the request.
    pub(crate) const fn trouble(&self) -> RepeatSafety {
        match self {
            // A provider's refusal comes before any work.
            Self::Unreachable(_)
            | Self::Unprocessed
            | Self::ColourSwitched
            | Self::Exhausted(_)
            | Self::Rejected(_) => RepeatSafety::NeverSent,
            Self::Broke(_)
            | Self::Stale
            | Self::Switched
            | Self::Unusable(_)
            | Self::Silent(TimedOutWait::FirstToken(_) | TimedOutWait::WorkerSilent) => {
                RepeatSafety::MaybeBegun
            }
            // A job has already been tried by as many workers as allowed.
            Self::Silent(TimedOutWait::Idle(_) | TimedOutWait::Total(_))
            | Self::Client(_)
            | Self::Job(_)
            | Self::NotQueued(_) => RepeatSafety::Final,
        }
    }

    /// Returns the kind of error, for the log.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Broke(_) => "failed before the first content",
            Self::Stale => "the worker closed the idle connection",
            Self::Unprocessed => "the worker refused the HTTP/2 stream",
            Self::Job(_) => "the job failed",
            Self::NotQueued(_) => "not queued",
            Self::Switched => "switched to a protocol that was not requested",
            Self::Unusable(what) => what,
            Self::ColourSwitched => "the pool was switched to its other colour",
            Self::Silent(_) => "timed out",
            Self::Exhausted(_) => "the provider's limit is used up",
            Self::Rejected(_) => "the provider rejects the gateway's credentials",
            Self::Client(_) => "client error",
        }
    }

    /// Returns the failure to count against the worker, if any.
    pub(crate) const fn blame(&self) -> Option<WorkerFailure> {
        match self {
            Self::Unreachable(_) => Some(WorkerFailure::Connect),
            Self::Broke(_) | Self::Switched => Some(WorkerFailure::Broke),
            Self::Unusable(_) => Some(WorkerFailure::Error),
            Self::Silent(_) => Some(WorkerFailure::Timeout),
            Self::Exhausted(wait) => Some(WorkerFailure::Busy(*wait)),
            Self::Rejected(_) => Some(WorkerFailure::Rejected),
            // If the worker is down, the next connection shows it. A queue error names no single
            // worker.
            Self::Stale
            | Self::Unprocessed
            | Self::Client(_)
            | Self::ColourSwitched
            | Self::Job(_)
            | Self::NotQueued(_) => None,
        }
    }

    /// Returns the client's error. It names the worker, never its address.
    pub(crate) fn into_refusal(self, worker: &str) -> Refusal {
        match self {
            Self::Unreachable(error) => Refusal::new(
                Reason::UpstreamUnreachable,
                format!("Worker {worker} could not be reached: {error}."),
            ),
            Self::Broke(error) => Refusal::new(
                Reason::UpstreamBroke,
                format!("Worker {worker} failed before the first content: {}.", describe_break(&error)),
            ),
            Self::Stale => Refusal::new(
                Reason::UpstreamBroke,
                format!("Worker {worker} closed an idle connection just as the request was written on it."),
            ),
            Self::Unprocessed => Refusal::new(
                Reason::UpstreamUnreachable,
                format!("Worker {worker} refused the request before it began (HTTP/2)."),
            ),
            Self::Switched => Refusal::new(
                Reason::UpstreamBroke,
                format!("Worker {worker} switched to a protocol that was not requested."),
            ),
            Self::Unusable(what) => {
                Refusal::new(Reason::UpstreamBroke, format!("Worker {worker} sent {what}."))
            }
            Self::ColourSwitched => Refusal::new(
                Reason::NoWorker,
                "The pool was switched to its other colour, which cannot take this request now.",
            ),
            Self::Silent(wait) => {
                Refusal::new(Reason::UpstreamTimeout, format!("Worker {worker} {}.", wait.describe()))
            }
            Self::Exhausted(wait) => {
                let message = format!("The provider of worker {worker} has no quota left for now.");
                let wait = wait.unwrap_or(FULL);
                let retry = wait + (wait / 10).max(FULL).mul_f64(fastrand::f64());
                Refusal::new(Reason::Overloaded, message).with_exact_retry_after(retry)
            }
            Self::Rejected(status) => {
                let message = format!(
                    "Worker {worker} does not accept the gateway's credentials ({}): an operator must correct them.",
                    status.as_u16()
                );
                Refusal::new(Reason::UpstreamBroke, message)
            }
            Self::Client(refusal) => refusal,
            Self::Job(fault) => fault.into_refusal(&format!("Worker {worker}")),
            Self::NotQueued(SubmitRefused::Full) => {
                let message = format!("The queue of worker {worker} is full.");
                Refusal::new(Reason::Overloaded, message).with_retry_after(with_jitter(FULL))
            }
            Self::NotQueued(SubmitRefused::Taken) => Refusal::new(
                Reason::Conflict,
                "An earlier request with this idempotency key is still running.",
            ),
            Self::NotQueued(
                why @ (SubmitRefused::Many(_)
                | SubmitRefused::Heavy(_)
                | SubmitRefused::Gone
                | SubmitRefused::Past
                | SubmitRefused::Far(_)
                | SubmitRefused::Delayed
                | SubmitRefused::Lost(_)
                | SubmitRefused::NoName),
            ) => {
                let message = format!("The queue of worker {worker} did not accept the request: {why}.");
                Refusal::new(Reason::UpstreamUnreachable, message).with_retry_after(with_jitter(BACK))
            }
        }
    }
}

/// How far the worker may have got with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RepeatSafety {
    /// Worker never saw it.
    NeverSent,
    /// Worker may have begun or refused it.
    MaybeBegun,
    /// Another worker cannot help.
    Final,
}

impl RepeatSafety {
    /// Returns `true` if the request may be sent to another worker. `repeatable`: the method is
    /// idempotent, or the operator or the kind of call says that a second run does no harm.
    pub(crate) const fn allows_another(self, repeatable: bool) -> bool {
        match self {
            Self::NeverSent => true,
            Self::MaybeBegun => repeatable,
            Self::Final => false,
        }
    }
}

/// Returns `true` if a second run of the request does no harm.
pub(crate) fn is_repeatable(method: &Method, retryable: bool) -> bool {
    retryable || method.is_idempotent()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_may_have_begun_is_repeated_only_where_that_does_no_harm() {
        for (method, retryable, expected) in [
            (Method::POST, false, false),
            (Method::POST, true, true),
            (Method::PATCH, false, false),
            (Method::GET, false, true),
            (Method::PUT, false, true),
            (Method::DELETE, false, true),
        ] {
            let repeatable = is_repeatable(&method, retryable);
            assert_eq!(RepeatSafety::MaybeBegun.allows_another(repeatable), expected, "{method} {retryable}");
            assert!(RepeatSafety::NeverSent.allows_another(repeatable));
            assert!(!RepeatSafety::Final.allows_another(repeatable));
        }
    }

    #[test]
    fn an_unreachable_worker_is_named_without_its_address() {
        let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "10.0.0.5:8000 refused");
        let refusal = AttemptError::Unreachable(ConnectError::Tcp(refused)).into_refusal("w1");
        assert_eq!(refusal.reason, Reason::UpstreamUnreachable);
        assert_eq!(refusal.message, "Worker w1 could not be reached: connecting failed: connection refused.");
        let unknown = std::io::Error::other("failed to lookup address information of gpu-7.internal");
        let refusal = AttemptError::Unreachable(ConnectError::Name(unknown)).into_refusal("w1");
        assert_eq!(refusal.message, "Worker w1 could not be reached: its host name cannot be resolved.");
    }
}
