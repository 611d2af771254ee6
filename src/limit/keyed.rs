//! One cell per key, for at most so many keys.
//!
//! A key is known by a 64-bit hash, which the caller of this module makes with a secret random key (see
//! [`Seal`](super::subject::Seal)): a cell of the token bucket then costs 16 bytes and the table's slack, and nobody
//! outside can aim at a shard or at another key. Two keys of the same hash would share one quota: neither gets more than
//! its quota, both together get one. Among a million keys any such pair exists with probability 3·10⁻⁸.
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

use hashbrown::HashTable;
use parking_lot::Mutex;

use super::meter::{Level, Mark, Meter, Shared, Shortage};
use crate::clock::Nanos;

/// Two threads meet on a shard in 1 of 256 calls, and a shard of a million keys has 4000, moved in tens of µs.
const SHARDS: usize = 256;
/// The table takes its tag from the top 7 bits and its slot from the low ones; the shard lies between.
const SHARD_SHIFT: u32 = 49;
/// A shard doubles after as many new keys as it holds: four slots for each visit every slot twice before that.
const STEPS_PER_NEW_KEY: usize = 4;
/// What a newcomer to a full table may spend on finding an idle key: about 0.1 µs.
const STEPS_WHEN_FULL: usize = 64;
/// Shards smaller than this are not worth shrinking.
const SMALL: usize = 64;

/// Where a charge was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The key's own cell.
    Own(u64),
    /// The cell shared by the newcomers to a full table.
    Overflow,
}

struct Entry<C> {
    key: u64,
    cell: C,
}

struct Slots<C> {
    table: HashTable<Entry<C>>,
    /// The slot at which the next sweep goes on.
    cursor: usize,
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
        let empty = || Shard(Mutex::new(Slots { table: HashTable::new(), cursor: 0 }));
        Self {
            meter,
            shards: std::iter::repeat_with(empty).take(SHARDS).collect(),
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
        let known = self.with_known(key, |cell| self.meter.charge(cell, amount, now));
        if let Some(result) = known {
            return result.map(|mark| (Place::Own(key), mark));
        }
        let (place, result) = self.with_new(key, now, |cell| self.meter.charge(cell, amount, now));
        result.map(|mark| (place, mark))
    }

    /// What [`Keyed::charge`] would be short of.
    pub fn shortage(&self, key: u64, amount: u64, now: Nanos) -> Option<Shortage> {
        self.look(Place::Own(key), |cell| self.meter.shortage(cell, amount, now))
    }

    /// How a cell stands.
    pub fn level(&self, place: Place, now: Nanos) -> Level {
        self.look(place, |cell| self.meter.level(cell, now))
    }

    /// Corrects a charge, as [`Meter::correct`]. The rest of a key that was forgotten meanwhile is dropped, for its
    /// quota is whole; an excess makes the key known again.
    pub fn correct(&self, place: Place, mark: Mark, reserved: u64, actual: u64, now: Nanos) {
        let change = |cell: &mut M::Cell| self.meter.correct(cell, mark, reserved, actual, now);
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
        &self.shards[(key >> SHARD_SHIFT) as usize % SHARDS].0
    }

    #[inline]
    fn with_known<R>(&self, key: u64, change: impl FnOnce(&mut M::Cell) -> R) -> Option<R> {
        let mut slots = self.shard(key).lock();
        slots.table.find_mut(key, |entry| entry.key == key).map(|entry| change(&mut entry.cell))
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
        if let Some(entry) = slots.table.find_mut(key, |entry| entry.key == key) {
            return Some(change(&mut entry.cell));
        }
        self.sweep_slots(&mut slots, STEPS_PER_NEW_KEY, now);
        self.take_seat().then(|| {
            let mut cell = M::Cell::default();
            let result = change(&mut cell);
            slots.table.insert_unique(key, Entry { key, cell }, |entry| entry.key);
            result
        })
    }

    fn look<R>(&self, place: Place, look: impl Fn(&M::Cell) -> R) -> R {
        if let Place::Own(key) = place {
            let slots = self.shard(key).lock();
            if let Some(entry) = slots.table.find(key, |entry| entry.key == key) {
                return look(&entry.cell);
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
        &self.shards[self.turn.fetch_add(1, Ordering::Relaxed) % SHARDS].0
    }

    /// Forgets the idle keys among the next `steps` slots, or among all if they are fewer, and returns how many slots
    /// that were. A pass that ends in a nearly empty table gives its memory back.
    fn sweep_slots(&self, slots: &mut Slots<M::Cell>, steps: usize, now: Nanos) -> usize {
        let buckets = slots.table.num_buckets();
        let steps = steps.min(buckets);
        let mut passed = false;
        for _ in 0..steps {
            if let Ok(entry) = slots.table.get_bucket_entry(slots.cursor)
                && self.meter.is_idle(&entry.get().cell, now)
            {
                entry.remove();
                self.keys.fetch_sub(1, Ordering::Relaxed);
            }
            slots.cursor += 1;
            // Also behind the end of a table that has shrunk since.
            if slots.cursor >= buckets {
                slots.cursor = 0;
                passed = true;
            }
        }
        if passed && buckets > SMALL && slots.table.len() < buckets / 8 {
            slots.table.shrink_to(slots.table.len() * 2, |entry| entry.key);
        }
        steps
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::rule::Quota;
    use crate::limit::token_bucket::TokenBucket;
    use std::time::Duration;

    #[test]
    fn the_memory_of_a_flood_is_given_back() {
        let quota = Quota { limit: 1, period: Duration::from_secs(1), burst: 1 };
        let table = Keyed::new(TokenBucket::new(quota), 200_000);
        let bytes = || table.shards.iter().map(|shard| shard.0.lock().table.allocation_size()).sum::<usize>();
        for key in 0..100_000_u64 {
            table.charge(key.wrapping_mul(0x9E37_79B9_7F4A_7C15), 1, Nanos::ZERO).unwrap();
        }
        let flooded = bytes();
        assert!(flooded < 40 * table.keys(), "{flooded} bytes for {} keys", table.keys());
        (0..SHARDS).for_each(|_| table.sweep(Nanos::from_secs(1)));
        assert!(bytes() < flooded / 50, "{} of {flooded} bytes left", bytes());
    }
}
