//! Whether a worker's connections are worth keeping.
//!
//! Some servers close a connection after each answer and do not say so, others after a time shorter than ours. A request that
//! is written on such a connection as it ends is lost, and where it may be repeated it costs a second run. Where that
//! is the rule, each request gets a connection of its own: that costs a handshake, and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::budget::{Recent, seconds};
use crate::clock::Nanos;

/// Uses of kept connections, in the last 10 s, of which fewer decide nothing.
const USES_MIN: u64 = 4;

/// How long none is used again. After it a few are tried, as a worker may have been mended.
const BARRED: Duration = Duration::from_secs(60);

/// How a worker's kept connections fared lately.
#[derive(Debug, Default)]
pub(crate) struct Reuse {
    used: Recent,
    died: Recent,
    /// Until when none is kept or used again; nanoseconds of the clock.
    barred_until: AtomicU64,
}

impl Reuse {
    /// Whether connections are kept and used again.
    pub(crate) fn allowed(&self, now: Nanos) -> bool {
        now.0 >= self.barred_until.load(Ordering::Acquire)
    }

    /// One is used again.
    pub(crate) fn used(&self, now: Nanos) {
        self.used.add(seconds(now));
    }

    /// One that was used again ended as the request was written on it. When over half of them did, none is used for a
    /// while.
    pub(crate) fn died(&self, now: Nanos) {
        let second = seconds(now);
        self.died.add(second);
        let used = self.used.sum(second);
        if used >= USES_MIN && self.died.sum(second) * 2 > used {
            self.barred_until.fetch_max((now + BARRED).0, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Nanos {
        Nanos::from_millis(millis)
    }

    /// Whether connections are still used after so many uses, of which the last `died` ended.
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
