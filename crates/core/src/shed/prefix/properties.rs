//! Properties of the index, against a slow model of it.

use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;

use super::PrefixIndex;

const WORKERS: usize = 4;

/// A tree of texts: each text is a path, and its blocks are the hashes of the path's beginnings.
fn chain(path: &[u8]) -> Vec<u64> {
    let mut hash = 0_u64;
    let mut next = |step: u8| {
        hash = (hash ^ (u64::from(step) + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        hash
    };
    path.iter().map(|step| next(*step)).collect()
}

/// The blocks of one worker, the latest used last.
#[derive(Default)]
struct SlowCache(Vec<u64>);

impl SlowCache {
    fn add(&mut self, blocks: &[u64], capacity: usize) {
        for hash in blocks.iter().take(capacity).rev() {
            self.0.retain(|known| known != hash);
            self.0.push(*hash);
            if self.0.len() > capacity {
                self.0.remove(0);
            }
        }
    }

    fn depth(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|hash| self.0.contains(hash)).count()
    }
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0..3_u8, 1..24)
}

#[derive(Clone, Debug)]
enum Step {
    Add(usize, Vec<u8>),
    Forget(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..WORKERS, path()).prop_map(|(worker, path)| Step::Add(worker, path)),
        1 => (0..WORKERS).prop_map(Step::Forget),
    ]
}

proptest! {
    #[test]
    fn it_has_what_the_latest_prompts_of_each_worker_had(
        steps in proptest::collection::vec(step(), 1..60),
        asked in proptest::collection::vec(path(), 1..8),
        capacity in 1..40_usize,
    ) {
        let mut index = PrefixIndex::default();
        let mut slow: Vec<SlowCache> = (0..WORKERS).map(|_| SlowCache::default()).collect();
        for step in &steps {
            match step {
                Step::Add(worker, path) => {
                    index.add(*worker, &chain(path), capacity);
                    slow[*worker].add(&chain(path), capacity);
                }
                Step::Forget(worker) => {
                    index.forget(*worker);
                    slow[*worker].0.clear();
                }
            }
            prop_assert_eq!(index.blocks(), slow.iter().map(|cache| cache.0.len()).sum::<usize>());
        }
        let used = steps.iter().filter_map(|step| match step {
            Step::Add(_, path) => Some(path),
            Step::Forget(_) => None,
        });
        for path in asked.iter().chain(used) {
            let blocks = chain(path);
            let depths: Vec<usize> = (0..WORKERS).map(|worker| index.depth_at(worker, &blocks)).collect();
            for (worker, depth) in depths.iter().enumerate() {
                // Whoever has a block has all before it, so bisection finds what a walk finds.
                prop_assert_eq!(*depth, slow[worker].depth(&blocks), "worker {}", worker);
            }
            let deepest = index.depth(&blocks);
            prop_assert_eq!(deepest, depths.iter().copied().max().unwrap_or(0));
            let nearest = index.nearest(&blocks, deepest);
            let once: HashSet<usize> = nearest.iter().copied().collect();
            prop_assert_eq!(once.len(), nearest.len(), "no worker is named twice");
            prop_assert!(nearest.iter().all(|worker| depths[*worker] > 0), "{nearest:?} {depths:?}");
        }
    }

    #[test]
    fn its_memory_is_bounded_and_returned(
        paths in proptest::collection::vec(path(), 1..80),
        capacity in 1..20_usize,
    ) {
        let mut index = PrefixIndex::default();
        for (number, path) in paths.iter().enumerate() {
            index.add(number % WORKERS, &chain(path), capacity);
        }
        prop_assert!(index.blocks() <= WORKERS * capacity);
        let distinct: BTreeSet<u64> = paths.iter().flat_map(|path| chain(path)).collect();
        prop_assert!(index.blocks() <= WORKERS * distinct.len());
        (0..WORKERS).for_each(|worker| index.forget(worker));
        prop_assert_eq!(index.blocks(), 0);
        prop_assert!(paths.iter().all(|path| index.depth(&chain(path)) == 0));
    }
}
