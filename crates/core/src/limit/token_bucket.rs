//! The token bucket, as GCRA: a sustained rate and a burst in one word per key.
//!
//! The word is the *theoretical arrival time* (TAT), the moment at which the bucket will be full
//! again. With the interval T = period ÷ limit, `amount` units are admitted iff max(TAT, now) +
//! amount·T ≤ now + burst·T; TAT then moves by amount·T. (That is max(TAT, now) + (amount−1)·T −
//! now ≤ τ with τ = T·(burst−1).) Any window W admits at most W/T + burst units, exactly.
//!
//! **Precision.** Time is counted in ticks of 1/16 ns, and T is rounded *up* to whole ticks: the
//! bound above always holds, a burst is always whole, and the sustained rate is too low by less
//! than 1/(16·T in ns) of itself (0.006 % at a million units per second, zero if T is a multiple of
//! 1/16 ns). Rates above 16 units per ns are cut to that.
//!
//! **Range.** Ticks cover 18 years of uptime; after that, time stands still for a bucket. A burst
//! that takes more than 9 years to refill is cut to 9 years. Debt saturates, towards refusing.
//!
//! **Corrections.** Unused units move TAT back; an excess moves it on, even beyond now + burst·T:
//! debt delays later calls. So a bucket admits at most the quota plus the summed corrections.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::meter::{CellMark, Level, Meter, QuotaOverride, Shortage};
use super::rule::Quota;
use crate::clock::{Nanos, saturating_nanos};

/// Ticks per nanosecond. With 16, 18 years fit in 63 bits, and the rounding of T is not measurable.
pub const TICKS_PER_NANO: u64 = 16;

/// Latest time and deepest bucket, in ticks. Their sum fits a `u64`, so sums need no check, and is
/// below `u64::MAX`, so a saturated TAT always refuses.
const LATEST: u64 = 1 << 63;
const DEEPEST: u64 = 1 << 62;

/// A quota counted by GCRA; the cell is the TAT.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    /// Ticks per unit: T.
    interval: u64,
    /// Ticks of a full bucket: burst·T.
    depth: u64,
    /// The TAT of a key that was never charged.
    fresh: u64,
}

impl TokenBucket {
    /// Creates a bucket of `quota`. A zero in it counts as one.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        let period = u128::from(saturating_nanos(quota.period)) * u128::from(TICKS_PER_NANO);
        let interval = period.div_ceil(u128::from(quota.limit.max(1)));
        let interval = u64::try_from(interval).unwrap_or(DEEPEST).clamp(1, DEEPEST);
        let burst = quota.burst.clamp(1, DEEPEST / interval);
        Self { interval, depth: interval * burst, fresh: 0 }
    }

    /// Returns the same bucket, but with keys that had one unit at `since` and refill from then on:
    /// full after the bucket's fill time.
    #[must_use]
    pub fn filling(self, since: Nanos) -> Self {
        Self { fresh: ticks(since) + self.depth - self.interval, ..self }
    }

    /// Returns the ticks that `amount` units take: amount·T.
    #[must_use]
    pub const fn ticks_of(&self, amount: u64) -> u64 {
        amount.saturating_mul(self.interval)
    }

    /// Returns how many ticks TAT may be ahead of now for `amount` to fit; `None` if it never fits.
    #[must_use]
    pub const fn room_for(&self, amount: u64) -> Option<u64> {
        self.depth.checked_sub(self.ticks_of(amount))
    }
}

#[inline]
fn ticks(time: Nanos) -> u64 {
    time.0.min(LATEST / TICKS_PER_NANO) * TICKS_PER_NANO
}

/// Rounds up, so that a caller who waits this long has waited enough.
fn duration(ticks: u64) -> Duration {
    Duration::from_nanos(ticks.div_ceil(TICKS_PER_NANO))
}

impl Meter for TokenBucket {
    type Cell = u64;
    type SharedCell = AtomicU64;

    fn of(by: QuotaOverride) -> Self {
        let bucket = Self::new(by.quota);
        by.fills_since.map_or(bucket, |since| bucket.filling(since))
    }

    #[inline]
    fn charge(&self, tat: &mut u64, amount: u64, now: Nanos) -> Result<CellMark, Shortage> {
        let now = ticks(now);
        let taken = self.ticks_of(amount);
        let Some(room) = self.room_for(amount) else { return Err(Shortage::Never) };
        // The same condition, rearranged: one comparison and one sum remain once TAT is read.
        let latest = now + room;
        let start = now.max(*tat).max(self.fresh);
        if start > latest {
            return Err(Shortage::Wait(duration(start - latest)));
        }
        *tat = start + taken;
        Ok(CellMark::default())
    }

    fn shortage(&self, tat: &u64, amount: u64, now: Nanos) -> Option<Shortage> {
        let mut copy = *tat;
        self.charge(&mut copy, amount, now).err()
    }

    fn correct(&self, tat: &mut u64, _mark: CellMark, reserved: u64, actual: u64, now: Nanos) {
        *tat = if actual > reserved {
            // From now, not from an old TAT: an idle bucket would forgive the excess.
            ticks(now).max(*tat).max(self.fresh).saturating_add(self.ticks_of(actual - reserved))
        } else {
            tat.saturating_sub(self.ticks_of(reserved - actual))
        };
    }

    #[inline]
    fn is_idle(&self, tat: &u64, now: Nanos) -> bool {
        *tat <= ticks(now)
    }

    fn level(&self, tat: &u64, now: Nanos) -> Level {
        let used = (*tat).max(self.fresh).saturating_sub(ticks(now));
        Level { remaining: self.depth.saturating_sub(used) / self.interval, reset: duration(used) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(limit: u64, period: Duration, burst: u64) -> TokenBucket {
        TokenBucket::new(Quota { limit, period, burst })
    }

    #[test]
    fn the_rate_is_never_exceeded_and_falls_short_by_less_than_a_sixteenth_of_a_nanosecond_per_unit() {
        let second = Duration::from_secs(1);
        for limit in [1, 3, 7, 1_000, 999_983, 1_000_003, 1_000_000_000, 7_000_000_000] {
            let interval = u128::from(bucket(limit, second, 1).interval) * u128::from(limit);
            let exact = 16_000_000_000_u128;
            assert!(interval >= exact && interval - exact < u128::from(limit), "{limit} per second");
        }
    }

    #[test]
    fn debt_is_kept_and_delays_later_calls() {
        let bucket = bucket(10, Duration::from_secs(1), 5);
        let mut tat = 0;
        let now = Nanos::from_secs(100);
        let mark = bucket.charge(&mut tat, 5, now).unwrap();
        bucket.correct(&mut tat, mark, 5, 25, now);
        assert_eq!(bucket.level(&tat, now), Level { remaining: 0, reset: Duration::from_millis(2500) });
        assert_eq!(bucket.shortage(&tat, 1, now), Some(Shortage::Wait(Duration::from_millis(2100))));
        bucket.correct(&mut tat, mark, 25, 0, now);
        assert_eq!(bucket.level(&tat, now).remaining, 5);
    }

    #[test]
    fn a_bucket_that_fills_from_the_first_unit_on_gives_one_and_its_rate() {
        let since = Nanos::from_secs(100);
        let bucket = bucket(10, Duration::from_secs(1), 5).filling(since);
        // In the first half second a new key has one unit plus ten per second, whenever it comes.
        for (wait, fits) in [(0, 1), (99, 1), (100, 2), (250, 3), (400, 5), (10_000, 5)] {
            let now = since + Duration::from_millis(wait);
            let mut tat = 0;
            assert_eq!(bucket.level(&tat, now).remaining, fits, "after {wait} ms");
            assert!((0..fits).all(|_| bucket.charge(&mut tat, 1, now).is_ok()), "after {wait} ms");
            assert!(bucket.charge(&mut tat, 1, now).is_err(), "after {wait} ms");
        }
        let mut tat = 0;
        assert_eq!(bucket.charge(&mut tat, 6, since), Err(Shortage::Never));
        assert_eq!(bucket.charge(&mut tat, 5, since), Err(Shortage::Wait(Duration::from_millis(400))));
        bucket.correct(&mut tat, CellMark::default(), 0, 1, since);
        assert_eq!(bucket.shortage(&tat, 1, since), Some(Shortage::Wait(Duration::from_millis(100))));
    }

    #[test]
    fn an_excess_reported_late_is_owed_from_then_on() {
        let bucket = bucket(10, Duration::from_secs(1), 5);
        let mut tat = 0;
        let mark = bucket.charge(&mut tat, 1, Nanos::from_secs(1)).unwrap();
        bucket.correct(&mut tat, mark, 1, 4, Nanos::from_secs(60));
        assert_eq!(bucket.level(&tat, Nanos::from_secs(60)).remaining, 2);
    }

    #[test]
    fn extremes_refuse_and_never_panic() {
        let huge = bucket(u64::MAX, Duration::from_millis(1), u64::MAX);
        let slow = bucket(1, Duration::MAX, u64::MAX);
        for bucket in [huge, slow] {
            for now in [Nanos::ZERO, Nanos::from_secs(1), Nanos(u64::MAX / 32)] {
                let mut tat = 0;
                let mark = bucket.charge(&mut tat, 1, now).unwrap();
                bucket.correct(&mut tat, mark, 1, u64::MAX, now);
                assert!(
                    bucket.charge(&mut tat, 1, now).is_err(),
                    "a saturated debt must not open the bucket"
                );
                bucket.correct(&mut tat, mark, u64::MAX, 0, now);
                assert_eq!(bucket.charge(&mut tat, u64::MAX, now), Err(Shortage::Never));
                bucket.level(&tat, Nanos::MAX);
            }
        }
    }
}
