//! A request that goes back to the queue: its permit was revoked, or its worker failed.

use std::sync::Arc;

use crate::refusal::Refusal;
use crate::shed::ask::PermitRequest;

use super::permit::Permit;
use super::waiter::Waiter;

impl Permit {
    /// Returns the place in the queue that the request has after a revocation; `None` without one.
    ///
    /// # Errors `overloaded` if the queue had no place for it either.
    pub fn waiter(&self) -> Result<Option<Waiter>, Refusal> {
        let Some(event) = self.gate().take_displaced(self.id()) else { return Ok(None) };
        let (id, expires_at) = event.next?;
        Ok(Some(Waiter::new(Arc::clone(self.gate()), id, expires_at)))
    }

    /// Gives the permit up and waits for another, after a worker failure with no room elsewhere.
    /// Returns `None`, and keeps the permit, if there is no other worker.
    ///
    /// # Errors As [`GateHandle::ask`](super::GateHandle::ask), if no other permit can be expected in
    /// time.
    pub fn resubmit(&self, ask: &PermitRequest) -> Result<Option<Waiter>, Refusal> {
        let Some(place) = self.gate().resubmit(self.id(), ask) else { return Ok(None) };
        let (id, expires_at) = place?;
        Ok(Some(Waiter::new(Arc::clone(self.gate()), id, expires_at)))
    }
}
