//! Backoff between connection attempts.

use std::time::Duration;

use fastrand::Rng;

/// First wait: a Redis that merely restarts is back by then.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait. It is short, because a feed must be back within a heartbeat or two. A hundred
/// gateways are still little load for a Redis that comes up.
const LONGEST: Duration = Duration::from_secs(1);

/// Exponential backoff; the value counts failures.
#[derive(Debug, Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    /// Returns the wait after another failure. Half of it is random, so that gateways that lost
    /// Redis together do not reconnect together.
    pub(super) fn next(&mut self, random: &mut Rng) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.0.min(16)).min(LONGEST);
        self.0 = self.0.saturating_add(1);
        whole / 2 + whole.mul_f64(random.f64() / 2.0)
    }

    pub(super) fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_second_and_differ() {
        let mut backoff = Backoff::default();
        let mut random = Rng::with_seed(1);
        let mut seen = Vec::new();
        for whole in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.next(&mut random);
            let whole = Duration::from_millis(whole);
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
            seen.push(wait);
        }
        assert_ne!(seen[4], seen[5]);
        assert!((0..100).all(|_| backoff.next(&mut random) <= LONGEST));
        backoff.reset();
        assert!(backoff.next(&mut random) <= FIRST);
    }
}
