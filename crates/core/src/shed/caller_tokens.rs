//! What a gate charged to callers, in the form in which gateways tell each other.

use sha2::{Digest, Sha256};

use crate::request::Class;

/// Bytes of a digest, as in the keys of rules: enough that no two callers have the same.
const DIGEST_BYTES: usize = 16;
/// Callers of a class that a gate tells at once: those with the most tokens. The others took so
/// little that it hardly counts.
pub(super) const MOST_TOLD: usize = 64;
/// Most virtual tokens that are charged to a caller at once, 16 million tokens at weight 1: more than
/// any fleet serves in a second, and so few that a forged number cannot drive a counter to its maximum.
const MOST_TOKENS: u64 = 1 << 32;

/// Digest of a caller's id, the same at every gateway: names of callers do not leave the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallerDigest(pub u128);

impl CallerDigest {
    /// Returns the digest of the caller with this id.
    #[must_use]
    pub fn of(caller: &str) -> Self {
        let digest = Sha256::digest(caller);
        Self(digest.iter().take(DIGEST_BYTES).fold(0, |number, byte| number << 8 | u128::from(*byte)))
    }
}

/// Virtual tokens that were charged to a caller of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerTokens {
    /// The class.
    pub class: Class,
    /// The caller.
    pub caller: CallerDigest,
    /// In 256ths of a token, divided by the caller's weight. An output token counts twice.
    pub tokens: u64,
}

impl CallerTokens {
    /// Returns the tokens, at most what may be charged at once.
    pub(super) fn bounded(&self) -> u64 {
        self.tokens.min(MOST_TOKENS)
    }
}
