//! The interface of the limit algorithms, and how threads share their state.
//!
//! A [`Meter`] is a quota without state: it decides on a cell that its user stores. So one
//! algorithm serves a single counter ([`Direct`]) and a million callers
//! ([`KeyedState`](super::keyed::KeyedState)), and a test uses a plain variable. The price: a meter needs its
//! cell as `&mut`; [`Shared`] uses a compare-and-swap loop for a cell of one word, else a short
//! lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::rule::{Quota, Rule};
use crate::clock::Nanos;
use crate::refusal::QuotaStatus;

/// Why a meter refuses. Ordered by severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortage {
    /// The same amount is admitted after this wait, if nothing else is admitted meanwhile.
    Wait(Duration),
    /// The amount is more than the quota ever holds.
    Never,
}

/// Remaining units of a cell, and its reset time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Units that would be admitted now.
    pub remaining: u64,
    /// Time until the quota is full again.
    pub reset: Duration,
}

impl Level {
    /// Returns the quota status of a key of `rule` at this level.
    #[must_use]
    pub fn quota_status(self, rule: &Rule) -> QuotaStatus {
        let Self { remaining, reset } = self;
        let (limit, window) = (rule.capacity(), rule.window());
        QuotaStatus { rule: Arc::clone(&rule.name), unit: rule.unit, limit, remaining, reset, window }
    }
}

/// The part of a cell that was charged; its meaning depends on the meter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CellMark(pub(crate) u64);

/// A quota that overrides the one that the counts were created with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaOverride {
    /// The quota.
    pub quota: Quota,
    /// Time at which a bucket began to fill, with one unit in it; `None` if it started full.
    /// Windows always start full: only shares begin this way, and those are buckets.
    pub fills_since: Option<Nanos>,
}

impl From<Quota> for QuotaOverride {
    fn from(quota: Quota) -> Self {
        Self { quota, fills_since: None }
    }
}

/// A quota: pure decisions on a cell.
pub trait Meter: fmt::Debug + Send + Sync {
    /// State of one key. The default cell has a full quota.
    type Cell: Default + Send;
    /// The same cell, shared by many threads.
    type SharedCell: Shared<Self::Cell>;

    /// Creates a meter of the same algorithm with another quota, for cells that already exist.
    fn of(by: QuotaOverride) -> Self;

    /// Charges `amount` units, or nothing if they do not fit.
    ///
    /// # Errors
    /// The wait if no other request comes, or that waiting does not help.
    fn charge(&self, cell: &mut Self::Cell, amount: u64, now: Nanos) -> Result<CellMark, Shortage>;

    /// Returns the shortage that [`Meter::charge`] would report.
    fn shortage(&self, cell: &Self::Cell, amount: u64, now: Nanos) -> Option<Shortage>;

    /// Corrects a charge of `reserved` units to `actual` units. Unused units are returned; an
    /// excess is owed, even beyond the quota.
    fn correct(&self, cell: &mut Self::Cell, mark: CellMark, reserved: u64, actual: u64, now: Nanos);

    /// Returns `true` if the cell decides as a new one would, so that removing it loses nothing.
    fn is_idle(&self, cell: &Self::Cell, now: Nanos) -> bool;

    /// Returns the level of the cell.
    fn level(&self, cell: &Self::Cell, now: Nanos) -> Level;
}

/// A cell that many threads change.
pub trait Shared<C>: Default + Send + Sync {
    /// Applies `change` atomically. `change` may run several times, each time on the newest value.
    fn update<R>(&self, change: impl FnMut(&mut C) -> R) -> R;

    /// Reads the cell.
    fn read<R>(&self, look: impl FnOnce(&C) -> R) -> R;
}

impl Shared<u64> for AtomicU64 {
    #[inline]
    fn update<R>(&self, mut change: impl FnMut(&mut u64) -> R) -> R {
        // Relaxed: the word is the whole state, nothing else is published with it.
        let mut current = self.load(Ordering::Relaxed);
        loop {
            let mut next = current;
            let result = change(&mut next);
            if next == current {
                return result;
            }
            match self.compare_exchange_weak(current, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return result,
                Err(newer) => current = newer,
            }
        }
    }

    fn read<R>(&self, look: impl FnOnce(&u64) -> R) -> R {
        look(&self.load(Ordering::Relaxed))
    }
}

impl<C: Default + Send> Shared<C> for Mutex<C> {
    fn update<R>(&self, mut change: impl FnMut(&mut C) -> R) -> R {
        change(&mut self.lock())
    }

    fn read<R>(&self, look: impl FnOnce(&C) -> R) -> R {
        look(&self.lock())
    }
}

/// A single counter, shared by all requests of a rule.
pub struct Direct<M: Meter> {
    meter: M,
    cell: M::SharedCell,
}

impl<M: Meter> Direct<M> {
    /// Creates a counter with a full quota.
    #[must_use]
    pub fn new(meter: M) -> Self {
        Self { meter, cell: M::SharedCell::default() }
    }

    /// Charges `amount` units, or nothing if they do not fit. `by` is another quota for this call, as in
    /// all methods.
    ///
    /// # Errors
    /// As [`Meter::charge`].
    #[inline]
    pub fn charge(&self, by: Option<QuotaOverride>, amount: u64, now: Nanos) -> Result<CellMark, Shortage> {
        let own = by.map(M::of);
        let meter = own.as_ref().unwrap_or(&self.meter);
        self.cell.update(|cell| meter.charge(cell, amount, now))
    }

    pub(crate) fn shortage(&self, by: Option<QuotaOverride>, amount: u64, now: Nanos) -> Option<Shortage> {
        let own = by.map(M::of);
        self.cell.read(|cell| own.as_ref().unwrap_or(&self.meter).shortage(cell, amount, now))
    }

    pub(crate) fn correct(
        &self,
        by: Option<QuotaOverride>,
        mark: CellMark,
        (reserved, actual): (u64, u64),
        now: Nanos,
    ) {
        let own = by.map(M::of);
        let meter = own.as_ref().unwrap_or(&self.meter);
        self.cell.update(|cell| meter.correct(cell, mark, reserved, actual, now));
    }

    pub(crate) fn level(&self, by: Option<QuotaOverride>, now: Nanos) -> Level {
        let own = by.map(M::of);
        self.cell.read(|cell| own.as_ref().unwrap_or(&self.meter).level(cell, now))
    }
}

impl<M: Meter> fmt::Debug for Direct<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct").field("meter", &self.meter).finish_non_exhaustive()
    }
}
