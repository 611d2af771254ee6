//! Random output lengths.

use crate::draw::normal;

/// Standard deviation of the logarithm. The 90th percentile is 2.8 × median, as in chat traffic.
const SIGMA: f64 = 0.8;

/// A seeded source of output lengths, log-normal around a mean.
#[derive(Clone, Debug)]
pub struct Lengths {
    random: fastrand::Rng,
    mu: f64,
}

impl Lengths {
    /// Creates a source with this mean (tokens, before bounds cut). The same seed repeats it.
    #[must_use]
    pub fn new(mean: u32, seed: u64) -> Self {
        let mu = f64::from(mean.max(1)).ln() - SIGMA * SIGMA / 2.0;
        Self { random: fastrand::Rng::with_seed(seed), mu }
    }

    /// Returns the next length, from 1 to `max`.
    pub fn sample(&mut self, max: u32) -> u32 {
        let length = (self.mu + SIGMA * normal(&mut self.random)).exp().round();
        // The cast saturates at `u32::MAX`.
        (length as u32).clamp(1, max.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_what_was_asked_for_and_a_seed_repeats() {
        let mut lengths = Lengths::new(200, 7);
        let drawn: Vec<u32> = (0..50_000).map(|_| lengths.sample(u32::MAX)).collect();
        let mean = drawn.iter().map(|&length| f64::from(length)).sum::<f64>() / 50_000.0;
        assert!((195.0..205.0).contains(&mean), "mean {mean}");

        let mut again = Lengths::new(200, 7);
        assert!(drawn.iter().all(|&length| again.sample(u32::MAX) == length));
    }

    #[test]
    fn a_bound_holds() {
        let mut lengths = Lengths::new(200, 7);
        assert!((0..1000).all(|_| (1..=16).contains(&lengths.sample(16))));
        assert_eq!(lengths.sample(0), 1);
    }
}
