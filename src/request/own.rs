//! What one caller may have more or less of than others: data that `identify` finds and `limit` applies.

use std::sync::Arc;
use std::time::Duration;

/// What of one rule's quota is another for this caller. What is not given stays as the rule has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnLimit {
    /// The sustained rate of a token bucket: so many units in each period.
    pub rate: Option<(u64, Duration)>,
    /// What a full token bucket holds.
    pub burst: Option<u64>,
    /// What fits into one window.
    pub limit: Option<u64>,
}

/// A caller's own limits, by the names of the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnLimits(Vec<(Arc<str>, OwnLimit)>);

impl OwnLimits {
    /// The limit under the rule of that name.
    #[must_use]
    pub fn get(&self, rule: &str) -> Option<&OwnLimit> {
        // A few: looking at each is quicker than hashing the name.
        self.0.iter().find(|(name, _)| **name == *rule).map(|(_, limit)| limit)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &OwnLimit)> {
        self.0.iter().map(|(name, limit)| (name, limit))
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Arc<str>, OwnLimit)> for OwnLimits {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, OwnLimit)>>(limits: I) -> Self {
        Self(limits.into_iter().collect())
    }
}
