//! Tests the token bucket against a leaky bucket.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::{calls, drive, quotas, time_line};
use crate::clock::Nanos;
use crate::limit::keyed::KeyedState;
use crate::limit::meter::Direct;
use crate::limit::rule::Quota;
use crate::limit::token_bucket::TokenBucket;

/// A leaky bucket, the usual model of a quota. In sixteenths of a nanosecond per unit, rounded up.
struct Leaky {
    unit: u128,
    capacity: u128,
    level: u128,
    last: u64,
}

impl Leaky {
    fn new(quota: Quota) -> Self {
        let unit = (quota.period.as_nanos() * 16).div_ceil(u128::from(quota.limit));
        Self { unit, capacity: unit * u128::from(quota.burst), level: 0, last: 0 }
    }

    fn admits(&mut self, amount: u64, now: Nanos) -> bool {
        self.level = self.level.saturating_sub(u128::from(now.0 - self.last) * 16);
        self.last = now.0;
        let filled = self.level + u128::from(amount) * self.unit;
        if filled <= self.capacity {
            self.level = filled;
        }
        filled <= self.capacity
    }
}

proptest! {
    #[test]
    fn it_admits_what_a_leaking_bucket_admits_and_tells_the_true_wait(quota in quotas(), calls in calls(5)) {
        let line = time_line(quota, &calls);
        let admitted = drive(&TokenBucket::new(quota), &line)?;
        let mut reference = Leaky::new(quota);
        let expected: Vec<_> = line.into_iter().filter(|(now, amount)| reference.admits(*amount, *now)).collect();
        prop_assert_eq!(admitted, expected);
    }

    #[test]
    fn no_window_holds_more_than_its_length_over_the_interval_and_the_burst(quota in quotas(), calls in calls(5)) {
        let admitted = drive(&TokenBucket::new(quota), &time_line(quota, &calls))?;
        let (period, limit) = (quota.period.as_nanos(), u128::from(quota.limit));
        for first in 0..admitted.len() {
            let mut sum = 0;
            for (time, amount) in &admitted[first..] {
                sum += u128::from(*amount);
                let window = u128::from(time.0 - admitted[first].0.0);
                prop_assert!(sum * period <= window * limit + u128::from(quota.burst) * period);
            }
        }
    }
}

const QUOTA: Quota = Quota { limit: 1_000, period: Duration::from_secs(1), burst: 500 };
const THREADS: u64 = 4;
const CALLS: u64 = 100_000;

/// Calls `charge` from many threads, 1 µs of virtual time apart. Returns the number admitted.
fn stress(charge: impl Fn(Nanos) -> bool + Sync) -> u64 {
    let time = AtomicU64::new(0);
    let admitted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..CALLS {
                    let now = Nanos(time.fetch_add(1_000, Ordering::Relaxed));
                    admitted.fetch_add(u64::from(charge(now)), Ordering::Relaxed);
                }
            });
        }
    });
    admitted.into_inner()
}

#[test]
fn threads_together_get_one_quota() {
    // 0.4 s at 1000 per second, plus the burst. A preempted thread may come with an old time.
    let most = QUOTA.burst + THREADS * CALLS / 1_000;
    let direct = Direct::new(TokenBucket::new(QUOTA));
    let keyed = KeyedState::new(TokenBucket::new(QUOTA), 10);
    for (name, admitted) in [
        ("direct", stress(|now| direct.charge(None, 1, now).is_ok())),
        ("keyed", stress(|now| keyed.charge(None, 7, 1, now).is_ok())),
    ] {
        assert!((most - 5..=most).contains(&admitted), "{name}: {admitted} of {most}");
    }
    assert_eq!(keyed.keys(), 1);
}

#[test]
fn charges_given_back_by_many_threads_leave_the_quota_whole() {
    let now = Nanos::from_secs(1);
    let direct = Direct::new(TokenBucket::new(QUOTA));
    stress(|_| {
        let mark = direct.charge(None, 3, now);
        mark.is_ok_and(|mark| {
            direct.correct(None, mark, (3, 0), now);
            true
        })
    });
    assert_eq!(direct.level(None, now).remaining, QUOTA.burst);
}
