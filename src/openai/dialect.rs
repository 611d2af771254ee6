//! The API in whose words a client is told of errors and quotas.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::{anthropic, error, quota_headers};
use crate::refusal::{QuotaStatus, Reason, Refusal};

/// The API whose errors and rate-limit headers a client reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's.
    #[default]
    OpenAi,
    /// Anthropic's.
    Anthropic,
}

/// Path of the Messages API; refusals on it and below it are in its dialect.
const MESSAGES: &str = "/v1/messages";

impl Dialect {
    /// Returns the dialect that the look of a path says. Routes in the settings may say otherwise.
    #[must_use]
    pub(crate) fn at(path: &str) -> Self {
        let is_of_messages =
            path.strip_prefix(MESSAGES).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_of_messages { Self::Anthropic } else { Self::OpenAi }
    }

    /// Returns the HTTP status of a refusal.
    #[must_use]
    pub(crate) const fn status(self, reason: Reason) -> StatusCode {
        match self {
            Self::OpenAi => reason.status(),
            Self::Anthropic => anthropic::status(reason),
        }
    }

    /// Returns the body of a refusal of the request `id`.
    #[must_use]
    pub(crate) fn body(self, refusal: &Refusal, id: &str) -> Bytes {
        match self {
            Self::OpenAi => error::body(refusal),
            Self::Anthropic => anthropic::body(refusal, id),
        }
    }

    /// Writes the quota status of the rules: the tightest of each unit in this dialect, all in the
    /// form of the IETF draft. `wall` tells the time of day, which only some dialects need.
    pub fn quota_headers(
        self,
        map: &mut HeaderMap,
        quotas: &[QuotaStatus],
        wall: impl FnOnce() -> SystemTime,
    ) {
        if quotas.is_empty() {
            return;
        }
        match self {
            Self::OpenAi => quota_headers::openai_quotas(map, quotas),
            Self::Anthropic => anthropic::quotas(map, quotas, wall()),
        }
        quota_headers::standard_quotas(map, quotas);
    }
}
