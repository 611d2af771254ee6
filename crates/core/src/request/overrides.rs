//! Limits of a single caller: `identify` finds them and `limit` applies them.

use std::sync::Arc;
use std::time::Duration;

/// Values that replace those of one rule's quota for this caller; `None` keeps the rule's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnLimit {
    /// Sustained rate of a token bucket: units per period.
    pub rate: Option<(u64, Duration)>,
    /// Units in a full token bucket.
    pub burst: Option<u64>,
    /// Units per window.
    pub limit: Option<u64>,
}

/// A caller's own limits, by rule name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnLimits(Vec<(Arc<str>, OwnLimit)>);

impl OwnLimits {
    /// Returns the limit for the rule with this name.
    #[must_use]
    pub fn get(&self, rule: &str) -> Option<&OwnLimit> {
        // There are few: a linear search is faster than hashing the name.
        self.0.iter().find(|(name, _)| **name == *rule).map(|(_, limit)| limit)
    }

    /// Iterates over rule names and limits.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &OwnLimit)> {
        self.0.iter().map(|(name, limit)| (name, limit))
    }

    /// Returns `true` if there are no limits.
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
