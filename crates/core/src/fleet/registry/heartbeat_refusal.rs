//! Reasons to reject a heartbeat.

use super::MOST_WORKERS;
use crate::fleet::heartbeat::{HeartbeatError, SignatureError};

/// Why a heartbeat was rejected. Each reason is counted under its own name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatRefusal {
    /// Its format is wrong.
    #[error(transparent)]
    Format(#[from] HeartbeatError),
    /// Its signature is missing or wrong.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Its `seq`, or a later one, was received before.
    #[error("`seq` is {seq}, but {seen} was already received")]
    Replayed {
        /// Its `seq`.
        seq: u64,
        /// Last accepted `seq` of this boot.
        seen: u64,
    },
    /// A later boot of the same worker was seen.
    #[error("its `boot` was replaced by a later one; do two processes share this `worker`?")]
    Replaced,
    /// Its `at_ms` is ahead of this gateway's clock by too many ms.
    #[error("`at_ms` is {0} ms ahead of this gateway's clock")]
    Future(u64),
    /// This field contradicts the settings of a configured worker.
    #[error("`{0}` contradicts the configuration of this worker")]
    Contradicts(&'static str),
    /// It has no `url`, and its worker is not configured.
    #[error("`url` is missing, and the worker is not configured")]
    NoAddress,
    /// It names no colour, and its version cannot stand for one.
    #[error(
        "`version` is {0:?}; without a `colour`, a queue worker's version must be 1 to 62 letters, digits, `.`, `_` or \
         `-`: set `colour`, or another version"
    )]
    NoColour(String),
    /// Its host is not among those allowed.
    #[error("the host of `url` is not in `workers.allow`")]
    NotAllowed,
    /// Another worker of the pool has the same URL.
    #[error("another worker of the pool already has this `url`")]
    AddressTaken,
    /// The pool serves another model.
    #[error("`model` differs from that of the pool's other workers")]
    OtherModel,
    /// There are too many workers.
    #[error("too many workers: at most {MOST_WORKERS} can join by heartbeat")]
    Full,
}

impl HeartbeatRefusal {
    /// All names that [`HeartbeatRefusal::as_str`] returns.
    pub const NAMES: [&'static str; 15] = [
        "oversized",
        "malformed",
        "version",
        "unsigned",
        "forged",
        "replayed",
        "replaced",
        "future",
        "contradicts",
        "no_address",
        "no_colour",
        "not_allowed",
        "address_taken",
        "other_model",
        "full",
    ];

    /// Returns the name under which it is counted.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Format(HeartbeatError::Oversized(_)) => "oversized",
            Self::Format(HeartbeatError::Version(_)) => "version",
            Self::Format(
                HeartbeatError::NotJson(_) | HeartbeatError::Missing(..) | HeartbeatError::Field { .. },
            ) => "malformed",
            Self::Signature(SignatureError::Unsigned) => "unsigned",
            Self::Signature(SignatureError::Wrong) => "forged",
            Self::Replayed { .. } => "replayed",
            Self::Replaced => "replaced",
            Self::Future(_) => "future",
            Self::Contradicts(_) => "contradicts",
            Self::NoAddress => "no_address",
            Self::NoColour(_) => "no_colour",
            Self::NotAllowed => "not_allowed",
            Self::AddressTaken => "address_taken",
            Self::OtherModel => "other_model",
            Self::Full => "full",
        }
    }
}
