//! Quota of a rule as the numbers that the scripts take and return.
//!
//! Scripts only add and compare, and return the state of a cell. All other arithmetic is done here
//! by the in-memory limiters, so that a cell in Redis and one in memory behave the same.

use std::time::Duration;

use crate::clock::Nanos;
use crate::limit::meter::{Level, Meter, Shortage};
use crate::limit::rule::{Algorithm, Rule};
use crate::limit::sliding_window::{Buckets, SlidingWindow};
use crate::limit::token_bucket::{TICKS_PER_NANO, TokenBucket};

/// Token-bucket ticks per microsecond.
const TICKS: u64 = 1000 * TICKS_PER_NANO;
/// Largest token count of a reply; the scripts count exactly up to four times as many.
const MOST_UNITS: u64 = 1 << 50;

/// Script arguments of a cell, without its kind.
pub(super) type CellArguments = [u64; 6];

/// State of a cell as the scripts return it.
pub(super) type CellView = [u64; 3];

/// Quota of a rule in Redis, by limit algorithm.
#[derive(Clone, Copy, Debug)]
pub enum Cell {
    /// A token bucket.
    Bucket(TokenBucket),
    /// A sliding window.
    Window {
        /// The in-memory limiter for the arithmetic.
        meter: SlidingWindow,
        /// Most units in the window.
        limit: u64,
        /// Window length in µs.
        micros: u64,
    },
    /// A sliding log.
    Log {
        /// Most units in the window.
        limit: u64,
        /// Window length in µs.
        micros: u64,
    },
}

fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX).max(1)
}

const fn pair(ticks: u64) -> (u64, u64) {
    (ticks / TICKS, ticks % TICKS)
}

/// Rounds up to whole microseconds, the resolution of the server.
fn whole_micros(wait: Duration) -> Duration {
    Duration::from_micros(u64::try_from(wait.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX))
}

impl Cell {
    /// Returns the cell for the quota of `rule`.
    #[must_use]
    pub fn of(rule: &Rule) -> Self {
        let (limit, micros) = (rule.quota.limit.max(1), micros(rule.quota.period));
        match rule.algorithm {
            Algorithm::TokenBucket => Self::Bucket(TokenBucket::new(rule.quota)),
            Algorithm::SlidingWindow => Self::Window { meter: SlidingWindow::new(rule.quota), limit, micros },
            Algorithm::SlidingLog => Self::Log { limit, micros },
        }
    }

    /// Returns the algorithm's name in scripts and keys, so that cells of two algorithms never mix.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Bucket(_) => "b",
            Self::Window { .. } => "w",
            Self::Log { .. } => "l",
        }
    }

    /// Returns the fields to charge `amount` units; `None` if they never fit.
    #[must_use]
    pub fn charge(&self, amount: u64, enforced: bool) -> Option<CellArguments> {
        let enforced = u64::from(enforced);
        Some(match self {
            Self::Bucket(bucket) => {
                let (taken, taken_part) = pair(bucket.ticks_of(amount));
                let (room, room_part) = pair(bucket.room_for(amount)?);
                [enforced, taken, taken_part, room, room_part, 0]
            }
            Self::Window { limit, micros, .. } | Self::Log { limit, micros } => {
                [enforced, *micros, amount, limit.checked_sub(amount)?, 0, 0]
            }
        })
    }

    /// Returns the fields to correct a charge of `reserved` units to `actual` units.
    #[must_use]
    pub fn correct(&self, mark: u64, reserved: u64, actual: u64) -> CellArguments {
        let actual = actual.min(MOST_UNITS);
        match self {
            Self::Bucket(bucket) => {
                let (difference, part) = pair(bucket.ticks_of(actual.abs_diff(reserved)));
                [0, reserved, actual, difference, part, 0]
            }
            Self::Window { limit, micros, .. } | Self::Log { limit, micros } => {
                [0, reserved, actual, *micros, *limit, mark]
            }
        }
    }

    /// Returns the remaining units and the reset time of a cell in this state.
    #[must_use]
    pub fn level(&self, shown: CellView) -> Level {
        let Level { remaining, reset } = match (self, shown) {
            (Self::Bucket(bucket), [ahead, part, _]) => bucket.level(&ticks(ahead, part), Nanos::ZERO),
            (Self::Window { meter, .. }, [prev, cur, age]) => {
                meter.level(&Buckets::new(Nanos::ZERO, prev, cur), nanos(age))
            }
            (Self::Log { limit, .. }, [used, left, _]) => {
                Level { remaining: limit.saturating_sub(used), reset: Duration::from_micros(left) }
            }
        };
        Level { remaining, reset: whole_micros(reset) }
    }

    /// Returns the shortage for `amount` units in a cell in this state, which had no room for them.
    #[must_use]
    pub fn shortage(&self, shown: CellView, amount: u64) -> Option<Shortage> {
        let shortage = match (self, shown) {
            (Self::Bucket(bucket), [ahead, part, _]) => {
                bucket.shortage(&ticks(ahead, part), amount, Nanos::ZERO)
            }
            (Self::Window { meter, .. }, [prev, cur, age]) => {
                meter.shortage(&Buckets::new(Nanos::ZERO, prev, cur), amount, nanos(age))
            }
            (Self::Log { .. }, [_, _, wait]) => {
                (wait > 0).then(|| Shortage::Wait(Duration::from_micros(wait)))
            }
        };
        shortage.map(|shortage| match shortage {
            Shortage::Wait(wait) => Shortage::Wait(whole_micros(wait)),
            Shortage::Never => Shortage::Never,
        })
    }
}

const fn ticks(micros: u64, part: u64) -> u64 {
    micros.saturating_mul(TICKS).saturating_add(part)
}

const fn nanos(micros: u64) -> Nanos {
    Nanos(micros.saturating_mul(1000))
}
