//! Falling back to another model, before the response is committed.

use tokio::time::timeout;

use super::{Forward, counted};
use crate::clock::{Clock, Nanos, saturating_nanos};
use crate::models::FallbackReason;
use crate::refusal::Refusal;
use crate::request::Ending;
use crate::shed::{Permit, PermitRequest, Waiter};
use crate::upstream::error::RepeatSafety;

impl Forward<'_> {
    /// Returns `true` if another model may get the request after `trouble`.
    fn may_fall_back(&self, trouble: RepeatSafety) -> bool {
        // A job stays in the queue that it was put into.
        trouble.allows_another(self.repeatable)
            && self.ticket.is_none()
            && self.payload.is_some()
            && !self.fails_anywhere()
            && self.route.as_ref().is_some_and(|route| route.has_fallback())
    }

    /// Moves the request to the pool of a fallback, for `reason`. Returns `false` if none takes it;
    /// then nothing has changed.
    pub(super) async fn fall_back(&mut self, reason: Option<FallbackReason>, trouble: RepeatSafety) -> bool {
        let Some(reason) = reason.filter(|_| self.may_fall_back(trouble)) else { return false };
        let (Some(route), Some(held), Some((caller, request_cost)), Some(permit)) =
            (&self.route, &self.held, &self.caller_and_cost, &self.permit)
        else {
            return false;
        };
        let clock = &self.upstream.clock;
        // The chain has one wait: what the request has waited for before counts.
        let since = Nanos(clock.now().0.saturating_sub(saturating_nanos(self.record.queued())));
        let ask = PermitRequest::of(caller, request_cost);
        let fleet = self.upstream.fleet.load_full();
        let moved = fleet.fall_back(route, reason, &ask, since, |waiter| wait(waiter, clock)).await;
        let Some((next, taken)) = moved else { return false };
        self.failed_before += counted(&self.failed_at);
        // Whether the workers or the request are to blame, this pool will not know.
        for (worker, failure) in self.failed_at.drain(..) {
            permit.suspect(&worker, failure);
        }
        permit.end(Ending::Refused);
        tracing::debug!(to = &*taken.to, request = %self.record.id, "a fallback takes the request");
        held.replace(next.clone());
        self.permit = Some(next);
        self.record.set_queued(clock.now().since(since));
        self.name_model(&taken.served);
        self.record.add_fallback(taken);
        true
    }

    /// Names `model` in the body of the request.
    pub(super) fn name_model(&mut self, model: &str) {
        if let (Some(part), Some(payload)) = (self.model_part, &mut self.payload)
            && let Some(piece) = payload.piece_mut(part.index)
        {
            *piece = part.write(model);
        }
    }

    /// Returns the refusal of the first pool, if the request fell back, or else this one.
    pub(super) fn first_refusal(&self, refusal: Refusal) -> Refusal {
        match &self.route {
            Some(route) if FallbackReason::of(refusal.reason).is_some() => route.first_refusal(refusal),
            _ => refusal,
        }
    }
}

async fn wait(mut waiter: Waiter, clock: &Clock) -> Result<Permit, Refusal> {
    let budget = waiter.expires_at().since(clock.now());
    match timeout(budget, &mut waiter).await {
        Ok(outcome) => outcome,
        Err(_) => Err(waiter.give_up()),
    }
}
