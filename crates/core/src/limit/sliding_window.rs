//! The sliding window counter: two numbers per key, whatever the quota.
//!
//! Time is divided into buckets of the window's length W. With `cur` units in the bucket that began
//! e ago and `prev` in the one before, the estimate is prev·(W−e)/W + cur, and a charge must fit
//! into the limit beside it. The sum is exact integer arithmetic; only the model is approximate.
//!
//! **Error.** The estimate assumes that the earlier bucket is evenly spread. The true count of the
//! last W is between `cur` and `cur + prev`, so the counter admits at most prev·e/W ≤ limit units
//! too many: never as many as 2·limit in any window, and nearly that only if a caller sends a full
//! quota at the very end of one bucket and goes on as fast as it may. Conversely, after a full
//! quota at the very beginning of a bucket it refuses up to W too long. Evenly spread calls are
//! counted right to within one. If that is not good enough, use the sliding log.
//!
//! **Corrections** apply to the bucket that was charged. If it has left the window, unused units
//! are dropped and an excess goes to the current bucket.

use std::time::Duration;

use parking_lot::Mutex;

use super::meter::{CellMark, Level, Meter, QuotaOverride, Shortage};
use super::rule::Quota;
use crate::clock::{Nanos, saturating_nanos};

/// Longest window in ns (146 years): the sum of three products with a `u64` then fits a `u128`.
const LONGEST: u64 = 1 << 62;

/// A quota counted in two buckets.
#[derive(Clone, Copy, Debug)]
pub struct SlidingWindow {
    limit: u64,
    /// The window's length in ns.
    window: u64,
}

/// Counts of the current bucket and the one before it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Buckets {
    /// Start of the current bucket in ns: a multiple of the window.
    start: u64,
    prev: u64,
    cur: u64,
}

impl Buckets {
    /// Creates buckets of which the current one began at `start`.
    #[must_use]
    pub const fn new(start: Nanos, prev: u64, cur: u64) -> Self {
        Self { start: start.0, prev, cur }
    }
}

impl SlidingWindow {
    /// Creates a window of `quota.period` with room for `quota.limit` units. A zero counts as one.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self { limit: quota.limit.max(1), window: saturating_nanos(quota.period).clamp(1, LONGEST) }
    }

    /// Returns the buckets as of `now`. A time before the current bucket counts as its beginning.
    #[inline]
    fn at(&self, mut buckets: Buckets, now: u64) -> Buckets {
        let age = now.saturating_sub(buckets.start);
        if age >= self.window {
            let next = age < self.window.saturating_mul(2);
            buckets =
                Buckets { start: now - now % self.window, prev: if next { buckets.cur } else { 0 }, cur: 0 };
        }
        buckets
    }

    /// Returns the estimate times the window's length, which is an integer.
    #[inline]
    fn scaled_estimate(&self, buckets: Buckets, now: u64) -> u128 {
        let left = self.window - now.saturating_sub(buckets.start).min(self.window);
        u128::from(buckets.prev) * u128::from(left) + u128::from(buckets.cur) * u128::from(self.window)
    }

    #[inline]
    fn fits(&self, buckets: Buckets, amount: u64, now: u64) -> bool {
        let window = u128::from(self.window);
        self.scaled_estimate(buckets, now) + u128::from(amount) * window <= u128::from(self.limit) * window
    }

    /// Returns the wait until `amount` fits. The estimate falls linearly to the end of each bucket,
    /// so one division gives the moment at which there is room, in this bucket or in the next.
    #[cold]
    fn short(&self, buckets: Buckets, amount: u64, now: u64) -> Shortage {
        let Some(room) = self.limit.checked_sub(amount) else { return Shortage::Never };
        let (room, fading, end) = match room.checked_sub(buckets.cur) {
            Some(room) => (room, buckets.prev, buckets.start.saturating_add(self.window)),
            None => (room, buckets.cur, buckets.start.saturating_add(self.window.saturating_mul(2))),
        };
        let spare = u128::from(room) * u128::from(self.window) / u128::from(fading.max(1));
        let until = end.saturating_sub(u64::try_from(spare).unwrap_or(u64::MAX));
        Shortage::Wait(Nanos(until).since(Nanos(now)))
    }
}

impl Meter for SlidingWindow {
    type Cell = Buckets;
    type SharedCell = Mutex<Buckets>;

    fn of(by: QuotaOverride) -> Self {
        Self::new(by.quota)
    }

    #[inline]
    fn charge(&self, cell: &mut Buckets, amount: u64, now: Nanos) -> Result<CellMark, Shortage> {
        *cell = self.at(*cell, now.0);
        if !self.fits(*cell, amount, now.0) {
            return Err(self.short(*cell, amount, now.0));
        }
        cell.cur += amount;
        Ok(CellMark(cell.start))
    }

    fn shortage(&self, cell: &Buckets, amount: u64, now: Nanos) -> Option<Shortage> {
        let mut copy = *cell;
        self.charge(&mut copy, amount, now).err()
    }

    fn correct(&self, cell: &mut Buckets, mark: CellMark, reserved: u64, actual: u64, now: Nanos) {
        *cell = self.at(*cell, now.0);
        let bucket = if mark.0 == cell.start {
            &mut cell.cur
        } else if mark.0.checked_add(self.window) == Some(cell.start) {
            &mut cell.prev
        } else {
            cell.cur = cell.cur.saturating_add(actual.saturating_sub(reserved));
            return;
        };
        *bucket = bucket.saturating_sub(reserved).saturating_add(actual);
    }

    fn is_idle(&self, cell: &Buckets, now: Nanos) -> bool {
        let now = self.at(*cell, now.0);
        now.prev == 0 && now.cur == 0
    }

    fn level(&self, cell: &Buckets, now: Nanos) -> Level {
        let buckets = self.at(*cell, now.0);
        let used = self.scaled_estimate(buckets, now.0).div_ceil(u128::from(self.window));
        let windows = if buckets.cur > 0 { 2 } else { u64::from(buckets.prev > 0) };
        let reset = match windows {
            0 => Duration::ZERO,
            _ => Nanos(buckets.start.saturating_add(self.window.saturating_mul(windows))).since(now),
        };
        Level { remaining: self.limit.saturating_sub(u64::try_from(used).unwrap_or(u64::MAX)), reset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ten_per_second() -> SlidingWindow {
        SlidingWindow::new(Quota { limit: 10, period: SECOND, burst: 10 })
    }

    #[test]
    fn the_earlier_bucket_fades_in_a_straight_line() {
        let window = ten_per_second();
        let mut cell = Buckets::default();
        window.charge(&mut cell, 10, Nanos::from_millis(5_900)).unwrap();
        for (at, remaining) in
            [(5_950, 0), (6_000, 0), (6_050, 0), (6_100, 1), (6_550, 5), (6_999, 9), (7_000, 10)]
        {
            assert_eq!(window.level(&cell, Nanos::from_millis(at)).remaining, remaining, "at {at} ms");
        }
        assert_eq!(window.level(&cell, Nanos::from_millis(5_900)).reset, Duration::from_millis(1_100));
    }

    #[test]
    fn the_stated_error_is_reached_and_not_passed() {
        // A full quota at the end of one bucket, then greedy calls: nearly twice the limit.
        let window = SlidingWindow::new(Quota { limit: 1_000, period: SECOND, burst: 1_000 });
        let mut cell = Buckets::default();
        let mut admitted = 0;
        for micros in 999_999..1_999_990_u64 {
            while window.charge(&mut cell, 1, Nanos(micros * 1_000)).is_ok() {
                admitted += 1;
            }
        }
        assert!((1_950..2_000).contains(&admitted), "{admitted} of 1000 in one window");
    }

    #[test]
    fn corrections_go_to_the_bucket_that_was_charged() {
        let window = ten_per_second();
        let mut cell = Buckets::default();
        let mark = window.charge(&mut cell, 8, Nanos::from_secs(5)).unwrap();
        window.correct(&mut cell, mark, 8, 2, Nanos::from_millis(5_500));
        assert_eq!((cell.prev, cell.cur), (0, 2));
        window.correct(&mut cell, mark, 2, 6, Nanos::from_millis(6_500));
        assert_eq!((cell.prev, cell.cur), (6, 0), "the charged bucket is now the earlier one");
        window.correct(&mut cell, mark, 6, 0, Nanos::from_millis(7_100));
        assert_eq!((cell.prev, cell.cur), (0, 0), "a rest of a bucket that has left the window is dropped");
        window.correct(&mut cell, mark, 6, 9, Nanos::from_millis(7_200));
        assert_eq!((cell.prev, cell.cur), (0, 3), "an excess of such a bucket is owed now");
    }

    #[test]
    fn extremes_refuse_and_never_panic() {
        let window = SlidingWindow::new(Quota { limit: u64::MAX, period: Duration::MAX, burst: u64::MAX });
        let mut cell = Buckets::default();
        let mark = window.charge(&mut cell, u64::MAX, Nanos::MAX).unwrap();
        assert!(matches!(window.charge(&mut cell, 1, Nanos::ZERO), Err(Shortage::Wait(_))));
        window.correct(&mut cell, mark, 1, u64::MAX, Nanos::MAX);
        assert_eq!(window.level(&cell, Nanos::ZERO).remaining, 0);
    }
}
