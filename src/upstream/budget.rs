//! The retry budget: how many requests may be sent a second time.
//!
//! When workers fail, each retry is extra load on the rest of the fleet. A share of the recent
//! requests keeps a failing fleet from being buried under its own retries; a floor lets a quiet
//! gateway still retry. Counts are kept per second in one atomic each, so the request path takes no
//! lock. The window therefore moves in steps of a second and is 9 to 10 s long.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Nanos;

/// Retries that the window always allows, whatever the share.
const FLOOR: u64 = 10;

/// Length of the window, in seconds.
const SECONDS: usize = 10;

/// The upper half of a cell holds the second it counts, the lower half the count.
const COUNT: u64 = 0xffff_ffff;

/// Events of the last [`SECONDS`] seconds.
#[derive(Debug, Default)]
pub(super) struct RecentCounts([AtomicU64; SECONDS]);

impl RecentCounts {
    fn cell(&self, second: u64) -> &AtomicU64 {
        &self.0[(second % SECONDS as u64) as usize]
    }

    pub(super) fn add(&self, second: u64) {
        let stamp = (second & COUNT) << 32;
        // `fetch_update` gives an error only when the closure declines, which it never does.
        let _always = self.cell(second).fetch_update(Ordering::AcqRel, Ordering::Acquire, |cell| {
            Some(if cell & !COUNT == stamp { cell.saturating_add(1) } else { stamp | 1 })
        });
    }

    fn take_back(&self, second: u64) {
        let stamp = (second & COUNT) << 32;
        let _declined = self.cell(second).fetch_update(Ordering::AcqRel, Ordering::Acquire, |cell| {
            (cell & !COUNT == stamp && cell & COUNT > 0).then(|| cell - 1)
        });
    }

    pub(super) fn sum(&self, second: u64) -> u64 {
        let oldest = second.saturating_sub(SECONDS as u64 - 1);
        self.0
            .iter()
            .map(|cell| cell.load(Ordering::Acquire))
            .filter(|cell| (oldest..=second).contains(&(cell >> 32)))
            .map(|cell| cell & COUNT)
            .sum()
    }
}

/// Requests and retries of the last ten seconds, shared by all requests.
#[derive(Debug, Default)]
pub(super) struct RetryBudget {
    requests: RecentCounts,
    retries: RecentCounts,
}

impl RetryBudget {
    /// Counts a request, once however often it is sent.
    pub(crate) fn request(&self, now: Nanos) {
        self.requests.add(seconds(now));
    }

    /// Returns `true` if one more retry fits, and counts it. Under concurrency too few may be
    /// allowed, never too many: each caller counts itself first and then looks.
    #[must_use]
    pub(super) fn spend(&self, share: f64, now: Nanos) -> bool {
        let second = seconds(now);
        self.retries.add(second);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of requests times a share of 0…1"
        )]
        let allowed = FLOOR.max((self.requests.sum(second) as f64 * share.clamp(0.0, 1.0)) as u64);
        let fits = self.retries.sum(second) <= allowed;
        if !fits {
            self.give_back(now);
        }
        fits
    }

    /// Uncounts a retry that was allowed at `spent` but not used.
    pub(super) fn give_back(&self, spent: Nanos) {
        self.retries.take_back(seconds(spent));
    }
}

pub(super) const fn seconds(now: Nanos) -> u64 {
    now.0 / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_quiet_gateway_may_retry_ten_times_in_ten_seconds() {
        let budget = RetryBudget::default();
        let allowed = (0..30).filter(|_| budget.spend(0.1, Nanos::from_secs(100))).count();
        assert_eq!(allowed, 10);
        assert!(!budget.spend(0.1, Nanos::from_secs(109)));
        assert!(budget.spend(0.1, Nanos::from_secs(110)));
    }

    #[test]
    fn refused_retries_do_not_use_the_budget_up() {
        let budget = RetryBudget::default();
        for _ in 0..1000 {
            budget.request(Nanos::from_secs(5));
        }
        let allowed = (0..1000).filter(|_| budget.spend(0.05, Nanos::from_secs(6))).count();
        assert_eq!(allowed, 50);
    }

    proptest! {
        #[test]
        fn retries_never_exceed_floor_and_share(
            steps in prop::collection::vec((0u64..3_000, 0u32..40, 0u32..20), 1..30),
            share in 0.0f64..1.0,
        ) {
            let budget = RetryBudget::default();
            let mut now = Nanos::from_secs(50);
            let mut requests: Vec<u64> = Vec::new();
            let mut retries: Vec<u64> = Vec::new();
            for (wait, asked, retried) in steps {
                now = now + std::time::Duration::from_millis(wait);
                for _ in 0..asked {
                    budget.request(now);
                    requests.push(seconds(now));
                }
                for _ in 0..retried {
                    let recent = |all: &[u64]| all.iter().filter(|at| **at + 10 > seconds(now)).count();
                    let bound = ((recent(&requests) as f64 * share) as usize).max(10);
                    let fits = recent(&retries) < bound;
                    prop_assert_eq!(budget.spend(share, now), fits);
                    if fits {
                        retries.push(seconds(now));
                    }
                }
            }
        }
    }
}
