//! A bounded table with one limiter cell per key.
//!
//! A key is a 64-bit hash, which the user must compute under a random secret (the rule set does): a
//! token bucket cell then costs 16 bytes plus the table's slack, and outsiders cannot target a
//! shard or another key. Two keys with the same hash share one quota: neither gets more than its
//! quota, both together get one. A million keys contain such a pair with probability 3·10⁻⁸.
//!
//! Only idle cells are removed, that is cells that decide as a new one would: a cache that drops
//! the oldest would forgive debt. If the table is full of live keys, new keys share one overflow
//! cell: limited together rather than not at all, in bounded memory. A key that moves from the
//! overflow cell to its own starts with a full quota, so it may get its quota once more.
//!
//! Cleaning is incremental, so that no call pays for the whole table: a new key checks a few slots
//! of its shard, a new key in a full table also some slots of the next shards in turn, and
//! [`KeyedState::sweep`] one shard. The longest pause is the growth of one shard, 1/256 of the table.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::meter::{CellMark, Level, Meter, QuotaOverride, Shared, Shortage};
use super::slots::Slots;
use crate::clock::Nanos;

/// Two threads meet on a shard in 1 of 256 calls. At a million keys a shard has 4000 of them, which
/// its growth moves in tens of µs.
const MOST_SHARDS: usize = 256;
/// Keys per shard: few, so that `STEPS_WHEN_FULL` cover all slots of a small full table.
const KEYS_PER_SHARD: usize = 16;
/// A shard grows by half after half as many new keys as it holds: at 4 slots each, all get checked.
const STEPS_PER_NEW_KEY: usize = 4;
/// Slots a new key may check in a full table: for a token bucket, eight cache lines in a row.
const STEPS_WHEN_FULL: usize = 32;

/// The cell that was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellPlace {
    /// The key's own cell.
    Own(u64),
    /// The cell that new keys share while the table is full.
    Overflow,
}

// One cache line each, against false sharing between neighbouring locks.
#[repr(align(64))]
struct Shard<C>(Mutex<Slots<C>>);

/// Cells of one quota, by key.
pub struct KeyedState<M: Meter> {
    meter: M,
    shards: Box<[Shard<M::Cell>]>,
    overflow: M::SharedCell,
    keys: AtomicUsize,
    max_keys: AtomicUsize,
    /// The shard that is swept next.
    next_sweep: AtomicUsize,
}

impl<M: Meter> KeyedState<M> {
    /// Creates an empty table for at most `max_keys` keys. Memory grows with the number of keys.
    #[must_use]
    pub fn new(meter: M, max_keys: usize) -> Self {
        let shards = (max_keys / KEYS_PER_SHARD).clamp(1, MOST_SHARDS).next_power_of_two();
        let empty = || Shard(Mutex::new(Slots::new()));
        Self {
            meter,
            shards: std::iter::repeat_with(empty).take(shards).collect(),
            overflow: M::SharedCell::default(),
            keys: AtomicUsize::new(0),
            max_keys: AtomicUsize::new(max_keys),
            next_sweep: AtomicUsize::new(0),
        }
    }

    /// Changes the maximum number of keys. A lower one blocks new keys until enough are removed.
    pub(crate) fn set_max_keys(&self, max_keys: usize) {
        self.max_keys.store(max_keys, Ordering::Relaxed);
    }

    /// Returns the current number of keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// Charges `amount` units to the key's quota, or nothing if they do not fit. `by` is another quota
    /// for this call, as in all methods.
    ///
    /// # Errors
    /// As [`Meter::charge`].
    #[inline]
    pub fn charge(
        &self,
        by: Option<QuotaOverride>,
        key: u64,
        amount: u64,
        now: Nanos,
    ) -> Result<(CellPlace, CellMark), Shortage> {
        let own = by.map(M::of);
        let meter = own.as_ref().unwrap_or(&self.meter);
        let known = self.with_known(key, |cell| meter.charge(cell, amount, now));
        if let Some(result) = known {
            return result.map(|mark| (CellPlace::Own(key), mark));
        }
        let (place, result) = self.with_new(key, now, |cell| meter.charge(cell, amount, now));
        result.map(|mark| (place, mark))
    }

    pub(crate) fn shortage(
        &self,
        by: Option<QuotaOverride>,
        key: u64,
        amount: u64,
        now: Nanos,
    ) -> Option<Shortage> {
        let own = by.map(M::of);
        let meter = own.as_ref().unwrap_or(&self.meter);
        self.read_cell(CellPlace::Own(key), |cell| meter.shortage(cell, amount, now))
    }

    pub(crate) fn level(&self, by: Option<QuotaOverride>, place: CellPlace, now: Nanos) -> Level {
        let own = by.map(M::of);
        self.read_cell(place, |cell| own.as_ref().unwrap_or(&self.meter).level(cell, now))
    }

    /// Corrects a charge, as [`Meter::correct`]. If the key was removed meanwhile, its quota is
    /// full: unused units are dropped, and an excess adds the key again.
    pub(crate) fn correct(
        &self,
        by: Option<QuotaOverride>,
        (place, mark): (CellPlace, CellMark),
        (reserved, actual): (u64, u64),
        now: Nanos,
    ) {
        let own = by.map(M::of);
        let meter = own.as_ref().unwrap_or(&self.meter);
        let change = |cell: &mut M::Cell| meter.correct(cell, mark, reserved, actual, now);
        match place {
            CellPlace::Overflow => self.overflow.update(change),
            CellPlace::Own(key) => {
                if self.with_known(key, change).is_none() && actual > reserved {
                    self.with_new(key, now, change);
                }
            }
        }
    }

    /// Removes the idle keys of one shard and frees its spare memory; each call takes the next
    /// shard. The bound holds without it; called now and then, it frees memory after a key flood.
    pub fn sweep(&self, now: Nanos) {
        self.sweep_slots(&mut self.next_shard().lock(), usize::MAX, now);
    }

    fn shard(&self, key: u64) -> &Mutex<Slots<M::Cell>> {
        // The low bits choose the shard, the high bits the slot in it.
        &self.shards[key as usize & (self.shards.len() - 1)].0
    }

    #[inline]
    fn with_known<R>(&self, key: u64, change: impl FnOnce(&mut M::Cell) -> R) -> Option<R> {
        self.shard(key).lock().get_mut(key).map(change)
    }

    /// Applies `change` to the cell of a new key, or to the overflow cell if the table is full.
    #[cold]
    fn with_new<R>(&self, key: u64, now: Nanos, mut change: impl FnMut(&mut M::Cell) -> R) -> (CellPlace, R) {
        if let Some(result) = self.insert(key, now, &mut change) {
            return (CellPlace::Own(key), result);
        }
        let mut left = STEPS_WHEN_FULL;
        while left > 0 {
            left = left.saturating_sub(self.sweep_slots(&mut self.next_shard().lock(), left, now).max(1));
        }
        match self.insert(key, now, &mut change) {
            Some(result) => (CellPlace::Own(key), result),
            None => (CellPlace::Overflow, self.overflow.update(change)),
        }
    }

    fn insert<R>(&self, key: u64, now: Nanos, change: impl FnOnce(&mut M::Cell) -> R) -> Option<R> {
        let mut slots = self.shard(key).lock();
        // Another thread may have added it meanwhile.
        if let Some(cell) = slots.get_mut(key) {
            return Some(change(cell));
        }
        self.sweep_slots(&mut slots, STEPS_PER_NEW_KEY, now);
        self.reserve_key().then(|| {
            let mut cell = M::Cell::default();
            let result = change(&mut cell);
            slots.insert(key, cell);
            result
        })
    }

    fn read_cell<R>(&self, place: CellPlace, look: impl Fn(&M::Cell) -> R) -> R {
        if let CellPlace::Own(key) = place {
            if let Some(cell) = self.shard(key).lock().get(key) {
                return look(cell);
            }
            if self.keys() < self.max_keys.load(Ordering::Relaxed) {
                return look(&M::Cell::default());
            }
        }
        self.overflow.read(look)
    }

    fn reserve_key(&self) -> bool {
        let max_keys = self.max_keys.load(Ordering::Relaxed);
        let taken = self.keys.fetch_add(1, Ordering::Relaxed) < max_keys;
        if !taken {
            self.keys.fetch_sub(1, Ordering::Relaxed);
        }
        taken
    }

    fn next_shard(&self) -> &Mutex<Slots<M::Cell>> {
        &self.shards[self.next_sweep.fetch_add(1, Ordering::Relaxed) % self.shards.len()].0
    }

    fn sweep_slots(&self, slots: &mut Slots<M::Cell>, steps: usize, now: Nanos) -> usize {
        let (looked, removed) = slots.sweep(steps, |cell| self.meter.is_idle(cell, now));
        self.keys.fetch_sub(removed, Ordering::Relaxed);
        looked
    }
}

impl<M: Meter> fmt::Debug for KeyedState<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedState")
            .field("meter", &self.meter)
            .field("keys", &self.keys())
            .finish_non_exhaustive()
    }
}
