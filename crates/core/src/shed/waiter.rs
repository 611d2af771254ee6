//! A place in the queue, as a future.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::clock::Nanos;
use crate::refusal::Refusal;
use crate::request::Ending;

use super::callers::WaiterId;
use super::gate::GrantedPermit;
use super::handle::GateHandle;
use super::permit::Permit;

/// The slot where the gate leaves the outcome for a waiter.
#[derive(Debug, Default)]
pub(super) struct WaiterSlot {
    outcome: Option<Result<GrantedPermit, Refusal>>,
    waker: Option<Waker>,
}

impl WaiterSlot {
    /// Stores the outcome; returns the waker to wake.
    pub(super) fn settle(&mut self, outcome: Result<GrantedPermit, Refusal>) -> Option<Waker> {
        self.outcome = Some(outcome);
        self.waker.take()
    }
}

/// A request in the queue; resolves to a permit or a refusal. Dropping it leaves the queue at once.
/// It has no timer of its own: poll it again at [`Waiter::expires_at`], or give up.
#[must_use = "a waiter that is dropped has left the queue"]
pub struct Waiter {
    gate: GateHandle,
    id: WaiterId,
    expires_at: Nanos,
}

impl Waiter {
    pub(super) fn new(gate: GateHandle, id: WaiterId, expires_at: Nanos) -> Self {
        Self { gate, id, expires_at }
    }

    /// Returns when the wait ends; a poll at that time or later is always ready.
    #[must_use]
    pub fn expires_at(&self) -> Nanos {
        self.expires_at
    }

    /// Leaves the queue. Returns the refusal that was decided, or the one for waiting too long. A
    /// permit granted in the same moment is released.
    #[must_use]
    pub fn give_up(self) -> Refusal {
        self.gate.with(|state, now| {
            match state.waiter_slots.get_mut(&self.id).and_then(|slot| slot.outcome.take()) {
                Some(Err(refusal)) => refusal,
                Some(Ok(grant)) => {
                    state.gate.release(grant.permit, Ending::Refused, 0, now);
                    state.gate.waited_in_vain(grant.waited, now)
                }
                None => state.gate.give_up(self.id, now),
            }
        })
    }
}

impl Future for Waiter {
    type Output = Result<Permit, Refusal>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.gate.now() >= self.expires_at {
            self.gate.expire();
        }
        // Wakers are cloned and dropped outside the lock: they run code of the executor.
        let waker = cx.waker().clone();
        let (outcome, _replaced) = self.gate.with(|state, _| {
            let Some(slot) = state.waiter_slots.get_mut(&self.id) else { return (None, None) };
            match slot.outcome.take() {
                Some(outcome) => (Some(outcome), Some(waker)),
                None => (None, slot.waker.replace(waker)),
            }
        });
        match outcome {
            None => Poll::Pending,
            Some(outcome) => Poll::Ready(outcome.map(|grant| self.gate.permit(grant))),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _desk = self.gate.with(|state, now| {
            let mut slot = state.waiter_slots.remove(&self.id);
            // A permit granted but never fetched is released here: only this knows of it.
            match slot.as_mut().and_then(|slot| slot.outcome.take()) {
                Some(Ok(grant)) => state.gate.release(grant.permit, Ending::ClientGone, 0, now),
                Some(Err(_)) => {}
                None => state.gate.cancel(self.id, now),
            }
            slot
        });
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("id", &self.id).field("expires_at", &self.expires_at).finish()
    }
}
