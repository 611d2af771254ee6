//! How often a worker whose jobs it may not run takes one.
//!
//! A job with a wrong signature is forged, or this worker has the wrong key. Such a worker is free at
//! all times, so it would be the first to take each job and would end them all. Instead it hands the
//! job back, for others to try, and pauses: longer with each such job, until it may run one.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The first pause, in intervals of the worker; each further one is twice as long.
const FIRST: u32 = 10;
/// The longest pause, in intervals.
const MOST: u32 = 30;

/// Pauses of one worker.
#[derive(Debug, Default)]
pub(super) struct Trust(Mutex<Pause>);

#[derive(Debug, Default)]
struct Pause {
    /// Length of the latest pause in intervals; 0 if the latest job could be run.
    intervals: u32,
    until: Option<Instant>,
}

impl Trust {
    /// Notes a job that may not run here, and returns how long the worker pauses. Several in one
    /// pause, of jobs that were taken together, count once.
    pub(super) fn refused(&self, now: Instant, interval: Duration) -> Duration {
        let mut pause = self.0.lock();
        if pause.until.is_none_or(|until| until <= now) {
            pause.intervals = (pause.intervals * 2).clamp(FIRST, MOST);
            pause.until = Some(now + interval * pause.intervals);
        }
        pause.until.map_or(Duration::ZERO, |until| until - now)
    }

    /// Notes a job that may run here.
    pub(super) fn accepted(&self) {
        *self.0.lock() = Pause::default();
    }

    /// Returns when the pause ends, if there is one.
    pub(super) fn until(&self) -> Option<Instant> {
        self.0.lock().until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_job_may_run() {
        let (trust, second) = (Trust::default(), Duration::from_secs(1));
        let mut now = Instant::now();
        assert_eq!(trust.until(), None);
        for seconds in [10, 20, 30, 30] {
            assert_eq!(trust.refused(now, second), second * seconds);
            let later = now + second;
            assert_eq!(trust.refused(later, second), second * (seconds - 1), "one that was taken before");
            now += second * seconds;
            assert_eq!(trust.until(), Some(now));
        }
        trust.accepted();
        assert_eq!(trust.until(), None);
        assert_eq!(trust.refused(now, second), second * FIRST);
    }
}
