//! Times to first token for prompts that are read outside the batch.

use std::time::Duration;

use crate::draw::normal;

/// The distribution of the time from slot to first token. Shares are from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct FirstTokenSpread {
    /// Median for prompts that are not cached. Zero: the steps of the batch read the prompts.
    pub median: Duration,
    /// Standard deviation of the logarithm of that time; 0 makes it constant.
    pub sigma: f64,
    /// Lower bound of a drawn time.
    pub least: Duration,
    /// Upper bound of a drawn time, before a spike multiplies it.
    pub most: Duration,
    /// Share of prompts that are cached.
    pub cached_share: f64,
    /// Time of a cached prompt.
    pub cached: Duration,
    /// Share of requests whose time is multiplied by `spike_factor`.
    pub spike_share: f64,
    /// Factor of a spike.
    pub spike_factor: f64,
}

impl Default for FirstTokenSpread {
    /// Returns the distribution for prompts that the steps of the batch read.
    fn default() -> Self {
        Self {
            median: Duration::ZERO,
            sigma: 0.0,
            least: Duration::ZERO,
            most: Duration::MAX,
            cached_share: 0.0,
            cached: Duration::ZERO,
            spike_share: 0.0,
            spike_factor: 1.0,
        }
    }
}

/// A seeded source of times to the first token.
#[derive(Clone, Debug)]
pub struct FirstTokens {
    spread: FirstTokenSpread,
    random: fastrand::Rng,
}

impl FirstTokens {
    /// Creates a source of times. The same seed gives the same sequence.
    #[must_use]
    pub fn new(spread: FirstTokenSpread, seed: u64) -> Self {
        Self { spread, random: fastrand::Rng::with_seed(seed) }
    }

    /// Sets the share of cached prompts, from the next sample on.
    pub fn set_cached_share(&mut self, share: f64) {
        self.spread.cached_share = share;
    }

    /// Returns the time of the next request; `None` if the steps of the batch read the prompts.
    pub fn sample(&mut self) -> Option<Duration> {
        // Every request draws equally many values, so that one setting changes no other's draws.
        let (cached, spike) = (self.random.f64(), self.random.f64());
        let normal = normal(&mut self.random);
        let spread = &self.spread;
        if spread.median.is_zero() {
            return None;
        }
        let time = if cached < spread.cached_share {
            spread.cached
        } else {
            let time = spread.median.as_secs_f64() * (spread.sigma * normal).exp();
            seconds(time).max(spread.least).min(spread.most)
        };
        let factor = if spike < spread.spike_share { spread.spike_factor } else { 1.0 };
        Some(seconds(time.as_secs_f64() * factor))
    }
}

fn seconds(time: f64) -> Duration {
    Duration::try_from_secs_f64(time).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn drawn(spread: FirstTokenSpread) -> Vec<Duration> {
        let mut times = FirstTokens::new(spread, 7);
        let mut drawn: Vec<Duration> = (0..20_000).map(|_| times.sample().unwrap()).collect();
        drawn.sort_unstable();
        drawn
    }

    fn quantile(drawn: &[Duration], q: f64) -> f64 {
        drawn[(q * drawn.len() as f64) as usize].as_secs_f64() * 1000.0
    }

    #[test]
    fn a_log_normal_spread_has_its_median_and_its_bounds() {
        let spread = FirstTokenSpread {
            median: 127 * MILLI,
            sigma: 0.71,
            least: 42 * MILLI,
            most: 600 * MILLI,
            ..FirstTokenSpread::default()
        };
        let times = drawn(spread.clone());
        assert_eq!((times[0], times[times.len() - 1]), (42 * MILLI, 600 * MILLI));
        assert!((quantile(&times, 0.5) - 127.0).abs() < 3.0, "{}", quantile(&times, 0.5));
        // The 90th percentile of the logarithm lies 1.2816 deviations above its median.
        assert!((quantile(&times, 0.9) - 315.5).abs() < 10.0, "{}", quantile(&times, 0.9));
        assert_eq!(drawn(spread), times);
    }

    #[test]
    fn spikes_and_cached_prompts_have_their_shares() {
        let spread = FirstTokenSpread { median: 400 * MILLI, ..FirstTokenSpread::default() };
        let spiky = FirstTokenSpread { spike_share: 0.01, spike_factor: 10.0, ..spread.clone() };
        let spikes = drawn(spiky).iter().filter(|time| **time == 4000 * MILLI).count();
        assert!((150..250).contains(&spikes), "{spikes} of 20000");
        let mixed = FirstTokenSpread { cached_share: 0.5, cached: 20 * MILLI, ..spread };
        let times = drawn(mixed);
        let cached = times.iter().filter(|time| **time == 20 * MILLI).count();
        assert!((9_700..10_300).contains(&cached), "{cached} of 20000");
        assert_eq!(times[19_999], 400 * MILLI);
    }

    #[test]
    fn without_a_median_the_steps_read_prompts() {
        assert_eq!(FirstTokens::new(FirstTokenSpread::default(), 1).sample(), None);
    }
}
