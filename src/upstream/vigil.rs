//! Waiting for a worker that may have fallen silent.
//!
//! A request's own deadline is long: a prompt may take its time. Other requests may show earlier
//! that the worker is silent. So a waiting request polls every 500 ms: it reports the wait to the
//! gate and leaves if the gate asks it to.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::alarm::Alarm;
use super::deadline::Deadline;
use super::fault::Wait;
use crate::clock::{Clock, Nanos};
use crate::shed::{Permit, SHORTEST_SILENCE};

/// Poll interval. Each poll costs a timer and the pool's lock.
const LOOK: Duration = Duration::from_millis(500);

/// A wait for a worker: its deadline, and the permit whose gate is told of it.
#[derive(Debug)]
pub(crate) struct Vigil {
    deadline: Deadline,
    wait: Wait,
    /// `None` if the request cannot move to another worker.
    permit: Option<Permit>,
    look_at: Nanos,
}

impl Vigil {
    /// Creates a wait from `now` until `deadline`; with `permit` it may be told to leave earlier.
    pub(crate) fn new((deadline, wait): (Deadline, Wait), permit: Option<Permit>, now: Nanos) -> Self {
        Self { deadline, wait, permit, look_at: now + LOOK }
    }

    /// Creates a timer for it, set at `now`.
    pub(crate) fn alarm(&self, now: Nanos) -> Alarm {
        Alarm::new(self.next(self.deadline.due(Duration::ZERO)), now)
    }

    /// Returns the time of the next poll, given the gateway's own lateness that `alarm` has seen.
    pub(crate) fn rings_at(&self, alarm: &Alarm) -> Nanos {
        self.next(alarm.due(&self.deadline))
    }

    fn next(&self, due: Nanos) -> Nanos {
        if self.permit.is_some() { due.min(self.look_at) } else { due }
    }

    /// Ready when waiting is useless, with the reason.
    pub(crate) fn poll_vain(&mut self, alarm: &mut Alarm, clock: &Clock, cx: &mut Context<'_>) -> Poll<Wait> {
        loop {
            let due = alarm.due(&self.deadline);
            if self.permit.is_none() || self.look_at >= due {
                ready!(alarm.poll_overdue(&self.deadline, clock, cx));
                return Poll::Ready(self.deadline.ended(self.wait, clock.now()));
            }
            ready!(alarm.poll_due(self.look_at, clock, cx));
            let now = clock.now();
            self.look_at = now + LOOK;
            if now < due && self.permit.as_ref().is_some_and(Permit::awaits) {
                return Poll::Ready(Wait::Hopeless);
            }
        }
    }
}

/// Returns the next poll of a stream whose last frame came at `last` and whose last poll was at
/// `looked`. A flowing stream is never polled: each frame moves the time on.
pub(crate) fn next_look(last: Nanos, looked: Nanos) -> Nanos {
    (last + SHORTEST_SILENCE).max(looked + LOOK)
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
        let mut vigil = Vigil::new((deadline, Wait::FirstToken(ms(1000))), None, at(1500));
        let mut alarm = vigil.alarm(at(3000));
        assert_eq!(vigil.rings_at(&alarm), at(2500));
        tokio::select! {
            biased;
            wait = poll_fn(|cx| vigil.poll_vain(&mut alarm, &clock, cx)) => panic!("it goes on: {wait:?}"),
            () = tokio::time::sleep(ms(50)) => {}
        }
        assert_eq!(vigil.rings_at(&alarm), at(3490));
    }
}
