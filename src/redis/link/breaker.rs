//! Circuit breaker for Redis.
//!
//! After some failures in a row no request asks Redis any more, so that an outage costs a handful
//! of requests the timeout, not every request. Only the link's own probe closes the breaker:
//! requests never try a server that is down.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Nanos;

/// Failures in a row that open the breaker; one lost packet is not enough.
const FAILURES: u32 = 5;
/// Least time without an answer before the breaker opens, because one hiccup fails all commands in
/// flight together. It is five default timeouts in sequence.
const SILENT: Duration = Duration::from_millis(50);
/// How long after an answer a command with a late gateway counts as no failure. The bound lets a
/// gateway that is always late detect an outage, too.
const EXCUSED: Duration = Duration::from_secs(2);
/// Resolution of the time of the last answer.
const HEARD_STEP: Duration = Duration::from_millis(20);

/// Counts failures in a row. It starts open, because the server's state is unknown.
#[derive(Debug)]
pub(super) struct Breaker {
    failures: AtomicU32,
    /// When the first of them was sent, in nanoseconds of the clock.
    since: AtomicU64,
    open: AtomicBool,
    /// When the last answer came, in nanoseconds of the clock, up to [`HEARD_STEP`] early.
    heard: AtomicU64,
}

impl Breaker {
    pub(super) const fn new() -> Self {
        Self {
            failures: AtomicU32::new(0),
            since: AtomicU64::new(0),
            open: AtomicBool::new(true),
            heard: AtomicU64::new(0),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Records that a command was answered at `now`.
    pub(super) fn succeeded(&self, now: Nanos) {
        // Read first: every request passes here; a shared cache line is cheap only without writes.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if now.since(self.heard()) > HEARD_STEP {
            self.heard.store(now.0, Ordering::Relaxed);
        }
    }

    /// Returns `true` if a command without an answer is excused by the gateway's own lateness.
    pub(super) fn excuses(&self, now: Nanos) -> bool {
        now.since(self.heard()) <= EXCUSED
    }

    /// Returns `true` if a command was answered after `time`.
    pub(super) fn heard_since(&self, time: Nanos) -> bool {
        self.heard() > time
    }

    fn heard(&self) -> Nanos {
        Nanos(self.heard.load(Ordering::Relaxed))
    }

    /// Records that a command got no answer from `sent` to `now`. Returns `true` if this opened it.
    pub(super) fn failed(&self, sent: Nanos, now: Nanos) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures == 1 {
            self.since.store(sent.0, Ordering::Relaxed);
        }
        let since = Nanos(self.since.load(Ordering::Relaxed));
        failures >= FAILURES && now.since(since) >= SILENT && self.open()
    }

    /// Opens the breaker. Returns `true` if it was closed.
    pub(super) fn open(&self) -> bool {
        !self.open.swap(true, Ordering::AcqRel)
    }

    /// Closes the breaker at `now`. Returns `true` if it was open.
    pub(super) fn close(&self, now: Nanos) -> bool {
        self.succeeded(now);
        self.open.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Nanos {
        Nanos::from_millis(1000 + millis)
    }

    #[test]
    fn only_failures_in_a_row_open_it_and_only_a_probe_closes_it() {
        let breaker = Breaker::new();
        // Each waits for 10 ms, one after another.
        let failed = |number: u64| breaker.failed(at(number * 10), at(number * 10 + 10));
        assert!(breaker.is_open() && breaker.close(at(0)) && !breaker.close(at(0)));
        for _ in 0..3 {
            for number in 1..FAILURES {
                assert!(!failed(number.into()));
            }
            breaker.succeeded(at(50));
        }
        assert!(!breaker.is_open());
        let opened: Vec<bool> = (0..7).map(failed).collect();
        assert_eq!(opened, [false, false, false, false, true, false, false]);
        breaker.succeeded(at(70));
        assert!(breaker.is_open(), "the late answer of a slow server closes nothing");
        assert!(breaker.close(at(80)) && !breaker.is_open() && !failed(8));
    }

    #[test]
    fn commands_that_fail_together_are_one_hiccup() {
        let breaker = Breaker::new();
        breaker.close(at(0));
        assert!((0..1000).all(|_| !breaker.failed(at(0), at(10))), "within ten milliseconds");
        assert!(!breaker.failed(at(10), at(49)) && breaker.failed(at(10), at(50)));
        breaker.close(at(100));
        assert!((0..1000).all(|_| !breaker.failed(at(100), at(110))), "counted anew");
        breaker.succeeded(at(120));
        assert!((0..1000).all(|_| !breaker.failed(at(120), at(160))), "an answer came between");
        // With a longer timeout, five failures are enough.
        breaker.succeeded(at(200));
        let opened: Vec<bool> = (0..5).map(|_| breaker.failed(at(200), at(300))).collect();
        assert_eq!(opened, [false, false, false, false, true]);
    }

    #[test]
    fn the_gateways_own_lateness_is_an_excuse_for_two_seconds_after_an_answer() {
        let breaker = Breaker::new();
        assert!(!breaker.excuses(Nanos::from_secs(60)), "nothing was ever heard");
        breaker.close(Nanos::from_secs(60));
        assert!(breaker.excuses(Nanos::from_secs(62)) && !breaker.excuses(Nanos::from_millis(62_001)));
        breaker.succeeded(Nanos::from_millis(61_500));
        assert!(breaker.excuses(Nanos::from_millis(63_500)) && !breaker.excuses(Nanos::from_millis(63_501)));
        assert!(breaker.heard_since(Nanos::from_secs(61)) && !breaker.heard_since(Nanos::from_secs(62)));
    }
}
