//! What every algorithm answers, and how its state is shared.
//!
//! A [`Meter`] is a quota without state: it decides on a cell that somebody else keeps. So one algorithm serves one
//! counter for all ([`Direct`]) and a million callers ([`Keyed`](super::keyed::Keyed)), and a test drives it with a
//! plain variable. The price is that a meter sees its cell only through `&mut`; [`Shared`] turns that into a
//! compare-and-swap loop where the cell is one word, and into a short lock where it is not.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::rule::Quota;
use crate::clock::Nanos;

/// Why a meter does not admit. The order is the severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortage {
    /// It admits the same amount after this wait, if nobody else is admitted meanwhile.
    Wait(Duration),
    /// The amount is more than the quota ever holds.
    Never,
}

/// How a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Units that would be admitted now.
    pub remaining: u64,
    /// How long until the quota is whole again.
    pub reset: Duration,
}

/// Which part of a cell took a charge, in the terms of the meter that made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(pub(crate) u64);

/// A quota in place of the one that the counts were made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    /// The quota.
    pub quota: Quota,
    /// When a bucket began to fill, with one unit in it; `None` if it was whole from the first. Windows are whole always:
    /// only shares begin so, and those are buckets.
    pub fills_since: Option<Nanos>,
}

impl From<Quota> for By {
    fn from(quota: Quota) -> Self {
        Self { quota, fills_since: None }
    }
}

/// A quota: pure decisions on a cell.
pub trait Meter: fmt::Debug + Send + Sync {
    /// What is remembered for one key. The default cell has a whole quota.
    type Cell: Default + Send;
    /// The same cell, for many threads.
    type Shared: Shared<Self::Cell>;

    /// The same algorithm by another quota, for a cell that goes on.
    fn of(by: By) -> Self;

    /// Takes `amount` units, or says what is missing and takes nothing.
    ///
    /// # Errors
    /// The wait for a lone caller, or that waiting does not help.
    fn charge(&self, cell: &mut Self::Cell, amount: u64, now: Nanos) -> Result<Mark, Shortage>;

    /// What [`Meter::charge`] would be short of.
    fn shortage(&self, cell: &Self::Cell, amount: u64, now: Nanos) -> Option<Shortage>;

    /// Makes a charge of `reserved` units one of `actual` units. A rest is given back; an excess is owed, beyond the
    /// quota if need be.
    fn correct(&self, cell: &mut Self::Cell, mark: Mark, reserved: u64, actual: u64, now: Nanos);

    /// Whether the cell says no more than a new one would, so that forgetting it loses nothing.
    fn is_idle(&self, cell: &Self::Cell, now: Nanos) -> bool;

    /// How the cell stands.
    fn level(&self, cell: &Self::Cell, now: Nanos) -> Level;
}

/// A cell that many threads change.
pub trait Shared<C>: Default + Send + Sync {
    /// Applies `change` as one step. It may be called several times, each time on the newest value.
    fn update<R>(&self, change: impl FnMut(&mut C) -> R) -> R;

    /// Looks at the cell.
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

/// One counter for everything.
pub struct Direct<M: Meter> {
    meter: M,
    cell: M::Shared,
}

impl<M: Meter> Direct<M> {
    /// A counter with a whole quota.
    #[must_use]
    pub fn new(meter: M) -> Self {
        Self { meter, cell: M::Shared::default() }
    }

    /// Takes `amount` units, or says what is missing and takes nothing.
    ///
    /// # Errors
    /// As [`Meter::charge`].
    #[inline]
    pub fn charge(&self, amount: u64, now: Nanos) -> Result<Mark, Shortage> {
        self.charge_by(&self.meter, amount, now)
    }

    /// The same by another quota.
    #[inline]
    pub(crate) fn charge_by(&self, meter: &M, amount: u64, now: Nanos) -> Result<Mark, Shortage> {
        self.cell.update(|cell| meter.charge(cell, amount, now))
    }

    /// What [`Direct::charge`] would be short of.
    pub fn shortage(&self, amount: u64, now: Nanos) -> Option<Shortage> {
        self.shortage_by(&self.meter, amount, now)
    }

    /// The same by another quota.
    pub(crate) fn shortage_by(&self, meter: &M, amount: u64, now: Nanos) -> Option<Shortage> {
        self.cell.read(|cell| meter.shortage(cell, amount, now))
    }

    /// Corrects a charge, as [`Meter::correct`].
    pub fn correct(&self, mark: Mark, reserved: u64, actual: u64, now: Nanos) {
        self.correct_by(&self.meter, mark, (reserved, actual), now);
    }

    /// The same by another quota.
    pub(crate) fn correct_by(&self, meter: &M, mark: Mark, (reserved, actual): (u64, u64), now: Nanos) {
        self.cell.update(|cell| meter.correct(cell, mark, reserved, actual, now));
    }

    /// How the counter stands.
    pub fn level(&self, now: Nanos) -> Level {
        self.level_by(&self.meter, now)
    }

    /// The same by another quota.
    pub(crate) fn level_by(&self, meter: &M, now: Nanos) -> Level {
        self.cell.read(|cell| meter.level(cell, now))
    }
}

impl<M: Meter> fmt::Debug for Direct<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direct").field("meter", &self.meter).finish_non_exhaustive()
    }
}
