//! The charges of an admitted request to its rules.

use std::sync::Arc;

use smallvec::SmallVec;

use super::keyed::CellPlace;
use super::meter::CellMark;
use crate::request::OwnLimits;

/// Decision of a rule about one request.
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
    /// All decisions, for tables.
    pub const ALL: [Self; 3] = [Self::Allowed, Self::WouldRefuse, Self::Refused];

    /// Returns the value of the metric label `decision`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::WouldRefuse => "would_refuse",
            Self::Refused => "refused",
        }
    }
}

/// Decisions in order, by index in [`RuleSet::rules`](super::rule_set::RuleSet::rules).
pub type Decisions = SmallVec<[(usize, Decision); 4]>;

#[derive(Clone, Copy, Debug)]
pub(crate) struct ChargedCell {
    /// `None` for the one counter of a rule per `all`.
    pub(crate) place: Option<CellPlace>,
    pub(crate) mark: CellMark,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ChargePart {
    /// Id of the rule's counts, the same across reloads that keep them.
    pub(crate) counts: u32,
    pub(crate) amount: u64,
    pub(crate) cell: ChargedCell,
}

/// The units that an admitted request was charged by its rules.
///
/// It refers to counts, not to a rule set: a rebuilt rule set can settle it, except for removed
/// rules. One settlement or refund consumes it; if it is dropped, the units stay charged.
#[derive(Debug, Default)]
#[must_use = "a charge that is not settled stays at its estimate"]
pub struct Charge {
    pub(crate) parts: SmallVec<[ChargePart; 4]>,
    /// The caller's own limits at the time of the charge.
    pub(crate) own: Option<Arc<OwnLimits>>,
}

/// A request that every rule admitted.
#[derive(Debug, Default)]
pub struct Admission {
    /// Units that it was charged.
    pub charge: Charge,
    /// Decision of each rule that applies to it.
    pub decisions: Decisions,
    /// `true` if any rule applies to it.
    pub matched: bool,
}
