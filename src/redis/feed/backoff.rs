//! How long to wait before the next try to connect.

use std::time::Duration;

use fastrand::Rng;

/// The first wait: Redis that is only restarted is back about then.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait. A feed that is back must be heard within a heartbeat or two, so it is short; what a hundred
/// gateways ask of a Redis that comes up is still little.
const LONGEST: Duration = Duration::from_secs(1);

/// Grows with each failure.
#[derive(Debug, Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    /// The wait after one more failure: half of it is chance, so that gateways that lost Redis together do not all
    /// come back together.
    pub(super) fn next(&mut self, random: &mut Rng) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.0.min(16)).min(LONGEST);
        self.0 = self.0.saturating_add(1);
        whole / 2 + whole.mul_f64(random.f64() / 2.0)
    }

    /// It worked.
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
