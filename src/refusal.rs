//! Why a request was not served: one closed list of reasons, and the facts a refused client needs.
//!
//! A [`Refusal`] is the error type of every layer. It carries facts, not a response: `layers::rescue` is the only
//! place that turns one into HTTP, and [`Reason`] is the one name used for the status, the header, the metric label
//! and the log line.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The closed list of reasons, as in the header `x-traffic-dam-reason` and the metric label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A rule counted in requests is used up.
    RateLimited,
    /// A rule counted in tokens is used up.
    TokenLimited,
    /// The request alone exceeds a quota's burst, or the KV cache of every worker.
    RequestTooLarge,
    /// The predicted wait is beyond the budget, the queue or the buffers are full, or the waiter was displaced.
    Overloaded,
    /// The request waited as long as it was allowed to.
    QueueTimeout,
    /// No worker is there to serve this model.
    NoWorker,
    /// The gateway is going down.
    Draining,
    /// An administrator closed the gateway.
    Maintenance,
    /// A rule cannot be asked, and lets nothing through until it can.
    LimiterUnavailable,
    /// No connection to a worker could be made.
    UpstreamUnreachable,
    /// The worker broke off before the first content.
    UpstreamBroke,
    /// The worker was silent for too long.
    UpstreamTimeout,
    /// The key is unknown, or none was given where one is needed.
    Unauthorized,
    /// The request is malformed.
    BadRequest,
    /// The body exceeds `bounds.body`.
    BodyTooLarge,
    /// The body did not arrive within `bounds.body_read`.
    BodyTimeout,
    /// The body is compressed.
    UnsupportedEncoding,
    /// The path is not let through.
    NotFound,
    /// The path is let through for other methods only.
    MethodNotAllowed,
    /// The same request, by its `Idempotency-Key`, is still under way.
    Conflict,
    /// Another body came with this `Idempotency-Key` before.
    KeyReused,
    /// The job was here, and its answer is not kept any more.
    Expired,
    /// A feature of HTTP that this path does not support, such as an upgrade.
    Unsupported,
    /// A defect of the gateway itself; the log has the details.
    InternalError,
}

impl Reason {
    /// Every reason, for tables and tests.
    pub const ALL: [Self; 24] = [
        Self::RateLimited,
        Self::TokenLimited,
        Self::RequestTooLarge,
        Self::Overloaded,
        Self::QueueTimeout,
        Self::NoWorker,
        Self::Draining,
        Self::Maintenance,
        Self::LimiterUnavailable,
        Self::UpstreamUnreachable,
        Self::UpstreamBroke,
        Self::UpstreamTimeout,
        Self::Unauthorized,
        Self::BadRequest,
        Self::BodyTooLarge,
        Self::BodyTimeout,
        Self::UnsupportedEncoding,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::KeyReused,
        Self::Expired,
        Self::Unsupported,
        Self::InternalError,
    ];

    /// The reason's name, the same in header, label and log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::TokenLimited => "token_limited",
            Self::RequestTooLarge => "request_too_large",
            Self::Overloaded => "overloaded",
            Self::QueueTimeout => "queue_timeout",
            Self::NoWorker => "no_worker",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::LimiterUnavailable => "limiter_unavailable",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamBroke => "upstream_broke",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Unauthorized => "unauthorized",
            Self::BadRequest => "bad_request",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Conflict => "conflict",
            Self::KeyReused => "key_reused",
            Self::Expired => "expired",
            Self::Unsupported => "unsupported",
            Self::InternalError => "internal_error",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// One per request.
    Requests,
    /// Prompt and output tokens.
    Tokens,
}

impl Unit {
    /// The unit's name in configuration, headers and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }
}

/// How one rule stands for one key: what the rate-limit headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The rule's configured name.
    pub rule: Arc<str>,
    /// What the rule counts.
    pub unit: Unit,
    /// How much fits into `window`: the burst of a bucket, the limit of a window.
    pub limit: u64,
    /// What is left of it now, after this request.
    pub remaining: u64,
    /// How long until the quota is whole again.
    pub reset: Duration,
    /// The window of the quota: of a bucket the time it needs to fill from empty.
    pub window: Duration,
}

/// `wait`, and at random up to half of it more: many who are refused for one reason at once must not come back at once.
#[must_use]
pub fn spread(wait: Duration) -> Duration {
    wait + (wait / 2).mul_f64(fastrand::f64())
}

/// A request that was not served, and what its client should know.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// One or two sentences for the caller: what was exceeded, by which rule, what to do. Holds no secret and
    /// nothing of the prompt.
    pub message: Cow<'static, str>,
    /// The request field that is at fault, as a dotted path, when one is.
    pub param: Option<Cow<'static, str>>,
    /// When the same request would be served, for refusals where waiting helps.
    pub retry_after: Option<Duration>,
    /// How the rules stand, when a rule refused.
    pub standings: Vec<Standing>,
    /// The methods that the path takes, when it does not take that of the request.
    pub allow: Option<Box<str>>,
}

impl Refusal {
    /// A refusal with a reason and a message and no further facts.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            message: message.into(),
            param: None,
            retry_after: None,
            standings: Vec::new(),
            allow: None,
        }
    }

    /// Names the field of the request that is at fault.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Names the methods that the path takes, as in the header `Allow`.
    #[must_use]
    pub fn with_allow(mut self, methods: String) -> Self {
        self.allow = Some(methods.into_boxed_str());
        self
    }

    /// Says when to come back.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Says how the rules stand.
    #[must_use]
    pub fn with_standings(mut self, standings: Vec<Standing>) -> Self {
        self.standings = standings;
        self
    }
}

impl From<Infallible> for Refusal {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn waits_are_spread_over_half_of_them_more() {
        let wait = Duration::from_secs(5);
        let told: Vec<_> = (0..100).map(|_| spread(wait)).collect();
        assert!(told.iter().all(|told| (wait..=wait * 3 / 2).contains(told)));
        assert_eq!(told.iter().collect::<HashSet<_>>().len(), 100, "nobody is told what another was");
        assert!(spread(Duration::MAX / 2) >= Duration::MAX / 2, "without overflow");
    }

    #[test]
    fn names_are_distinct_and_fit_a_metric_label() {
        let names: HashSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
    }
}
