//! The prefix cache of a worker: the latest used blocks of the prompts that it has read.

use std::collections::BTreeMap;

use hashbrown::HashMap;

/// Tokens in a block.
pub const BLOCK_TOKENS: u64 = 64;

/// Blocks by the time of their last use. A block stands for itself and all blocks before it.
#[derive(Clone, Debug, Default)]
pub(super) struct PrefixCache {
    used: HashMap<u64, u64>,
    order: BTreeMap<u64, u64>,
    uses: u64,
}

impl PrefixCache {
    /// Returns the tokens of the first blocks of a text that are cached.
    pub(super) fn cached(&self, blocks: &[u64]) -> u64 {
        blocks.iter().take_while(|block| self.used.contains_key(*block)).count() as u64 * BLOCK_TOKENS
    }

    /// Adds the blocks of the first `tokens` tokens of a text, and keeps up to `most` tokens in all.
    /// Of a text the last blocks are dropped first: without those before them they are of no use.
    pub(super) fn add(&mut self, blocks: &[u64], tokens: u64, most: u64) {
        let whole = usize::try_from(tokens / BLOCK_TOKENS).unwrap_or(usize::MAX);
        for block in blocks.iter().take(whole).rev() {
            self.uses += 1;
            if let Some(before) = self.used.insert(*block, self.uses) {
                self.order.remove(&before);
            }
            self.order.insert(self.uses, *block);
        }
        while self.used.len() as u64 * BLOCK_TOKENS > most {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.used.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_blocks_go_and_of_a_text_the_last() {
        let mut cache = PrefixCache::default();
        cache.add(&[1, 2, 3], 3 * BLOCK_TOKENS - 1, 1000);
        assert_eq!(cache.cached(&[1, 2, 3]), 2 * BLOCK_TOKENS, "the third is not whole");
        cache.add(&[1, 20, 30], 1000, 4 * BLOCK_TOKENS);
        assert_eq!((cache.cached(&[1, 20, 30]), cache.cached(&[1, 2])), (192, 128));
        cache.add(&[7], 1000, 4 * BLOCK_TOKENS);
        assert_eq!((cache.cached(&[1, 20, 30]), cache.cached(&[1, 2]), cache.cached(&[7])), (192, 64, 64));
        cache.add(&[8], 1000, 4 * BLOCK_TOKENS);
        assert_eq!(cache.cached(&[1, 20, 30]), 128);
    }
}
