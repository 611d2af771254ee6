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

    /// When there is something to do first.
    pub(crate) fn rings_at(&self) -> Nanos {
        let due = self.deadline.due(Duration::ZERO);
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
