//! Thins out log lines of the Redis client library.
//!
//! In a cluster with a dead node it warns with every command that meets it, twenty times a second
//! or more. The first lines of each 10 s say what is wrong; the rest would hide everything else.

use std::time::Duration;

use parking_lot::Mutex;
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::layer::{Context, Layer};
use traffic_dam::clock::{Clock, Nanos};

/// Crate of the library, the first part of its lines' target.
const LIBRARY: &str = "redis";
/// Maximum number of lines per period.
const MOST: u32 = 3;
const PERIOD: Duration = Duration::from_secs(10);

/// Layer that drops the library's lines beyond the maximum.
#[derive(Debug)]
pub(super) struct RateLimitedLog {
    clock: Clock,
    said: Mutex<PeriodCounts>,
}

/// Lines passed since the period began.
#[derive(Clone, Copy, Debug, Default)]
struct PeriodCounts {
    since: Option<Nanos>,
    lines: u32,
}

impl PeriodCounts {
    /// Counts a line; returns `true` if it passes at `now`.
    fn admit(&mut self, now: Nanos) -> bool {
        if self.since.is_none_or(|since| now.since(since) >= PERIOD) {
            *self = Self { since: Some(now), lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        self.lines <= MOST
    }
}

impl RateLimitedLog {
    pub(super) fn new() -> Self {
        Self { clock: Clock::system(), said: Mutex::default() }
    }
}

impl<S: Subscriber> Layer<S> for RateLimitedLog {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        // The library logs through the `log` crate: only such events have normalised metadata.
        let logged = event.normalized_metadata();
        let is_library = logged.is_some_and(|logged| logged.target().split("::").next() == Some(LIBRARY));
        !is_library || self.said.lock().admit(self.clock.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_lines_are_let_through_in_ten_seconds() {
        let mut said = PeriodCounts::default();
        let passed = |said: &mut PeriodCounts, second: u64| {
            (0..20).filter(|_| said.admit(Nanos::from_secs(second))).count()
        };
        let seconds = [0, 1, 9, 10, 11, 100].map(|second| passed(&mut said, second));
        assert_eq!(seconds, [3, 0, 0, 3, 0, 3]);
    }
}
