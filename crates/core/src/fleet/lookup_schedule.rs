//! When a name is looked up again.
//!
//! A resolver's answer says how long it holds. It is asked again after that time, but at least as
//! often as the settings say, and never more than once a second. After a failure it is asked again
//! soon, then ever more rarely: a server that is overloaded is not helped by more questions.

use std::time::Duration;

/// Shortest time between two lookups, and the first after a failure.
const SHORTEST: Duration = Duration::from_secs(1);
/// Share by which a time is varied up or down, so that several gateways do not ask together.
const JITTER: f64 = 0.1;

/// Times of the lookups of one name.
#[derive(Debug)]
pub struct LookupSchedule {
    refresh: Duration,
    failures: u32,
}

impl LookupSchedule {
    /// Creates a schedule with at most `refresh` between two lookups.
    #[must_use]
    pub const fn new(refresh: Duration) -> Self {
        Self { refresh, failures: 0 }
    }

    /// Returns the time until the next lookup after an answer that holds for `ttl`. `random`: 0 to 1.
    pub fn answered(&mut self, ttl: Duration, random: f64) -> Duration {
        self.failures = 0;
        self.varied(ttl.max(SHORTEST), random)
    }

    /// Returns the time until the next lookup after a failure. `random`: 0 to 1.
    pub fn failed(&mut self, random: f64) -> Duration {
        let wait = SHORTEST.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.varied(wait, random)
    }

    fn varied(&self, wait: Duration, random: f64) -> Duration {
        wait.min(self.refresh).mul_f64(1.0 + JITTER * (2.0 * random - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_again_when_the_answer_ends_within_the_refresh() {
        let mut schedule = LookupSchedule::new(Duration::from_secs(5));
        for (ttl, wait) in [(0, 1000), (1, 1000), (3, 3000), (5, 5000), (3600, 5000)] {
            let wait = Duration::from_millis(wait);
            assert_eq!(schedule.answered(Duration::from_secs(ttl), 0.5), wait, "TTL {ttl}");
        }
        let refresh = Duration::from_millis(200);
        assert_eq!(LookupSchedule::new(refresh).answered(Duration::ZERO, 0.5), refresh);
        assert_eq!(schedule.answered(Duration::MAX, 0.0), Duration::from_millis(4500));
        assert_eq!(schedule.answered(Duration::MAX, 1.0), Duration::from_millis(5500));
    }

    #[test]
    fn failures_are_followed_up_ever_more_rarely() {
        let mut schedule = LookupSchedule::new(Duration::from_secs(5));
        let waits: Vec<u64> = (0..40).map(|_| schedule.failed(0.5).as_secs()).collect();
        assert_eq!(waits[..5], [1, 2, 4, 5, 5]);
        assert_eq!(waits[39], 5);
        schedule.answered(Duration::ZERO, 0.5);
        assert_eq!(schedule.failed(0.5).as_secs(), 1);
    }
}
