//! The counts of one rule, for any algorithm and key.

use std::fmt;
use std::sync::Arc;

use super::charge::ChargedCell;
use super::keyed::{CellPlace, KeyedState};
use super::meter::{Direct, Level, Meter, QuotaOverride, Shortage};
use super::rule::{Algorithm, Per, Rule};
use super::sliding_log::SlidingLog;
use super::sliding_window::SlidingWindow;
use super::token_bucket::TokenBucket;
use crate::clock::Nanos;

/// The counts of one rule. `by` is the quota to count with if it is not the one that the counts were
/// created with: a caller's own, or a share's. A rule per `all` ignores the key.
pub(crate) trait RuleCounter: fmt::Debug + Send + Sync {
    fn charge(
        &self,
        key: u64,
        amount: u64,
        by: Option<QuotaOverride>,
        now: Nanos,
    ) -> Result<ChargedCell, Shortage>;
    fn correct(&self, hold: ChargedCell, reserved: u64, actual: u64, by: Option<QuotaOverride>, now: Nanos);
    fn shortage(&self, key: u64, amount: u64, by: Option<QuotaOverride>, now: Nanos) -> Option<Shortage>;
    fn level(&self, place: Option<CellPlace>, by: Option<QuotaOverride>, now: Nanos) -> Level;
    fn keys(&self) -> usize;
    fn set_max_keys(&self, max_keys: usize);
    fn sweep(&self, now: Nanos);
}

/// Creates the counts of `rule`, with full quotas.
pub(crate) fn counter(rule: &Rule) -> Arc<dyn RuleCounter> {
    match rule.algorithm {
        Algorithm::TokenBucket => stored(TokenBucket::new(rule.quota), rule),
        Algorithm::SlidingWindow => stored(SlidingWindow::new(rule.quota), rule),
        Algorithm::SlidingLog => stored(SlidingLog::new(rule.quota), rule),
    }
}

fn stored<M: Meter + 'static>(meter: M, rule: &Rule) -> Arc<dyn RuleCounter> {
    if rule.per.contains(&Per::All) {
        Arc::new(Direct::new(meter))
    } else {
        Arc::new(KeyedState::new(meter, rule.max_keys))
    }
}

impl<M: Meter> RuleCounter for Direct<M> {
    fn charge(
        &self,
        _key: u64,
        amount: u64,
        by: Option<QuotaOverride>,
        now: Nanos,
    ) -> Result<ChargedCell, Shortage> {
        Self::charge(self, by, amount, now).map(|mark| ChargedCell { place: None, mark })
    }

    fn correct(&self, hold: ChargedCell, reserved: u64, actual: u64, by: Option<QuotaOverride>, now: Nanos) {
        Self::correct(self, by, hold.mark, (reserved, actual), now);
    }

    fn shortage(&self, _key: u64, amount: u64, by: Option<QuotaOverride>, now: Nanos) -> Option<Shortage> {
        Self::shortage(self, by, amount, now)
    }

    fn level(&self, _place: Option<CellPlace>, by: Option<QuotaOverride>, now: Nanos) -> Level {
        Self::level(self, by, now)
    }

    fn keys(&self) -> usize {
        1
    }

    fn set_max_keys(&self, _max_keys: usize) {}

    fn sweep(&self, _now: Nanos) {}
}

impl<M: Meter> RuleCounter for KeyedState<M> {
    fn charge(
        &self,
        key: u64,
        amount: u64,
        by: Option<QuotaOverride>,
        now: Nanos,
    ) -> Result<ChargedCell, Shortage> {
        let charged = Self::charge(self, by, key, amount, now);
        charged.map(|(place, mark)| ChargedCell { place: Some(place), mark })
    }

    fn correct(&self, hold: ChargedCell, reserved: u64, actual: u64, by: Option<QuotaOverride>, now: Nanos) {
        let place = hold.place.unwrap_or(CellPlace::Overflow);
        Self::correct(self, by, (place, hold.mark), (reserved, actual), now);
    }

    fn shortage(&self, key: u64, amount: u64, by: Option<QuotaOverride>, now: Nanos) -> Option<Shortage> {
        Self::shortage(self, by, key, amount, now)
    }

    fn level(&self, place: Option<CellPlace>, by: Option<QuotaOverride>, now: Nanos) -> Level {
        Self::level(self, by, place.unwrap_or(CellPlace::Overflow), now)
    }

    fn keys(&self) -> usize {
        Self::keys(self)
    }

    fn set_max_keys(&self, max_keys: usize) {
        Self::set_max_keys(self, max_keys);
    }

    fn sweep(&self, now: Nanos) {
        Self::sweep(self, now);
    }
}
