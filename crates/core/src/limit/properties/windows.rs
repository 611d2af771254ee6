//! The two sliding windows against the definition of a window.

use std::time::Duration;

use proptest::prelude::*;

use super::{calls, drive, quotas, time_line, within};
use crate::clock::Nanos;
use crate::limit::meter::Meter;
use crate::limit::rule::Quota;
use crate::limit::sliding_log::SlidingLog;
use crate::limit::sliding_window::{Buckets, SlidingWindow};

proptest! {
    #[test]
    fn the_log_admits_exactly_what_fits_into_the_last_window(quota in quotas(), calls in calls(5)) {
        let quota = Quota { limit: quota.burst, ..quota };
        let line = time_line(quota, &calls);
        let admitted = drive(&SlidingLog::new(quota), &line)?;
        let mut expected = Vec::new();
        for (now, amount) in line {
            if within(&expected, now, quota.period) + amount <= quota.limit {
                expected.push((now, amount));
            }
        }
        prop_assert_eq!(admitted, expected);
    }

    #[test]
    fn the_counter_follows_its_formula_and_stays_within_its_error(quota in quotas(), calls in calls(5)) {
        let quota = Quota { limit: quota.burst, ..quota };
        let (limit, period) = (quota.limit, quota.period.as_nanos());
        let line = time_line(quota, &calls);
        let admitted = drive(&SlidingWindow::new(quota), &line)?;
        let mut expected = Vec::new();
        for (now, amount) in line {
            let bucket = u128::from(now.0) / period;
            let units = |wanted: u128| -> u128 {
                let inside = expected.iter().filter(|(time, _): &&(Nanos, u64)| u128::from(time.0) / period == wanted);
                inside.map(|(_, amount)| u128::from(*amount)).sum()
            };
            let left = period - u128::from(now.0) % period;
            let (prev, cur) = (units(bucket - 1), units(bucket));
            if prev * left + (cur + u128::from(amount)) * period <= u128::from(limit) * period {
                expected.push((now, amount));
                // The stated error: at most prev·e/W too many.
                let count = u128::from(within(&expected, now, quota.period));
                prop_assert!(count * period <= u128::from(limit) * period + prev * (period - left));
                prop_assert!(count < 2 * u128::from(limit));
            }
        }
        prop_assert_eq!(admitted, expected);
    }

    #[test]
    fn evenly_spread_calls_are_counted_right_to_within_one(each in 1..200_u64, at in 0..1_000_u64) {
        let period = Duration::from_secs(1);
        let meter = SlidingWindow::new(Quota { limit: 1_000, period, burst: 1_000 });
        let now = Nanos::from_millis(6_000 + at);
        let mut cell = Buckets::default();
        let mut admitted = Vec::new();
        let mut time = Nanos::from_secs(5);
        while time <= now {
            meter.charge(&mut cell, 1, time).unwrap();
            admitted.push((time, 1));
            time = time + period / u32::try_from(each).unwrap();
        }
        let estimate = 1_000 - meter.level(&cell, now).remaining;
        prop_assert!(estimate.abs_diff(within(&admitted, now, period)) <= 1);
    }
}
