//! The blocks that one worker probably has: the latest used, up to its size.

use hashbrown::HashTable;

/// Index of no entry.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct CacheEntry {
    hash: u64,
    newer: u32,
    older: u32,
}

/// Blocks of one worker, in the order of their last use.
#[derive(Clone, Debug)]
pub(super) struct BlockCache {
    /// Positions in `entries`, by the entries' hashes.
    table: HashTable<u32>,
    entries: Vec<CacheEntry>,
    newest: u32,
    oldest: u32,
}

impl Default for BlockCache {
    fn default() -> Self {
        Self { table: HashTable::new(), entries: Vec::new(), newest: NONE, oldest: NONE }
    }
}

impl BlockCache {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn contains(&self, hash: u64) -> bool {
        self.table.find(hash, |at| self.hash_at(*at) == hash).is_some()
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = u64> + '_ {
        self.table.iter().map(|at| self.hash_at(*at))
    }

    /// Makes `hash` the latest used block. Returns `true` if it is new.
    pub(super) fn touch(&mut self, hash: u64) -> bool {
        let known = self.table.find(hash, |at| self.hash_at(*at) == hash).copied();
        if let Some(at) = known {
            if at != self.newest {
                self.unlink(at);
                self.link(at);
            }
            return false;
        }
        let at = self.entries.len() as u32;
        self.entries.push(CacheEntry { hash, newer: NONE, older: NONE });
        self.link(at);
        let entries = &self.entries;
        self.table.insert_unique(hash, at, |at| entries.get(*at as usize).map_or(0, |entry| entry.hash));
        true
    }

    /// Removes and returns the block that has been unused for longest.
    pub(super) fn evict(&mut self) -> Option<u64> {
        let at = self.oldest;
        let entry = *self.entries.get(at as usize)?;
        self.unlink(at);
        self.remove_from_table(entry.hash, at);
        self.fill(at);
        Some(entry.hash)
    }

    pub(super) fn memory(&self) -> usize {
        self.table.allocation_size() + self.entries.capacity() * size_of::<CacheEntry>()
    }

    fn hash_at(&self, at: u32) -> u64 {
        self.entries.get(at as usize).map_or(0, |entry| entry.hash)
    }

    fn remove_from_table(&mut self, hash: u64, at: u32) {
        if let Ok(entry) = self.table.find_entry(hash, |known| *known == at) {
            entry.remove();
        }
    }

    /// Moves the last entry to the free position `at`, so that the entries have no gaps.
    fn fill(&mut self, at: u32) {
        let last = self.entries.len().saturating_sub(1) as u32;
        let Some(moved) = self.entries.pop().filter(|_| at != last) else { return };
        if let Ok(mut entry) = self.table.find_entry(moved.hash, |known| *known == last) {
            *entry.get_mut() = at;
        }
        if let Some(free) = self.entries.get_mut(at as usize) {
            *free = moved;
        }
        self.set_newer(moved.older, at);
        self.set_older(moved.newer, at);
    }

    fn link(&mut self, at: u32) {
        let newest = self.newest;
        if let Some(entry) = self.entries.get_mut(at as usize) {
            (entry.newer, entry.older) = (NONE, newest);
        }
        self.set_newer(newest, at);
        self.newest = at;
    }

    fn unlink(&mut self, at: u32) {
        let Some(CacheEntry { newer, older, .. }) = self.entries.get(at as usize).copied() else { return };
        self.set_newer(older, newer);
        self.set_older(newer, older);
    }

    /// Sets what is newer than the entry at `at`; of no entry: the oldest.
    fn set_newer(&mut self, at: u32, newer: u32) {
        match self.entries.get_mut(at as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }

    /// Sets what is older than the entry at `at`; of no entry: the newest.
    fn set_older(&mut self, at: u32, older: u32) {
        match self.entries.get_mut(at as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }
}
