//! Reachability of a worker, learned from the requests sent to it.
//!
//! Two failed connections without an answer between them start a cool-down of 1 s; so does silence
//! on all streams at once (see `gate::silence`). Then the worker is tried with at most four sequences: an
//! answer restores it, another failure doubles the cool-down, up to 10 s. It is always tried again,
//! also if it is the only one, so no worker is locked out for good. Requests that fail at a
//! reachable worker are judged by `gate::ejection`, late ones by its limit algorithm.

use std::time::Duration;

use crate::clock::Nanos;

use super::worker_ejection::WorkerTrouble;

/// Failed connections in a row that start a cool-down.
const FAILURES: u32 = 2;
/// The first cool-down.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest cool-down: a worker that is back is found within this time.
const LONGEST: Duration = Duration::from_secs(10);
/// Sequences for a worker on trial: enough to learn from, few enough to lose.
const ON_TRIAL: u32 = 4;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WorkerHealth {
    failures: u32,
    cooling_until: Nanos,
    cool_down: Duration,
    /// When the worker last answered.
    answered_at: Option<Nanos>,
    /// Start of its silence, until it answers again.
    silent_since: Option<Nanos>,
}

impl WorkerHealth {
    /// Records a failed connection. Attempts from before a cool-down do not prolong it.
    pub(super) fn failed(&mut self, now: Nanos) {
        if !self.reachable(now) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES {
            self.cool_down = (self.cool_down * 2).clamp(SHORTEST, LONGEST);
            self.cooling_until = now + self.cool_down;
        }
    }

    pub(super) fn fell_silent(&mut self, now: Nanos) {
        self.failures = self.failures.max(FAILURES);
        self.failed(now);
        self.silent_since = Some(now);
    }

    /// Returns the start of its silence; `None` if it has answered since.
    pub(super) const fn silent_since(&self) -> Option<Nanos> {
        self.silent_since
    }

    /// Records that tokens arrived, which ends a silence.
    pub(super) fn flowed(&mut self, now: Nanos) {
        if self.silent_since.is_some() {
            self.answered(now);
        }
    }

    pub(super) fn answered(&mut self, now: Nanos) {
        *self = Self { answered_at: Some(now), ..Self::default() };
    }

    pub(super) const fn answered_at(&self) -> Option<Nanos> {
        self.answered_at
    }

    /// Returns `true` if requests may be sent to the worker.
    pub(super) fn reachable(&self, now: Nanos) -> bool {
        now >= self.cooling_until
    }

    /// Returns the end of the cool-down; `None` without one.
    pub(super) fn cooling_until(&self, now: Nanos) -> Option<Nanos> {
        (!self.reachable(now)).then_some(self.cooling_until)
    }

    /// Returns what is wrong with it, until it has answered.
    pub(super) const fn trouble(&self) -> Option<WorkerTrouble> {
        if self.silent_since.is_some() {
            Some(WorkerTrouble::Silent)
        } else if self.failures >= FAILURES {
            Some(WorkerTrouble::Unreachable)
        } else {
            None
        }
    }

    /// Returns `limit`, or less while the worker is on trial after a cool-down.
    pub(super) fn bound(&self, limit: u32) -> u32 {
        if self.failures >= FAILURES { limit.min(ON_TRIAL) } else { limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_between_two_failures_forgives_the_first() {
        let mut health = WorkerHealth::default();
        health.failed(Nanos::ZERO);
        health.answered(Nanos::ZERO);
        health.failed(Nanos::ZERO);
        assert!(health.reachable(Nanos::ZERO));
        assert_eq!(health.bound(64), 64);
    }

    #[test]
    fn cool_downs_double_up_to_ten_seconds_and_always_end() {
        let mut health = WorkerHealth::default();
        let mut now = Nanos::ZERO;
        health.failed(now);
        for seconds in [1, 2, 4, 8, 10, 10] {
            health.failed(now);
            health.failed(now);
            let end = now + Duration::from_secs(seconds);
            assert_eq!(health.cooling_until(now), Some(end));
            assert!(!health.reachable(Nanos(end.0 - 1)));
            assert!(health.reachable(end));
            assert_eq!((health.bound(64), health.bound(2)), (4, 2));
            now = end;
        }
        health.answered(now);
        assert_eq!(health, WorkerHealth { answered_at: Some(now), ..WorkerHealth::default() });
    }

    #[test]
    fn silence_puts_a_worker_aside_at_once_and_any_token_ends_it() {
        let mut health = WorkerHealth::default();
        health.flowed(Nanos::ZERO);
        assert_eq!(health, WorkerHealth::default());
        health.fell_silent(Nanos::ZERO);
        assert_eq!(health.cooling_until(Nanos::ZERO), Some(Nanos::from_millis(1000)));
        let back = Nanos::from_millis(1000);
        assert_eq!((health.reachable(back), health.bound(64)), (true, 4));
        health.fell_silent(back);
        assert_eq!(health.cooling_until(back), Some(Nanos::from_millis(3000)));
        health.flowed(back);
        assert_eq!((health.reachable(back), health.bound(64), health.silent_since()), (true, 64, None));
        // Tokens of old streams say nothing about new connections.
        health.failed(back);
        health.failed(back);
        health.flowed(back);
        assert!(!health.reachable(back));
    }
}
