//! The blocks of all workers of a pool.
//!
//! Prompts are entered from their last block to their first, so a block is always used earlier than
//! all blocks before it, and is dropped earlier. Whoever has a block has all blocks before it. So
//! the longest match is found by bisection, both of one worker and of all together.

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::cache::BlockCache;

/// Workers named per block. Of blocks that more have, such as those of a common system prompt, any
/// worker is as good as another.
const NAMED: usize = 2;
/// A place that names no worker.
const NOBODY: u16 = u16::MAX;
/// Prompts that have gone on differently after a block from which on it is common to many: soon all
/// workers have it, so none of them should get all prompts that begin with it.
const COMMON: u16 = 8;

#[derive(Clone, Copy, Debug)]
struct BlockHolders {
    hash: u64,
    count: u16,
    named: [u16; NAMED],
    /// Prompts that were known up to this block, and went on.
    branches: u16,
}

/// The blocks of all workers, each known by its place in the gate.
#[derive(Clone, Debug, Default)]
pub struct PrefixIndex {
    holders: HashTable<BlockHolders>,
    caches: Vec<BlockCache>,
}

impl PrefixIndex {
    /// Records that the worker at `place`, which keeps up to `capacity` blocks, reads a prompt.
    pub fn add(&mut self, place: usize, blocks: &[u64], capacity: usize) {
        if place >= self.caches.len() {
            self.caches.resize_with(place + 1, BlockCache::default);
        }
        let Self { holders, caches } = self;
        let Some(cache) = caches.get_mut(place) else { return };
        for hash in blocks.iter().take(capacity).rev() {
            if cache.touch(*hash) {
                hold(holders, *hash, place);
            }
            while cache.len() > capacity {
                let Some(old) = cache.evict() else { break };
                release(holders, old, place);
            }
        }
    }

    /// Records that a prompt is known up to its first `depth` blocks, and how it goes on is not.
    pub fn branch(&mut self, blocks: &[u64], depth: usize) {
        let Some(hash) = depth.checked_sub(1).and_then(|last| blocks.get(last)).copied() else { return };
        if let Some(holders) = self.holders.find_mut(hash, |holders| holders.hash == hash) {
            holders.branches = holders.branches.saturating_add(1);
        }
    }

    /// Returns `true` if many prompts go on differently after the first `depth` blocks of this one:
    /// what they have in common is a system prompt, not the text of one conversation.
    #[must_use]
    pub(crate) fn is_common(&self, blocks: &[u64], depth: usize) -> bool {
        let last = depth.checked_sub(1).and_then(|last| blocks.get(last));
        last.and_then(|hash| self.holders_of(*hash)).is_some_and(|holders| holders.branches >= COMMON)
    }

    /// Forgets everything about the worker at `place`.
    pub fn forget(&mut self, place: usize) {
        let Some(cache) = self.caches.get_mut(place) else { return };
        for hash in std::mem::take(cache).blocks() {
            release(&mut self.holders, hash, place);
        }
    }

    /// Returns the number of first blocks of a prompt that some worker has.
    #[must_use]
    pub fn depth(&self, blocks: &[u64]) -> usize {
        blocks.partition_point(|hash| self.holders_of(*hash).is_some())
    }

    /// Returns the number of first blocks of a prompt that the worker at `place` has.
    #[must_use]
    pub fn depth_at(&self, place: usize, blocks: &[u64]) -> usize {
        let Some(cache) = self.caches.get(place).filter(|cache| cache.len() > 0) else { return 0 };
        blocks.partition_point(|hash| cache.contains(*hash))
    }

    /// Returns up to two of the workers that have the first `depth` blocks of a prompt, and up to two
    /// of those that share the longest part of it with others.
    pub(in crate::shed) fn nearest(&self, blocks: &[u64], depth: usize) -> SmallVec<[usize; 2 * NAMED]> {
        let mut nearest = SmallVec::new();
        let known = blocks.get(..depth).unwrap_or_default();
        let Some(deepest) = known.last().and_then(|hash| self.holders_of(*hash)) else { return nearest };
        nearest.extend(deepest.places());
        // Of few holders all may be full: whoever has at least what most have comes next.
        let more = known.partition_point(|hash| {
            self.holders_of(*hash).is_some_and(|holders| holders.count > deepest.count)
        });
        let more = known.get(..more).and_then(<[u64]>::last).and_then(|hash| self.holders_of(*hash));
        nearest
            .extend(more.into_iter().flat_map(BlockHolders::places).filter(|place| !deepest.names(*place)));
        nearest
    }

    /// Returns the number of blocks, counted once for each worker that has them.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.caches.iter().map(BlockCache::len).sum()
    }

    /// Returns the bytes of memory that it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        let caches: usize = self.caches.iter().map(BlockCache::memory).sum();
        caches + self.holders.allocation_size() + self.caches.capacity() * size_of::<BlockCache>()
    }

    fn holders_of(&self, hash: u64) -> Option<&BlockHolders> {
        self.holders.find(hash, |holders| holders.hash == hash)
    }
}

impl BlockHolders {
    fn places(&self) -> impl Iterator<Item = usize> + use<> {
        self.named.into_iter().filter(|place| *place != NOBODY).map(usize::from)
    }

    fn names(&self, place: usize) -> bool {
        self.places().any(|named| named == place)
    }
}

fn hold(holders: &mut HashTable<BlockHolders>, hash: u64, place: usize) {
    let entry = holders
        .entry(hash, |holders| holders.hash == hash, |holders| holders.hash)
        .or_insert(BlockHolders { hash, count: 0, named: [NOBODY; NAMED], branches: 0 });
    let holders = entry.into_mut();
    holders.count = holders.count.saturating_add(1);
    if let Some(free) = holders.named.iter_mut().find(|named| **named == NOBODY) {
        *free = u16::try_from(place).unwrap_or(NOBODY);
    }
}

fn release(holders: &mut HashTable<BlockHolders>, hash: u64, place: usize) {
    let Ok(mut entry) = holders.find_entry(hash, |holders| holders.hash == hash) else { return };
    let known = entry.get_mut();
    known.count = known.count.saturating_sub(1);
    if known.count == 0 {
        entry.remove();
        return;
    }
    for named in &mut known.named {
        if usize::from(*named) == place {
            *named = NOBODY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_have_the_whole_conversation_or_the_start_that_many_share() {
        let mut index = PrefixIndex::default();
        // A system prompt of two blocks at all five, a conversation at two of them.
        (0..5).for_each(|place| index.add(place, &[1, 2], 8));
        index.add(3, &[1, 2, 30, 31], 8);
        index.add(4, &[1, 2, 30], 8);
        let asked = [1, 2, 30, 31, 32];
        let depths: Vec<usize> = (0..6).map(|place| index.depth_at(place, &asked)).collect();
        assert_eq!((depths, index.depth(&asked)), (vec![2, 2, 2, 4, 3, 0], 4));
        assert_eq!(index.nearest(&asked, 4).into_vec(), [3, 4]);
        index.forget(3);
        assert_eq!(index.depth(&asked), 3);
        assert_eq!(index.nearest(&asked, 3).into_vec(), [4, 0, 1]);
        assert_eq!(index.nearest(&[7], 0).into_vec(), [0; 0]);
    }

    #[test]
    fn what_many_prompts_begin_with_is_common_and_a_conversation_is_not() {
        let mut index = PrefixIndex::default();
        let mut ask = |blocks: &[u64]| {
            let depth = index.depth(blocks);
            let common = index.is_common(blocks, depth);
            index.branch(blocks, depth);
            index.add(0, blocks, 1000);
            common
        };
        for conversation in 10..19 {
            assert!(!ask(&[1, 2, conversation]), "{conversation}");
        }
        assert!(ask(&[1, 2, 20]), "after eight others that began with it");
        let mut text = vec![1, 2, 10];
        for turn in 100..130 {
            text.push(turn);
            assert!(!ask(&text), "a conversation goes on in one way");
        }
    }
}
