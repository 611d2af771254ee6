//! How a job failed, in its worker's words.

use bytes::Bytes;
use serde::Deserialize;

use crate::refusal::{Reason, Refusal};

/// Of what a worker says so much is passed on.
const LONGEST: usize = 500;

/// The last entry of an answer that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whose fault it is.
    pub reason: Reason,
    /// What happened.
    pub message: String,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

impl Fault {
    /// The worker did not do as it should.
    #[must_use]
    pub fn broke(what: &str) -> Self {
        Self { reason: Reason::UpstreamBroke, message: what.to_owned() }
    }

    /// Reads `{"reason":…,"message":…}`; what cannot be read is a worker that broke.
    #[must_use]
    pub fn read(data: &[u8]) -> Self {
        let Ok(Said { reason, mut message }) = serde_json::from_slice(data) else {
            return Self::broke("it failed");
        };
        let reason = if reason == Reason::UpstreamTimeout.as_str() {
            Reason::UpstreamTimeout
        } else {
            Reason::UpstreamBroke
        };
        message.truncate(message.floor_char_boundary(LONGEST));
        Self { reason, message }
    }

    /// The same as an error entry, in words of the gateway's own.
    #[must_use]
    pub fn without_words(&self) -> Bytes {
        let message = match self.reason {
            Reason::UpstreamTimeout => "It took longer than it may.",
            _ => "It failed, and why was said without a signature.",
        };
        serde_json::json!({ "reason": self.reason.as_str(), "message": message }).to_string().into()
    }

    /// What the client is told.
    #[must_use]
    pub fn into_refusal(self, who: &str) -> Refusal {
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
            ("no JSON", Reason::UpstreamBroke, "it failed"),
        ] {
            assert_eq!(Fault::read(data.as_bytes()), Fault { reason, message: message.to_owned() });
        }
        let long = format!(r#"{{"message":"{}"}}"#, "ä".repeat(400));
        assert_eq!(Fault::read(long.as_bytes()).message, "ä".repeat(250));
    }
}
