//! Deadlines of waits for a worker, and the timeouts that end them.
//!
//! A paused gateway, or one without CPU, finds all its timeouts expired, whatever the workers did.
//! So its own lateness is no part of a wait, as far as it is
//! [credited](crate::clock::Lag::overlap). The total timeout of a request is the caller's time and
//! never moves.

use std::time::Duration;

use crate::clock::{Lag, Nanos};

/// Timeout that expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimedOutWait {
    /// First content of an event stream.
    FirstToken(Duration),
    /// Gap between two pieces of the response.
    Idle(Duration),
    /// Whole response.
    Total(Duration),
    /// Worker silent on all its streams.
    WorkerSilent,
}

impl TimedOutWait {
    /// Describes what the worker did, as the end of a sentence.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::FirstToken(limit) => format!("sent no content within {limit:?}"),
            Self::Idle(limit) => format!("was silent for {limit:?}"),
            Self::Total(limit) => format!("did not finish within {limit:?}"),
            Self::WorkerSilent => "stopped sending on all its streams".to_owned(),
        }
    }
}

/// The end of a wait for a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) since: Nanos,
    pub(crate) wait: Duration,
    /// Timeout of the whole request, and its end.
    pub(crate) total: (Duration, Nanos),
}

impl Deadline {
    /// Returns the deadline, if `own` of the wait is the gateway's own lateness.
    pub(crate) fn due(&self, own: Duration) -> Nanos {
        (self.since + self.wait + own).min(self.total.1)
    }

    /// Returns the gateway's lateness up to `now` if it exceeds `own`: the wait must go on.
    pub(crate) fn goes_on(&self, own: Duration, now: Nanos, lag: &Lag) -> Option<Duration> {
        let late = lag.overlap(self.since, now);
        (late > own && now < self.total.1).then_some(late)
    }

    /// Returns the timeout that expired at `now`: `wait`, or that of the whole request.
    pub(crate) fn ended(&self, wait: TimedOutWait, now: Nanos) -> TimedOutWait {
        let (total, over) = self.total;
        if now >= over { TimedOutWait::Total(total) } else { wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Nanos {
        Nanos::from_millis(millis)
    }

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A gateway that runs from 1 s on, with a pause from 2.01 s to 3 s.
    fn paused() -> Lag {
        let lag = Lag::default();
        for tick in (1000..=2000).step_by(10).chain((3000..=6000).step_by(10)) {
            lag.tick(at(tick));
        }
        lag
    }

    #[test]
    fn a_pause_is_no_part_of_the_wait() {
        let lag = paused();
        let deadline = Deadline { since: at(1500), wait: ms(1000), total: (ms(9000), at(10_000)) };
        assert_eq!(deadline.due(Duration::ZERO), at(2500));
        let own = deadline.goes_on(Duration::ZERO, at(3000), &lag);
        assert_eq!(own, Some(ms(990)));
        assert_eq!(deadline.due(ms(990)), at(3490));
        assert_eq!(deadline.goes_on(ms(990), at(3490), &lag), None, "it was given once");
        let first = TimedOutWait::FirstToken(ms(1000));
        assert_eq!(deadline.ended(first, at(3490)), first);
    }

    #[test]
    fn a_wait_that_a_pause_does_not_touch_ends_in_time() {
        let lag = paused();
        for (since, now) in [(1000, 2000), (3000, 4000)] {
            let deadline = Deadline { since: at(since), wait: ms(1000), total: (ms(9000), at(10_000)) };
            assert_eq!(deadline.goes_on(Duration::ZERO, at(now), &lag), None);
        }
    }

    #[test]
    fn the_time_of_the_whole_request_moves_for_nothing() {
        let lag = paused();
        let deadline = Deadline { since: at(1500), wait: ms(1000), total: (ms(1600), at(3100)) };
        assert_eq!(deadline.goes_on(Duration::ZERO, at(3000), &lag), Some(ms(990)));
        assert_eq!(deadline.due(ms(990)), at(3100));
        assert_eq!(deadline.goes_on(Duration::ZERO, at(3100), &lag), None);
        assert_eq!(
            deadline.ended(TimedOutWait::FirstToken(ms(1000)), at(3100)),
            TimedOutWait::Total(ms(1600))
        );
    }
}
