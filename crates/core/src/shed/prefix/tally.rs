//! How much of the prompts was cached: as expected, and as engines report.

use serde::{Deserialize, Serialize};

/// Weight of a new prompt in the ratios: older ones than the last few hundred hardly count.
const WEIGHT: f64 = 1.0 / 256.0;

/// Cached shares of recent prompts; each from 0 to 1, `None` before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PrefixFigures {
    /// As expected at dispatch.
    pub estimated: Option<f64>,
    /// As reported by engines in `usage`.
    pub reported: Option<f64>,
}

/// Decaying sums of tokens.
#[derive(Clone, Copy, Debug, Default)]
struct CachedShare {
    cached: f64,
    prompt: f64,
}

impl CachedShare {
    fn add(&mut self, cached: u64, prompt: u64) {
        self.cached += WEIGHT * (cached as f64 - self.cached);
        self.prompt += WEIGHT * (prompt as f64 - self.prompt);
    }

    fn value(self) -> Option<f64> {
        (self.prompt > 0.0).then(|| (self.cached / self.prompt).clamp(0.0, 1.0))
    }
}

/// Sums over the prompts of a pool that have a prefix.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::shed) struct PrefixTally {
    estimated: CachedShare,
    reported: CachedShare,
}

impl PrefixTally {
    /// Counts a prompt of which `cached` tokens are expected to be cached.
    pub(in crate::shed) fn estimate(&mut self, cached: u64, prompt: u64) {
        self.estimated.add(cached, prompt);
    }

    /// Counts a prompt of which an engine had `cached` tokens.
    pub(in crate::shed) fn report(&mut self, cached: u64, prompt: u64) {
        self.reported.add(cached, prompt);
    }

    pub(in crate::shed) fn figures(&self) -> PrefixFigures {
        PrefixFigures { estimated: self.estimated.value(), reported: self.reported.value() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_tokens_and_follow_the_recent_prompts() {
        let mut tally = PrefixTally::default();
        assert_eq!(tally.figures(), PrefixFigures::default());
        tally.estimate(0, 1000);
        tally.estimate(3000, 3000);
        let share = tally.figures().estimated.unwrap();
        assert!((share - 0.75).abs() < 0.01, "{share}");
        (0..2000).for_each(|_| tally.report(100, 1000));
        let share = tally.figures().reported.unwrap();
        assert!((share - 0.1).abs() < 0.001, "{share}");
    }
}
