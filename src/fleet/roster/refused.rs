//! Reasons to reject a heartbeat.

use crate::fleet::heartbeat::{Fault, SealFault};

/// Why a heartbeat was rejected. Each reason is counted under its own name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its format is wrong.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Its signature is missing or wrong.
    #[error(transparent)]
    Seal(#[from] SealFault),
    /// Its `seq`, or a later one, was received before.
    #[error("`seq` is {seq}, and {seen} was seen")]
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
    #[error("`{0}` is not what the settings say of this worker")]
    Contradicts(&'static str),
    /// It has no `url`, and its worker is not configured.
    #[error("`url` is missing, and the worker is not configured")]
    NoAddress,
    /// Its host is not among those allowed.
    #[error("the host of `url` is not in `workers.allow`")]
    NotAllowed,
    /// Another worker of the pool has the same URL.
    #[error("`url` is that of another worker of the same pool")]
    AddressTaken,
    /// The pool serves another model.
    #[error("`model` is not what the other workers of the pool serve")]
    OtherModel,
    /// There are too many workers.
    #[error("there are as many workers as the gateway takes")]
    Full,
}

impl Refused {
    /// All names that [`Refused::as_str`] returns.
    pub const NAMES: [&'static str; 14] = [
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
        "not_allowed",
        "address_taken",
        "other_model",
        "full",
    ];

    /// Returns the name under which it is counted.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Fault(Fault::Oversized(_)) => "oversized",
            Self::Fault(Fault::Version(_)) => "version",
            Self::Fault(Fault::NotJson(_) | Fault::Missing(..) | Fault::Field { .. }) => "malformed",
            Self::Seal(SealFault::Unsigned) => "unsigned",
            Self::Seal(SealFault::Wrong) => "forged",
            Self::Replayed { .. } => "replayed",
            Self::Replaced => "replaced",
            Self::Future(_) => "future",
            Self::Contradicts(_) => "contradicts",
            Self::NoAddress => "no_address",
            Self::NotAllowed => "not_allowed",
            Self::AddressTaken => "address_taken",
            Self::OtherModel => "other_model",
            Self::Full => "full",
        }
    }
}
