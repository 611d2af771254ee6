//! Errors of jobs, as reported by workers.

use bytes::Bytes;
use serde::Deserialize;

use crate::refusal::{Reason, Refusal};

/// Bytes of a worker's message that are passed on.
const LONGEST: usize = 500;

/// Error entry that ends a failed reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobError {
    /// Reason for the client: an upstream error or a timeout.
    pub reason: Reason,
    /// The worker's message, at most 500 bytes.
    pub message: String,
}

#[derive(Deserialize)]
struct ReportedError {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

impl JobError {
    /// Returns an error of the kind [`Reason::UpstreamBroke`].
    #[must_use]
    pub(crate) fn broke(what: &str) -> Self {
        Self { reason: Reason::UpstreamBroke, message: what.to_owned() }
    }

    /// Parses `{"reason":…,"message":…}`; the default reason is [`Reason::UpstreamBroke`].
    #[must_use]
    pub(crate) fn read(data: &[u8]) -> Self {
        let Ok(ReportedError { reason, mut message }) = serde_json::from_slice(data) else {
            return Self::broke("its error report cannot be read");
        };
        let reason = if reason == Reason::UpstreamTimeout.as_str() {
            Reason::UpstreamTimeout
        } else {
            Reason::UpstreamBroke
        };
        message.truncate(message.floor_char_boundary(LONGEST));
        Self { reason, message }
    }

    /// Returns the error as entry data, with a message of the gateway instead of the worker's.
    #[must_use]
    pub(super) fn without_words(&self) -> Bytes {
        let message = match self.reason {
            Reason::UpstreamTimeout => "The job exceeded its deadline.",
            _ => "The error message is withheld because it is not signed.",
        };
        serde_json::json!({ "reason": self.reason.as_str(), "message": message }).to_string().into()
    }

    /// Converts the error to the refusal that the client gets; `who` names the failed side.
    #[must_use]
    pub(crate) fn into_refusal(self, who: &str) -> Refusal {
        Refusal::new(self.reason, format!("{who} failed: {}", self.message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_words_are_bounded_and_its_reasons_few() {
        for (data, reason, message) in [
            (r#"{"reason":"upstream_timeout","message":"late"}"#, Reason::UpstreamTimeout, "late"),
            (r#"{"reason":"unauthorized","message":"x"}"#, Reason::UpstreamBroke, "x"),
            (r#"{"message":"only"}"#, Reason::UpstreamBroke, "only"),
            ("no JSON", Reason::UpstreamBroke, "its error report cannot be read"),
        ] {
            assert_eq!(JobError::read(data.as_bytes()), JobError { reason, message: message.to_owned() });
        }
        let long = format!(r#"{{"message":"{}"}}"#, "ä".repeat(400));
        assert_eq!(JobError::read(long.as_bytes()).message, "ä".repeat(250));
    }
}
