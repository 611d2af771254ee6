//! Waiting for a worker that may have fallen silent.
//!
//! A request that waits has a deadline of its own, and it is long: a prompt may take its time. Meanwhile others learn
//! sooner whether the worker still says anything. So who waits looks up now and then, tells the gate that it waits, and
//! hears whether it should leave.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::alarm::Alarm;
use super::fault::Wait;
use crate::clock::{Clock, Nanos};
use crate::shed::{Permit, SHORTEST_SILENCE};

/// Between two looks. Each costs a timer and the pool's lock.
const LOOK: Duration = Duration::from_millis(500);

/// Until when something is waited for, and who is told meanwhile.
#[derive(Debug)]
pub(crate) struct Vigil {
    due: Nanos,
    wait: Wait,
    /// Of a request that is told when it should leave.
    permit: Option<Permit>,
    look_at: Nanos,
}

impl Vigil {
    /// Waits until `due`, from `now` on; with `permit` it may be told to leave before.
    pub(crate) fn new((due, wait): (Nanos, Wait), permit: Option<Permit>, now: Nanos) -> Self {
        Self { due, wait, permit, look_at: now + LOOK }
    }

    /// When there is something to do first.
    pub(crate) fn rings_at(&self) -> Nanos {
        if self.permit.is_some() { self.due.min(self.look_at) } else { self.due }
    }

    /// Ready when there is no more use in waiting, with the reason.
    pub(crate) fn poll_vain(&mut self, alarm: &mut Alarm, clock: &Clock, cx: &mut Context<'_>) -> Poll<Wait> {
        loop {
            ready!(alarm.poll_due(self.rings_at(), clock, cx));
            let now = clock.now();
            if now >= self.due {
                return Poll::Ready(self.wait);
            }
            self.look_at = now + LOOK;
            if self.permit.as_ref().is_some_and(Permit::awaits) {
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
