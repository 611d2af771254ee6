//! Entries of an answer, and their signatures.

use bytes::Bytes;

use crate::signing::Signing;

/// Position of an entry, ordered by run and then by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PiecePlace {
    /// The run; each run starts a new reply.
    pub epoch: u64,
    /// The number within the run, from 1.
    pub n: u64,
}

impl PiecePlace {
    /// Parses `EPOCH-N`, the id of an entry in the reply stream.
    #[must_use]
    pub fn parse(id: &str) -> Option<Self> {
        let (epoch, n) = id.split_once('-')?;
        Some(Self { epoch: epoch.parse().ok()?, n: n.parse().ok()? })
    }

    /// Returns `true` if `self` directly follows `before`, with no entry missing between.
    #[must_use]
    pub const fn follows(self, before: Self) -> bool {
        (self.epoch == before.epoch && self.n == before.n + 1) || (self.epoch > before.epoch && self.n == 1)
    }
}

impl std::fmt::Display for PiecePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.epoch, self.n)
    }
}

/// Kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// The worker, status and headers, as JSON.
    Head,
    /// Bytes of the body.
    Data,
    /// The body is complete.
    End,
    /// The reply ends early: a reason and a message, as JSON.
    Error,
}

impl PieceKind {
    /// Parses the name on the wire.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"head" => Some(Self::Head),
            b"data" => Some(Self::Data),
            b"end" => Some(Self::End),
            b"error" => Some(Self::Error),
            _ => None,
        }
    }

    /// Returns the name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Data => "data",
            Self::End => "end",
            Self::Error => "error",
        }
    }

    /// Returns `true` if this kind is the last of its run.
    #[must_use]
    pub const fn is_last(self) -> bool {
        matches!(self, Self::End | Self::Error)
    }
}

/// Returns entry data for sending: signature, space, data. Without a key it is only the data.
#[must_use]
pub fn signed(
    signing: &Signing,
    prefix: &str,
    job: &str,
    place: PiecePlace,
    kind: PieceKind,
    data: &Bytes,
) -> Bytes {
    let Some(key) = signing.key() else { return data.clone() };
    [key.sign(&signed_place(prefix, job, place, kind), data).as_bytes(), b" ", data].concat().into()
}

/// Returns what the signature of an entry covers besides its data: job, position and kind, so that no
/// entry can be moved.
#[must_use]
pub fn signed_place(prefix: &str, job: &str, place: PiecePlace, kind: PieceKind) -> String {
    format!("{prefix}:reply:{job}:{place}:{}", kind.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_next_number_or_the_start_of_a_later_run_follows() {
        let at = |epoch, n| PiecePlace { epoch, n };
        for (place, before, follows) in [
            (at(1, 1), at(0, 0), true),
            (at(1, 3), at(1, 2), true),
            (at(3, 1), at(1, 2), true),
            (at(1, 2), at(0, 0), false),
            (at(1, 2), at(1, 2), false),
            (at(1, 4), at(1, 2), false),
            (at(1, 1), at(2, 1), false),
        ] {
            assert_eq!(place.follows(before), follows, "{place} {before}");
        }
    }
}
