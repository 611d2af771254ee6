//! One cell per key, for at most so many keys.
//!
//! A key is known by a 64-bit hash, which who uses this must make under a random secret (the ladder does): a cell of the
//! token bucket then costs 16 bytes and the table's slack, and nobody outside can aim at a shard or at another key. Two
//! keys of the same hash would share one quota: neither gets more than its quota, both together get one. Among a million
//! keys any such pair exists with probability 3·10⁻⁸.
//!
//! A cell is forgotten only when it is idle, that is when a new one would say the same: a cache that drops the oldest
//! would forgive debt. When the table is full of live keys, newcomers share one overflow cell: they are limited together
//! rather than not at all, and memory stays bounded. A key that moves from the overflow to a cell of its own starts with
//! a whole quota, so around such a move it may get its quota once more.
//!
//! Cleaning is spread out, so that no call ever pays for the whole table: each new key looks at a few slots of its
//! shard, each newcomer to a full table at some of the next shards in turn, [`Keyed::sweep`] at one shard. The longest
//! pause is the growth of one shard, 1/256 of the table.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::meter::{Level, Mark, Meter, Shared, Shortage};
use super::slots::Slots;
use crate::clock::Nanos;

/// Two threads meet on a shard in 1 of 256 calls, and a shard of a million keys has 4000, moved in tens of µs.
const MOST_SHARDS: usize = 256;
/// A shard for each so many keys, so that a newcomer to a small full table meets all of it within its steps.
const KEYS_PER_SHARD: usize = 16;
/// A shard grows by half after half as many new keys as it holds: four slots for each visit every slot before that.
const STEPS_PER_NEW_KEY: usize = 4;
/// What a newcomer to a full table may spend on finding an idle key: eight cache lines in a row for a token bucket.
const STEPS_WHEN_FULL: usize = 32;

/// Where a charge was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The key's own cell.
    Own(u64),
    /// The cell shared by the newcomers to a full table.
    Overflow,
}

// A cache line each, so that neighbouring locks do not disturb each other.
#[repr(align(64))]
struct Shard<C>(Mutex<Slots<C>>);

/// A cell per key.
pub struct Keyed<M: Meter> {
    meter: M,
    shards: Box<[Shard<M::Cell>]>,
    overflow: M::Shared,
    keys: AtomicUsize,
    max_keys: AtomicUsize,
    /// The shard that is swept next.
    turn: AtomicUsize,
}

impl<M: Meter> Keyed<M> {
    /// An empty table for at most `max_keys` keys. It takes memory as keys come.
    #[must_use]
    pub fn new(meter: M, max_keys: usize) -> Self {
        let shards = (max_keys / KEYS_PER_SHARD).clamp(1, MOST_SHARDS).next_power_of_two();
        let empty = || Shard(Mutex::new(Slots::new()));
        Self {
            meter,
            shards: std::iter::repeat_with(empty).take(shards).collect(),
            overflow: M::Shared::default(),
            keys: AtomicUsize::new(0),
            max_keys: AtomicUsize::new(max_keys),
            turn: AtomicUsize::new(0),
        }
    }

    /// Changes the bound. A lower one lets no key in until enough have been forgotten.
    pub fn set_max_keys(&self, max_keys: usize) {
        self.max_keys.store(max_keys, Ordering::Relaxed);
    }

    /// Keys remembered now.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// Takes `amount` units of the key's quota, or says what is missing and takes nothing.
    ///
    /// # Errors
    /// As [`Meter::charge`].
    #[inline]
    pub fn charge(&self, key: u64, amount: u64, now: Nanos) -> Result<(Place, Mark), Shortage> {
        self.charge_by(&self.meter, key, amount, now)
    }

    /// The same by a quota of the key's own.
    #[inline]
    pub(crate) fn charge_by(
        &self,
        meter: &M,
        key: u64,
        amount: u64,
        now: Nanos,
    ) -> Result<(Place, Mark), Shortage> {
        let known = self.with_known(key, |cell| meter.charge(cell, amount, now));
        if let Some(result) = known {
            return result.map(|mark| (Place::Own(key), mark));
        }
        let (place, result) = self.with_new(key, now, |cell| meter.charge(cell, amount, now));
        result.map(|mark| (place, mark))
    }

    /// What [`Keyed::charge`] would be short of.
    pub fn shortage(&self, key: u64, amount: u64, now: Nanos) -> Option<Shortage> {
        self.shortage_by(&self.meter, key, amount, now)
    }

    /// The same by a quota of the key's own.
    pub(crate) fn shortage_by(&self, meter: &M, key: u64, amount: u64, now: Nanos) -> Option<Shortage> {
        self.look(Place::Own(key), |cell| meter.shortage(cell, amount, now))
    }

    /// How a cell stands.
    pub fn level(&self, place: Place, now: Nanos) -> Level {
        self.level_by(&self.meter, place, now)
    }

    /// The same by a quota of the key's own.
    pub(crate) fn level_by(&self, meter: &M, place: Place, now: Nanos) -> Level {
        self.look(place, |cell| meter.level(cell, now))
    }

    /// Corrects a charge, as [`Meter::correct`]. The rest of a key that was forgotten meanwhile is dropped, for its
    /// quota is whole; an excess makes the key known again.
    pub fn correct(&self, place: Place, mark: Mark, reserved: u64, actual: u64, now: Nanos) {
        self.correct_by(&self.meter, place, mark, (reserved, actual), now);
    }

    /// The same by a quota of the key's own.
    pub(crate) fn correct_by(
        &self,
        meter: &M,
        place: Place,
        mark: Mark,
        (reserved, actual): (u64, u64),
        now: Nanos,
    ) {
        let change = |cell: &mut M::Cell| meter.correct(cell, mark, reserved, actual, now);
        match place {
            Place::Overflow => self.overflow.update(change),
            Place::Own(key) => {
                if self.with_known(key, change).is_none() && actual > reserved {
                    self.with_new(key, now, change);
                }
            }
        }
    }

    /// Forgets the idle keys of one shard and returns its spare memory; each call takes the next shard. The bound holds
    /// without it; called now and then it gives memory back after a flood of keys.
    pub fn sweep(&self, now: Nanos) {
        self.sweep_slots(&mut self.next_shard().lock(), usize::MAX, now);
    }

    fn shard(&self, key: u64) -> &Mutex<Slots<M::Cell>> {
        // The slot in the shard comes from the high bits.
        &self.shards[key as usize & (self.shards.len() - 1)].0
    }

    #[inline]
    fn with_known<R>(&self, key: u64, change: impl FnOnce(&mut M::Cell) -> R) -> Option<R> {
        self.shard(key).lock().get_mut(key).map(change)
    }

    /// Applies `change` to a cell for a key that was not known, or to the overflow cell when there is no room.
    #[cold]
    fn with_new<R>(&self, key: u64, now: Nanos, mut change: impl FnMut(&mut M::Cell) -> R) -> (Place, R) {
        if let Some(result) = self.insert(key, now, &mut change) {
            return (Place::Own(key), result);
        }
        let mut left = STEPS_WHEN_FULL;
        while left > 0 {
            left = left.saturating_sub(self.sweep_slots(&mut self.next_shard().lock(), left, now).max(1));
        }
        match self.insert(key, now, &mut change) {
            Some(result) => (Place::Own(key), result),
            None => (Place::Overflow, self.overflow.update(change)),
        }
    }

    fn insert<R>(&self, key: u64, now: Nanos, change: impl FnOnce(&mut M::Cell) -> R) -> Option<R> {
        let mut slots = self.shard(key).lock();
        // Another thread may have been quicker.
        if let Some(cell) = slots.get_mut(key) {
            return Some(change(cell));
        }
        self.sweep_slots(&mut slots, STEPS_PER_NEW_KEY, now);
        self.take_seat().then(|| {
            let mut cell = M::Cell::default();
            let result = change(&mut cell);
            slots.insert(key, cell);
            result
        })
    }

    fn look<R>(&self, place: Place, look: impl Fn(&M::Cell) -> R) -> R {
        if let Place::Own(key) = place {
            if let Some(cell) = self.shard(key).lock().get(key) {
                return look(cell);
            }
            if self.keys() < self.max_keys.load(Ordering::Relaxed) {
                return look(&M::Cell::default());
            }
        }
        self.overflow.read(look)
    }

    fn take_seat(&self) -> bool {
        let max_keys = self.max_keys.load(Ordering::Relaxed);
        let taken = self.keys.fetch_add(1, Ordering::Relaxed) < max_keys;
        if !taken {
            self.keys.fetch_sub(1, Ordering::Relaxed);
        }
        taken
    }

    fn next_shard(&self) -> &Mutex<Slots<M::Cell>> {
        &self.shards[self.turn.fetch_add(1, Ordering::Relaxed) % self.shards.len()].0
    }

    fn sweep_slots(&self, slots: &mut Slots<M::Cell>, steps: usize, now: Nanos) -> usize {
        let (looked, removed) = slots.sweep(steps, |cell| self.meter.is_idle(cell, now));
        self.keys.fetch_sub(removed, Ordering::Relaxed);
        looked
    }
}

impl<M: Meter> fmt::Debug for Keyed<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed")
            .field("meter", &self.meter)
            .field("keys", &self.keys())
            .finish_non_exhaustive()
    }
}
