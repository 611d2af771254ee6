//! Waiting for a worker that may have fallen silent.
//!
//! A request that waits has a deadline of its own, and it is long: a prompt may take its time. Meanwhile others learn
//! sooner whether the worker still says anything. So who waits looks up now and then, tells the gate that it waits, and
//! hears whether it should leave.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::alarm::Alarm;
use super::deadline::Deadline;
use super::fault::Wait;
use crate::clock::{Clock, Nanos};
use crate::shed::{Permit, SHORTEST_SILENCE};

/// Between two looks. Each costs a timer and the pool's lock.
const LOOK: Duration = Duration::from_millis(500);

/// Until when something is waited for, and who is told meanwhile.
#[derive(Debug)]
pub(crate) struct Vigil {
    deadline: Deadline,
    wait: Wait,
    /// Of a request that is told when it should leave.
    permit: Option<Permit>,
    look_at: Nanos,
}

impl Vigil {
    /// Waits until `deadline`, from `now` on; with `permit` it may be told to leave before.
    pub(crate) fn new((deadline, wait): (Deadline, Wait), permit: Option<Permit>, now: Nanos) -> Self {
        Self { deadline, wait, permit, look_at: now + LOOK }
    }

    /// A timer for it, set at `now`.
    pub(crate) fn alarm(&self, now: Nanos) -> Alarm {
        Alarm::new(self.next(self.deadline.due(Duration::ZERO)), now)
    }

    /// When there is something to do next, by what `alarm` knows of the gateway's own lateness.
    pub(crate) fn rings_at(&self, alarm: &Alarm) -> Nanos {
        self.next(alarm.due(&self.deadline))
    }

    fn next(&self, due: Nanos) -> Nanos {
        if self.permit.is_some() { due.min(self.look_at) } else { due }
    }

    /// Ready when there is no more use in waiting, with the reason.
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

/// When a stream that last said something at `last`, and looked up at `looked`, looks up again. What flows never does:
/// the time moves on with each frame.
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
