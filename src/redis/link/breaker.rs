//! Whether Redis is worth asking.
//!
//! After some failures in a row nobody asks any more, so that an outage costs a handful of requests the timeout and not
//! every request. Only the link's own probe closes the breaker again: requests never try a server that is down.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Failures in a row that open the breaker: one lost packet is none, and five timeouts are 50 ms.
const FAILURES: u32 = 5;

/// Counts failures in a row. It begins open: nothing is known of the server yet.
#[derive(Debug)]
pub(super) struct Breaker {
    failures: AtomicU32,
    open: AtomicBool,
}

impl Breaker {
    pub(super) const fn new() -> Self {
        Self { failures: AtomicU32::new(0), open: AtomicBool::new(true) }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// A command was answered.
    pub(super) fn succeeded(&self) {
        // Read first: this is every request's way, and a shared cache line is cheap only while nobody writes it.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A command was not answered. Says whether this opened the breaker.
    pub(super) fn failed(&self) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES && self.open()
    }

    /// Opens. Says whether it was closed before.
    pub(super) fn open(&self) -> bool {
        !self.open.swap(true, Ordering::AcqRel)
    }

    /// Closes. Says whether it was open before.
    pub(super) fn close(&self) -> bool {
        self.failures.store(0, Ordering::Relaxed);
        self.open.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_in_a_row_open_it_and_only_a_probe_closes_it() {
        let breaker = Breaker::new();
        assert!(breaker.is_open() && breaker.close() && !breaker.close());
        for _ in 0..3 {
            for _ in 1..FAILURES {
                assert!(!breaker.failed());
            }
            breaker.succeeded();
        }
        assert!(!breaker.is_open());
        let opened: Vec<bool> = (0..7).map(|_| breaker.failed()).collect();
        assert_eq!(opened, [false, false, false, false, true, false, false]);
        breaker.succeeded();
        assert!(breaker.is_open(), "the late answer of a slow server closes nothing");
        assert!(breaker.close() && !breaker.is_open() && !breaker.failed());
    }
}
