//! Time as a value.
//!
//! Every decision in this crate takes its time as an argument, so that a test, a simulation and the
//! gateway call the same code. [`Nanos`] is that argument; only [`Clock`] reads a real clock.
//! Monotonic time starts at zero, so it fits the `u64` of an atomic limiter cell for 584 years.

mod lag;
mod silence;

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use self::lag::{LONG_PAUSE, Lag, Pause, TICK};
pub use self::silence::Silence;
/// A point in monotonic time, in nanoseconds since the start of the clock that gave it.
///
/// Arithmetic saturates: a limiter fed a nonsensical time refuses or admits, it never panics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);
    /// A point that is never reached.
    pub const MAX: Self = Self(u64::MAX);

    /// A point `seconds` after the clock's start.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000))
    }

    /// A point `millis` milliseconds after the clock's start.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// The time from `earlier` to `self`, or zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Nanos {
    type Output = Self;

    fn add(self, length: Duration) -> Self {
        Self(self.0.saturating_add(saturating_nanos(length)))
    }
}

impl Sub<Duration> for Nanos {
    type Output = Self;

    fn sub(self, length: Duration) -> Self {
        Self(self.0.saturating_sub(saturating_nanos(length)))
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_nanos(self.0))
    }
}

/// Converts a duration to whole nanoseconds, at most `u64::MAX`.
#[must_use]
pub fn saturating_nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

/// Source of the time that adapters pass to the decisions.
///
/// Cloning is cheap, and clones share one time line and the [`Lag`] that is measured by it.
#[derive(Clone, Debug)]
pub struct Clock {
    source: TimeSource,
    lag: Lag,
}

#[derive(Clone, Debug)]
enum TimeSource {
    // quanta reads the time-stamp counter: 11 ns a call; `std::time::Instant` took 31 ns there.
    System { clock: quanta::Clock, start: u64 },
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's monotonic clock, starting at zero now.
    #[must_use]
    pub fn system() -> Self {
        let clock = quanta::Clock::new();
        let start = clock.raw();
        Self { source: TimeSource::System { clock, start }, lag: Lag::default() }
    }

    /// A clock that stands still until [`Clock::advance`] moves it.
    #[must_use]
    pub fn manual(start: Nanos) -> Self {
        Self { source: TimeSource::Manual(Arc::new(AtomicU64::new(start.0))), lag: Lag::default() }
    }

    /// Returns the current time.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Nanos {
        match &self.source {
            TimeSource::System { clock, start } => Nanos(clock.delta_as_nanos(*start, clock.raw())),
            TimeSource::Manual(now) => Nanos(now.load(Ordering::Acquire)),
        }
    }

    /// Returns the gateway's own lateness by this clock; zero if no task calls [`Lag::tick`].
    #[must_use]
    #[inline]
    pub const fn lag(&self) -> &Lag {
        &self.lag
    }

    /// Moves a manual clock forward. A system clock moves by itself and ignores this.
    pub fn advance(&self, length: Duration) {
        if let TimeSource::Manual(now) = &self.source {
            now.fetch_add(saturating_nanos(length), Ordering::AcqRel);
        }
    }
}

/// Returns the wall time, for people and for protocols that carry dates; never for a decision.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads wall time")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Returns how long the machine was suspended since boot, if known. Monotonic time excludes it.
#[must_use]
pub fn suspended() -> Duration {
    #[cfg(target_os = "linux")]
    {
        use rustix::time::{ClockId, clock_gettime};
        let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
        let running = read(ClockId::Monotonic);
        read(ClockId::Boottime).saturating_sub(running)
    }
    #[cfg(not(target_os = "linux"))]
    Duration::ZERO
}

/// [`wall`] in milliseconds since 1970.
#[must_use]
pub fn unix_millis() -> u64 {
    let since = wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// [`unix_millis`] in seconds.
#[must_use]
pub fn unix_seconds() -> u64 {
    unix_millis() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(Nanos::ZERO - Duration::from_secs(1), Nanos::ZERO);
        assert_eq!(Nanos::MAX + Duration::from_secs(1), Nanos::MAX);
        assert_eq!(Nanos::from_secs(1).since(Nanos::from_secs(2)), Duration::ZERO);
    }

    #[test]
    fn clones_of_a_manual_clock_share_their_time() {
        let clock = Clock::manual(Nanos::from_secs(5));
        let other = clock.clone();
        clock.advance(Duration::from_millis(250));
        assert_eq!(other.now(), Nanos::from_millis(5250));
    }

    #[test]
    fn the_system_clock_never_runs_backwards() {
        let clock = Clock::system();
        let mut last = clock.now();
        for _ in 0..10_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }
}
