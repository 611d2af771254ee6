//! A bounded map that evicts the least recently updated keys.

use hashbrown::HashMap;
use parking_lot::Mutex;

/// Enough shards that threads rarely contend for one.
const SHARDS: usize = 64;

/// A bounded map from hashed keys to small values.
///
/// Each shard has two generations. Updates go to the young one. When it is full it becomes the old
/// one, and the keys of the previous old one are dropped unless they were updated since. So there
/// is neither a list to keep in order nor a sweep; the cost is memory for twice the keys.
#[derive(Debug)]
pub struct Table<V> {
    shards: Box<[Mutex<Generations<V>>]>,
    capacity: usize,
}

#[derive(Debug)]
struct Generations<V> {
    young: HashMap<u64, V>,
    old: HashMap<u64, V>,
}

impl<V: Clone + Default> Table<V> {
    /// Creates a table that keeps about the latest `keys` keys, and at most twice as many.
    #[must_use]
    pub fn new(keys: usize) -> Self {
        let shard = || Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() });
        Self { shards: std::iter::repeat_with(shard).take(SHARDS).collect(), capacity: keys.div_ceil(SHARDS) }
    }

    /// Returns a copy of the value of `key`; `None` if it has none, or was evicted.
    pub fn get(&self, key: u64) -> Option<V> {
        let shard = self.shard(key).lock();
        shard.young.get(&key).or_else(|| shard.old.get(&key)).cloned()
    }

    /// Changes the value of `key`, which begins as the default.
    pub fn update(&self, key: u64, change: impl FnOnce(&mut V)) {
        let mut shard = self.shard(key).lock();
        if let Some(value) = shard.young.get_mut(&key) {
            return change(value);
        }
        let mut value = shard.old.remove(&key).unwrap_or_default();
        change(&mut value);
        if shard.young.len() >= self.capacity {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(key, value);
    }

    fn shard(&self, key: u64) -> &Mutex<Generations<V>> {
        &self.shards[key as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_bounded_and_keeps_what_is_in_use() {
        let table = Table::<u64>::new(640);
        table.update(7, |value| *value = 1);
        for key in 1000..101_000 {
            table.update(key, |value| *value = key);
            table.update(7, |value| *value += 1);
        }
        assert_eq!((table.get(7), table.get(1000), table.get(100_999)), (Some(100_001), None, Some(100_999)));
        let count = |shard: &Mutex<Generations<u64>>| {
            let shard = shard.lock();
            shard.young.len() + shard.old.len()
        };
        let keys: usize = table.shards.iter().map(count).sum();
        assert!((640..=1280).contains(&keys), "{keys}");
    }
}
