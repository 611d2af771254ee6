//! The hash table of one shard: an open-addressed array, each key stored beside its cell.
//!
//! A look-up touches one or two cache lines of the array; a table with a separate tag array touches
//! at least two places. At a million keys these cache misses are the cost of a check. Keys are
//! already hashes, so a key's home slot is its proportional position in the array, and the array
//! can grow by half: slack stays between 1.3 and 2. Removal shifts the following entries back, so
//! there are no tombstones and no rehash in place.

/// The key of an empty slot. A key that happens to be 0 is stored as 1.
const VACANT: u64 = 0;
/// Maximum load, three quarters: finding a key then probes 2.5 slots on average.
const FULL: (usize, usize) = (3, 4);
const SMALLEST: usize = 8;

#[derive(Debug, Default)]
struct Slot<C> {
    key: u64,
    cell: C,
}

#[derive(Debug)]
pub(crate) struct Slots<C> {
    slots: Box<[Slot<C>]>,
    len: usize,
    /// Slot at which the next sweep continues.
    cursor: usize,
}

impl<C: Default> Slots<C> {
    pub(crate) fn new() -> Self {
        Self { slots: Box::default(), len: 0, cursor: 0 }
    }

    #[inline]
    fn home(&self, key: u64) -> usize {
        ((u128::from(key) * self.slots.len() as u128) >> 64) as usize
    }

    #[inline]
    fn after(&self, index: usize) -> usize {
        if index + 1 < self.slots.len() { index + 1 } else { 0 }
    }

    /// Returns the slot of `key` or the vacant one that ended the search; `None` without any slots.
    #[inline]
    fn search(&self, key: u64) -> Option<usize> {
        let mut index = self.home(key);
        loop {
            let slot = self.slots.get(index)?;
            if slot.key == key || slot.key == VACANT {
                return Some(index);
            }
            index = self.after(index);
        }
    }

    #[inline]
    pub(crate) fn get(&self, key: u64) -> Option<&C> {
        let key = key.max(1);
        let slot = self.slots.get(self.search(key)?)?;
        (slot.key == key).then_some(&slot.cell)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut C> {
        let key = key.max(1);
        let index = self.search(key)?;
        let slot = self.slots.get_mut(index)?;
        (slot.key == key).then_some(&mut slot.cell)
    }

    pub(crate) fn insert(&mut self, key: u64, cell: C) {
        if (self.len + 1) * FULL.1 > self.slots.len() * FULL.0 {
            self.resize(self.slots.len() + self.slots.len() / 2);
        }
        self.place(Slot { key: key.max(1), cell });
        self.len += 1;
    }

    fn place(&mut self, new: Slot<C>) {
        if let Some(slot) = self.search(new.key).and_then(|index| self.slots.get_mut(index)) {
            *slot = new;
        }
    }

    fn resize(&mut self, slots: usize) {
        let empty = std::iter::repeat_with(|| Slot { key: VACANT, cell: C::default() });
        let old = std::mem::replace(&mut self.slots, empty.take(slots.max(SMALLEST)).collect());
        old.into_iter().filter(|slot| slot.key != VACANT).for_each(|slot| self.place(slot));
    }

    /// Removes the key at `hole`. Later entries move up unless their home slot is behind the gap.
    fn remove(&mut self, mut hole: usize) {
        let mut next = self.after(hole);
        while self.slots[next].key != VACANT {
            let home = self.home(self.slots[next].key);
            if self.distance(home, next) >= self.distance(hole, next) {
                self.slots.swap(hole, next);
                hole = next;
            }
            next = self.after(next);
        }
        self.slots[hole] = Slot::default();
        self.len -= 1;
    }

    /// Returns the number of slots from one slot forward to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        if from <= to { to - from } else { to + self.slots.len() - from }
    }

    /// Removes the idle keys among the next `steps` slots, or among all if they are fewer. Returns
    /// `(steps done, keys removed)`. A full pass frees memory if the array is nearly empty.
    pub(crate) fn sweep(&mut self, steps: usize, is_idle: impl Fn(&C) -> bool) -> (usize, usize) {
        let before = self.len;
        let all = self.slots.len();
        let (mut looked, mut passed) = (0, false);
        // A removal moves the next key into the same slot, so it counts as a step, too.
        while looked < all && looked + (before - self.len) < steps {
            let slot = &self.slots[self.cursor];
            if slot.key != VACANT && is_idle(&slot.cell) {
                self.remove(self.cursor);
            } else {
                self.cursor = self.after(self.cursor);
                passed |= self.cursor == 0;
                looked += 1;
            }
        }
        let removed = before - self.len;
        if passed && all > SMALLEST && self.len < all / 8 {
            self.cursor = 0;
            self.resize(self.len * 2);
        }
        (looked + removed, removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Clone, Debug)]
    enum Step {
        Set(u64, u8),
        Sweep(usize, u8),
    }

    proptest! {
        #[test]
        fn it_is_a_map_that_forgets_what_is_idle(
            steps in proptest::collection::vec(
                prop_oneof![
                    // Few home slots, also at both ends of the array: long runs that wrap around.
                    6 => (0..24_u64, any::<u8>()).prop_map(|(key, cell)| Step::Set((key % 6) << 61 | key, cell)),
                    1 => (0..40_usize, any::<u8>()).prop_map(|(steps, below)| Step::Sweep(steps, below)),
                ],
                1..200,
            )
        ) {
            let mut slots = Slots::new();
            let mut reference = HashMap::new();
            for step in steps {
                match step {
                    Step::Set(key, cell) => {
                        match slots.get_mut(key) {
                            Some(known) => *known = cell,
                            None => slots.insert(key, cell),
                        }
                        reference.insert(key.max(1), cell);
                    }
                    Step::Sweep(steps, below) => {
                        let (looked, removed) = slots.sweep(steps, |cell| *cell < below);
                        prop_assert!(looked <= steps);
                        let before = reference.len();
                        reference.retain(|key, cell| *cell >= below || slots.get(*key).is_some());
                        prop_assert_eq!(before - reference.len(), removed);
                    }
                }
                prop_assert_eq!(slots.len, reference.len());
                for (key, cell) in &reference {
                    prop_assert_eq!(slots.get(*key), Some(cell));
                }
            }
            let idle = reference.values().filter(|cell| **cell < 128).count();
            prop_assert_eq!(slots.sweep(usize::MAX, |cell| *cell < 128).1, idle, "one whole pass finds all");
        }
    }

    #[test]
    fn the_memory_of_a_flood_is_given_back() {
        let mut slots = Slots::new();
        for key in 1..=10_000_u64 {
            slots.insert(key.wrapping_mul(0x9E37_79B9_7F4A_7C15), key);
        }
        let flooded = slots.slots.len();
        assert!(flooded <= 20_001, "{flooded} slots");
        slots.sweep(usize::MAX, |cell| *cell > 10);
        assert!(
            slots.len == 10 && slots.slots.len() <= 20,
            "{} slots for {} keys",
            slots.slots.len(),
            slots.len
        );
    }
}
