//! A place in the queue, as a future.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::clock::Nanos;
use crate::refusal::Refusal;
use crate::shed::callers::WaiterId;

use super::permit::Permit;
use super::shared::SharedGate;

/// A request in the queue; resolves to a permit or a refusal. Dropping it leaves the queue at once.
/// It has no timer of its own: poll it again at [`Waiter::expires_at`], or give up.
#[must_use = "a waiter that is dropped has left the queue"]
pub struct Waiter {
    gate: Arc<SharedGate>,
    id: WaiterId,
    expires_at: Nanos,
}

impl Waiter {
    pub(super) fn new(gate: Arc<SharedGate>, id: WaiterId, expires_at: Nanos) -> Self {
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
        self.gate.give_up(self.id)
    }
}

impl Future for Waiter {
    type Output = Result<Permit, Refusal>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.gate.now() >= self.expires_at {
            self.gate.with(|state, now| state.gate.process_timeouts(now));
        }
        match self.gate.poll_outcome(self.id, cx.waker()) {
            None => Poll::Pending,
            Some(outcome) => Poll::Ready(outcome.map(|grant| Permit::new(Arc::clone(&self.gate), grant))),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.gate.leave(self.id);
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("id", &self.id).field("expires_at", &self.expires_at).finish()
    }
}
