//! What an admitted request holds of its rules' quotas.

use std::sync::Arc;

use smallvec::SmallVec;

use super::keyed::Place;
use super::meter::Mark;
use crate::request::OwnLimits;

/// What a rule said about one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// It fits.
    Allowed,
    /// It does not fit, and the rule only observes.
    WouldRefuse,
    /// It does not fit.
    Refused,
}

impl Decision {
    /// Every decision, for tables.
    pub const ALL: [Self; 3] = [Self::Allowed, Self::WouldRefuse, Self::Refused];

    /// The value of the metric label `decision`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::WouldRefuse => "would_refuse",
            Self::Refused => "refused",
        }
    }
}

/// Decisions by the rules' indexes in [`Ladder::rules`](super::ladder::Ladder::rules), in the order they were made.
pub type Decisions = SmallVec<[(usize, Decision); 4]>;

/// Where one rule took its charge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChargedCell {
    /// `None` for the one counter of a rule per `all`.
    pub(crate) place: Option<Place>,
    pub(crate) mark: Mark,
}

/// One rule's part of a charge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChargePart {
    /// The identity of the rule's counts, the same across reloads that keep them.
    pub(crate) counts: u32,
    pub(crate) amount: u64,
    pub(crate) hold: ChargedCell,
}

/// What an admitted request holds of its rules' quotas.
///
/// It refers to counts, not to a ladder: any ladder rebuilt from the one that made it can settle it, and what belongs
/// to a rule that is gone is dropped. It is consumed by its one settlement or refund; dropped, it stays charged.
#[derive(Debug, Default)]
#[must_use = "a charge that is not settled stays at its estimate"]
pub struct Charge {
    pub(crate) parts: SmallVec<[ChargePart; 4]>,
    /// The caller's own limits that it was made by.
    pub(crate) own: Option<Arc<OwnLimits>>,
}

/// A request that every rule admitted.
#[derive(Debug, Default)]
pub struct Admission {
    /// What it holds.
    pub charge: Charge,
    /// What each rule that saw it said.
    pub decisions: Decisions,
    /// Whether any rule saw it.
    pub matched: bool,
}
