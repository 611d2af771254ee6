//! Learns whether idle connections of a worker can be reused.
//!
//! Some servers close a connection after each response without saying so, others after less than
//! our idle time. A request written on it as it closes is lost, or runs twice if it may be
//! repeated. If that is frequent at a worker, each request gets a new connection, which costs only a
//! handshake.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Nanos;
use crate::upstream::budget::{RecentCounts, seconds};

/// Reuses within the last 10 s below which nothing is decided.
const USES_MIN: u64 = 4;

/// Time without reuse. Then it is tried again, as the worker may have been fixed.
const REUSE_PAUSE: Duration = Duration::from_secs(60);

/// Recent outcomes of a worker's reused connections.
#[derive(Debug, Default)]
pub(crate) struct Reuse {
    used: RecentCounts,
    died: RecentCounts,
    /// End of the time without reuse, in nanoseconds of the clock.
    barred_until: AtomicU64,
}

impl Reuse {
    /// Returns `true` if connections may be kept and reused.
    pub(crate) fn allowed(&self, now: Nanos) -> bool {
        now.0 >= self.barred_until.load(Ordering::Acquire)
    }

    pub(crate) fn used(&self, now: Nanos) {
        self.used.add(seconds(now));
    }

    /// Counts a reused connection that ended as the request was written on it. If more than half
    /// did, reuse stops for a while.
    pub(crate) fn died(&self, now: Nanos) {
        let second = seconds(now);
        self.died.add(second);
        let used = self.used.sum(second);
        if used >= USES_MIN && self.died.sum(second) * 2 > used {
            self.barred_until.fetch_max((now + REUSE_PAUSE).0, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Nanos {
        Nanos::from_millis(millis)
    }

    /// State after `used` reuses, of which the last `died` ended.
    fn after(used: usize, died: usize) -> Reuse {
        let reuse = Reuse::default();
        (0..used).for_each(|_| reuse.used(at(50_000)));
        (0..died).for_each(|_| reuse.died(at(50_001)));
        reuse
    }

    #[test]
    fn a_worker_whose_kept_connections_mostly_die_has_none_used() {
        for (used, died, allowed) in [
            (0, 0, true),
            (3, 3, true),
            (4, 2, true),
            (4, 3, false),
            (4, 4, false),
            (100, 50, true),
            (100, 51, false),
        ] {
            assert_eq!(after(used, died).allowed(at(50_002)), allowed, "{died} of {used}");
        }
    }

    #[test]
    fn after_a_while_they_are_tried_again() {
        let reuse = after(4, 4);
        assert!(!reuse.allowed(at(110_000)));
        assert!(reuse.allowed(at(110_001)));
        (0..3).for_each(|_| {
            reuse.used(at(110_002));
            reuse.died(at(110_002));
        });
        assert!(reuse.allowed(at(110_003)), "what was before counts no more");
        reuse.used(at(110_004));
        reuse.died(at(110_004));
        assert!(!reuse.allowed(at(110_005)));
    }

    #[test]
    fn deaths_far_apart_are_no_rule() {
        let reuse = Reuse::default();
        for second in (50..150).step_by(5) {
            let now = Nanos::from_secs(second);
            reuse.used(now);
            reuse.died(now);
        }
        assert!(reuse.allowed(Nanos::from_secs(150)), "never four in ten seconds");
    }
}
