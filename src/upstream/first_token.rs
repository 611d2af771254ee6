//! Waiting for a worker that may have fallen silent.
//!
//! A request's own deadline is long: a prompt may take its time. Other requests may show earlier
//! that the worker is silent. So a waiting request polls every 500 ms: it reports the wait to the
//! gate and leaves if the gate asks it to.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::deadline::{Deadline, TimedOutWait};
use super::lazy_timer::LazyTimer;
use crate::clock::{Clock, Nanos};
use crate::shed::{Permit, SHORTEST_SILENCE};

/// Poll interval. Each poll costs a timer and the pool's lock.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// A wait for a worker: its deadline, and the permit whose gate is told of it.
#[derive(Debug)]
pub(crate) struct FirstTokenWait {
    deadline: Deadline,
    wait: TimedOutWait,
    /// `None` if the request cannot move to another worker.
    permit: Option<Permit>,
    poll_at: Nanos,
}

impl FirstTokenWait {
    /// Creates a wait from `now` until `deadline`; with `permit` it may be told to leave earlier.
    pub(crate) fn new(
        (deadline, wait): (Deadline, TimedOutWait),
        permit: Option<Permit>,
        now: Nanos,
    ) -> Self {
        Self { deadline, wait, permit, poll_at: now + POLL_INTERVAL }
    }

    /// Returns the time of the next poll, given the gateway's own lateness that `timer` has seen.
    pub(crate) fn fires_at(&self, timer: &LazyTimer) -> Nanos {
        self.next(timer.due(&self.deadline))
    }

    fn next(&self, due: Nanos) -> Nanos {
        if self.permit.is_some() { due.min(self.poll_at) } else { due }
    }

    /// Ready when waiting is useless, with the reason.
    pub(crate) fn poll_give_up(
        &mut self,
        timer: &mut LazyTimer,
        clock: &Clock,
        cx: &mut Context<'_>,
    ) -> Poll<TimedOutWait> {
        loop {
            let due = timer.due(&self.deadline);
            if self.permit.is_none() || self.poll_at >= due {
                ready!(timer.poll_overdue(&self.deadline, clock, cx));
                return Poll::Ready(self.deadline.ended(self.wait, clock.now()));
            }
            ready!(timer.poll_due(self.poll_at, clock, cx));
            let now = clock.now();
            self.poll_at = now + POLL_INTERVAL;
            if now < due && self.permit.as_ref().is_some_and(Permit::report_waiting) {
                return Poll::Ready(TimedOutWait::WorkerSilent);
            }
        }
    }
}

/// Returns the next poll of a stream whose last frame came at `last` and whose last poll was at
/// `looked`. A flowing stream is never polled: each frame moves the time on.
pub(crate) fn next_look(last: Nanos, looked: Nanos) -> Nanos {
    (last + SHORTEST_SILENCE).max(looked + POLL_INTERVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn what_is_done_meanwhile_waits_for_a_pause_of_the_gateways_own_too() {
        let (at, ms) = (Nanos::from_millis, Duration::from_millis);
        let clock = Clock::manual(at(3000));
        for tick in (1000..=2000).step_by(10).chain([3000]) {
            clock.lag().tick(at(tick));
        }
        let deadline = Deadline { since: at(1500), wait: ms(1000), total: (ms(9000), at(10_500)) };
        let mut first_token_wait =
            FirstTokenWait::new((deadline, TimedOutWait::FirstToken(ms(1000))), None, at(1500));
        let mut timer = LazyTimer::default();
        assert_eq!(first_token_wait.fires_at(&timer), at(2500));
        tokio::select! {
            biased;
            wait = poll_fn(|cx| first_token_wait.poll_give_up(&mut timer, &clock, cx)) => panic!("it goes on: {wait:?}"),
            () = tokio::time::sleep(ms(50)) => {}
        }
        assert_eq!(first_token_wait.fires_at(&timer), at(3490));
    }
}
