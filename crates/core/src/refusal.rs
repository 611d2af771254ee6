//! Why a request was not served: a closed list of reasons, and the facts that the client needs.
//!
//! A [`Refusal`] is the error type of every layer. It has facts, not a response: only
//! `layers::rescue` makes HTTP of it. [`Reason`] gives the status, and the name in header, label,
//! log.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};

/// The reasons, as in the header `x-traffic-dam-reason` and the metric label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The quota of a rule that counts requests is used up.
    RateLimited,
    /// The quota of a rule that counts tokens is used up.
    TokenLimited,
    /// The request alone exceeds a quota's burst, or the KV cache of every worker.
    RequestTooLarge,
    /// The predicted wait exceeds the budget, a queue or buffer is full, or a waiter was displaced.
    Overloaded,
    /// The request used up its wait budget.
    QueueTimeout,
    /// No worker is available for this model.
    NoWorker,
    /// The gateway is shutting down.
    Draining,
    /// An administrator closed the gateway.
    Maintenance,
    /// A rule cannot be evaluated, and is configured to refuse all requests meanwhile.
    LimiterUnavailable,
    /// The gateway could not connect to a worker.
    UpstreamUnreachable,
    /// The worker broke off before the first content.
    UpstreamBroke,
    /// The worker was silent for too long.
    UpstreamTimeout,
    /// The key is unknown, or a required key is missing.
    Unauthorized,
    /// The request is malformed.
    BadRequest,
    /// The body exceeds `bounds.body`.
    BodyTooLarge,
    /// The body did not arrive within `bounds.body_read`.
    BodyTimeout,
    /// The body is compressed.
    UnsupportedEncoding,
    /// The path is not let through, or the named model or job does not exist.
    NotFound,
    /// The path is let through for other methods only.
    MethodNotAllowed,
    /// A request with the same `Idempotency-Key` is still running.
    Conflict,
    /// An earlier request with this `Idempotency-Key` had another body.
    KeyReused,
    /// The answer of the job is no longer stored.
    Expired,
    /// This path does not support an HTTP feature of the request, such as an upgrade.
    Unsupported,
    /// A bug of the gateway; the log has the details.
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

    /// Returns the name in the header, the metric label and the log.
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

    /// Returns the HTTP status of the answer. An API in which a client is answered may have another.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::RateLimited | Self::TokenLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::RequestTooLarge | Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Overloaded
            | Self::QueueTimeout
            | Self::NoWorker
            | Self::Draining
            | Self::Maintenance
            | Self::LimiterUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamUnreachable | Self::UpstreamBroke => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Expired => StatusCode::GONE,
            Self::Unsupported => StatusCode::NOT_IMPLEMENTED,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The unit that a quota counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// one per request
    #[default]
    Requests,
    /// tokens of prompt and answer
    Tokens,
}

impl Unit {
    /// Returns the name in configuration, headers and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }
}

/// Quota status of one rule for one key, as in the rate-limit headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaStatus {
    /// The rule's configured name.
    pub rule: Arc<str>,
    /// The unit that the rule counts.
    pub unit: Unit,
    /// Units that fit into `window`: the burst of a token bucket, the limit of a window.
    pub limit: u64,
    /// Units left after this request.
    pub remaining: u64,
    /// Time until the quota is full again.
    pub reset: Duration,
    /// Window of the quota; for a token bucket the time to fill from empty.
    pub window: Duration,
}

/// Returns `wait` plus a random 0 to 50 %: clients refused at once must not all retry at once.
#[must_use]
pub fn with_jitter(wait: Duration) -> Duration {
    wait + (wait / 2).mul_f64(fastrand::f64())
}

/// Why a request was not served, and the facts for its client.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// One or two sentences for the caller: the exceeded limit, its rule, and what to do. Contains
    /// no secret and no part of the prompt.
    pub message: Cow<'static, str>,
    /// The wrong field of the request, as a dotted path.
    pub param: Option<Cow<'static, str>>,
    /// Time until the same request would be served; `None` if waiting does not help.
    pub retry_after: Option<Duration>,
    /// `true` if somebody set that time, such as the provider of a paid API; otherwise the time of a
    /// 503 is a forecast, of which clients are told at most a minute.
    pub wait_is_exact: bool,
    /// Quota status of the rules, if a rule refused.
    pub quotas: Vec<QuotaStatus>,
    /// The methods that the path accepts, if it does not accept that of the request.
    pub allow: Option<Box<str>>,
}

impl Refusal {
    /// Creates a refusal with a reason and a message only.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            message: message.into(),
            param: None,
            retry_after: None,
            wait_is_exact: false,
            quotas: Vec::new(),
            allow: None,
        }
    }

    /// Names the wrong field of the request.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Sets the methods that the path accepts, in the format of the header `Allow`.
    #[must_use]
    pub fn with_allow(mut self, methods: String) -> Self {
        self.allow = Some(methods.into_boxed_str());
        self
    }

    /// Sets the time after which the client should retry.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Sets the time after which the client should retry, which is no forecast.
    #[must_use]
    pub fn with_exact_retry_after(self, wait: Duration) -> Self {
        Self { wait_is_exact: true, ..self.with_retry_after(wait) }
    }

    /// Sets the quota status of the rules.
    #[must_use]
    pub fn with_quotas(mut self, quotas: Vec<QuotaStatus>) -> Self {
        self.quotas = quotas;
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
        let told: Vec<_> = (0..100).map(|_| with_jitter(wait)).collect();
        assert!(told.iter().all(|told| (wait..=wait * 3 / 2).contains(told)));
        assert_eq!(told.iter().collect::<HashSet<_>>().len(), 100, "nobody is told what another was");
        assert!(with_jitter(Duration::MAX / 2) >= Duration::MAX / 2, "without overflow");
    }

    #[test]
    fn names_are_distinct_and_fit_a_metric_label() {
        let names: HashSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
    }
}
