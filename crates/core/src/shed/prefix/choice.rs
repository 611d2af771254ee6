//! The choice among workers by what each has left to read.

/// A worker that may get a prompt.
#[derive(Clone, Copy, Debug)]
pub(in crate::shed) struct PrefixOption {
    pub(in crate::shed) place: usize,
    pub(in crate::shed) depth: usize,
    /// Seconds until it has read the prompt, and all that was sent there before.
    pub(in crate::shed) seconds: f64,
    /// `true` if its load is within the bound on its share.
    pub(in crate::shed) bounded: bool,
    /// Its rank for this prompt, the same in every gateway.
    pub(in crate::shed) rank: u64,
}

/// Time to the first token, relative to the least, up to which a worker with more of the prompt, or
/// of a higher rank, is preferred. Below it a move would gain little and cost a cache.
const TOLERANCE: f64 = 1.25;
/// Difference in seconds that is none: about a step of a busy engine, which a prompt waits for anyway.
/// With less, prompts of a few hundred tokens move although no first token comes earlier.
const NEGLIGIBLE: f64 = 0.03;

/// Chooses a worker: among those within the bound on their load, of those that are about as fast as
/// the fastest, the one with the most of the prompt; among equals the highest in rank.
pub(in crate::shed) fn best(options: &[PrefixOption]) -> Option<usize> {
    let within = options.iter().any(|option| option.bounded);
    let open = || options.iter().filter(|option| option.bounded || !within);
    let least = open().map(|option| option.seconds).min_by(f64::total_cmp)?;
    let fast = |option: &&PrefixOption| option.seconds <= least * TOLERANCE + NEGLIGIBLE;
    open().filter(fast).max_by_key(|option| (option.depth, option.rank)).map(|option| option.place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(place: usize, depth: usize, seconds: f64) -> PrefixOption {
        PrefixOption { place, depth, seconds, bounded: true, rank: 100 - place as u64 }
    }

    #[test]
    fn the_prefix_counts_as_far_as_it_saves_time() {
        assert_eq!(best(&[]), None);
        // The worker with the prefix has 0.1 s to read, the others 1 s.
        assert_eq!(best(&[option(0, 0, 1.0), option(1, 40, 0.1), option(2, 0, 1.0)]), Some(1));
        // Less than a step of the engine is no reason to leave a cache.
        assert_eq!(best(&[option(0, 0, 0.01), option(1, 4, 0.04)]), Some(1));
        assert_eq!(best(&[option(0, 0, 0.01), option(1, 4, 0.05)]), Some(0));
        // With enough queued before it, it is slower than an idle one.
        assert_eq!(best(&[option(0, 0, 1.0), option(1, 40, 1.3)]), Some(0));
        assert_eq!(best(&[option(0, 0, 1.0), option(1, 40, 1.2)]), Some(1));
    }

    #[test]
    fn equals_are_ranked_and_overloaded_ones_come_last() {
        let options = [option(0, 16, 0.5), option(1, 16, 0.5), option(2, 16, 0.5)];
        assert_eq!(best(&options), Some(0), "the home of a new prefix");
        let full = PrefixOption { bounded: false, ..options[0] };
        assert_eq!(best(&[full, options[1], options[2]]), Some(1));
        assert_eq!(best(&[full]), Some(0), "none is within the bound");
        // A home that is busy loses a new prefix to an idle worker.
        assert_eq!(best(&[option(0, 16, 0.9), option(1, 16, 0.5)]), Some(1));
    }
}
