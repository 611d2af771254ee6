//! Requests that lose their permit before their answer begins, and return to the queue.
//!
//! A critical request without room revokes the permit of a batch request. That client has got
//! nothing yet, so only the part of the prompt already read is lost. The youngest permit goes
//! first, as it loses least. Its request is queued again or refused with `overloaded`. So is a
//! request whose worker failed while all others are full: it was admitted once and need not fail.
//!
//! * **Failure mode.** A request that must not be sent twice never gives way.
//! * **Trade-off.** The new request gets the place at once, while the worker still drops the old
//!   one: for that moment it has one more than its limit.

use smallvec::SmallVec;

use crate::clock::Nanos;
use crate::refusal::Refusal;
use crate::request::{Class, Ending};
use crate::shed::ask::PermitRequest;
use crate::shed::callers::WaiterId;
use crate::shed::ledger::RequestLoad;
use crate::shed::permit_record::{PermitId, PermitRecord};
use crate::shed::refuse;

use super::Gate;

/// Permits examined for one request; further ones hardly differ.
const TRIES: usize = 8;

/// A request that has lost its permit.
#[derive(Debug)]
pub struct Displaced {
    /// The permit it had.
    pub permit: PermitId,
    /// Its place in the queue and the end of its wait, or its refusal.
    pub next: Result<(WaiterId, Nanos), Refusal>,
}

impl Gate {
    /// Returns the requests that lost their permit since the last call, in order. Those queued
    /// again may already be among [`Gate::take_outcomes`].
    pub fn take_displaced(&mut self) -> impl Iterator<Item = Displaced> + '_ {
        self.displaced.drain(..)
    }

    /// Queues a request again that its worker failed and for which no other has room now. `None`:
    /// there is no other worker, and the permit stays. Otherwise the permit is released.
    pub fn resubmit(
        &mut self,
        id: PermitId,
        ask: &PermitRequest,
        now: Nanos,
    ) -> Option<Result<(WaiterId, Nanos), Refusal>> {
        if !self.has_alternative(id, now) {
            return None;
        }
        let mut permit = self.revoke(id, now)?;
        permit.tried.push(permit.worker);
        let load = self.load_after(&permit, ask);
        let next = self.enqueue(ask, load, permit.tried, now);
        self.process_timeouts(now);
        self.serve(now);
        Some(next)
    }

    /// Returns `true` if a worker takes work that has not had the request, full or not.
    pub(super) fn has_alternative(&self, id: PermitId, now: Nanos) -> bool {
        let Some(permit) = self.permits.get(&id) else { return false };
        let load = RequestLoad { side: permit.load.side.elsewhere(), ..permit.load };
        let mut others = self.workers.iter().enumerate().filter(|(place, _)| !permit.has_tried(*place));
        others.any(|(_, worker)| {
            worker.as_ref().is_some_and(|worker| worker.takes_work_now(now) && worker.may_take(&load))
        })
    }

    /// Returns a worker where `ask` has room once the returned permit is revoked.
    pub(super) fn find_yielding(&mut self, ask: &PermitRequest, now: Nanos) -> Option<(usize, PermitId)> {
        if ask.class != Class::Critical {
            return None;
        }
        let (load, affinity, tried) = (self.load_of(ask), self.affinity(ask), self.unfit(ask));
        let youngest: SmallVec<[PermitId; TRIES]> =
            self.displaceable.iter().rev().take(TRIES).map(|(_, id)| *id).collect();
        youngest.into_iter().find_map(|id| {
            let permit = self.permits.get(&id)?;
            let (at, class, held, prefilled) =
                (permit.worker, permit.class as usize, permit.load, permit.prefilled);
            self.workers.get_mut(at)?.as_mut()?.ledger.vacate(class, &held, prefilled);
            self.update_sums(at, now);
            let place = self.place(&load, ask.class, &affinity, &tried, now);
            self.workers.get_mut(at)?.as_mut()?.ledger.occupy(class, &held);
            self.update_sums(at, now);
            Some((place?, id))
        })
    }

    /// Returns the load of a request whose permit was revoked. What failed at its side goes to the other.
    fn load_after(&self, permit: &PermitRecord, ask: &PermitRequest) -> RequestLoad {
        let load = self.load_of(ask);
        let side = if permit.has_failed_by_side() { load.side.elsewhere() } else { load.side };
        RequestLoad { side, ..load }
    }

    /// Revokes a permit; [`Gate::requeue`] queues its request again. A failure at its side counts now, as
    /// the next permit does not know of it.
    pub(super) fn revoke(&mut self, id: PermitId, now: Nanos) -> Option<PermitRecord> {
        if self.permits.get(&id)?.has_failed_by_side() {
            self.count_ended(id, Ending::WorkerFailed, now);
        }
        let mut permit = self.permits.remove(&id)?;
        self.detach(id, &mut permit, now);
        self.in_flight = self.in_flight.saturating_sub(u64::from(permit.load.sequences));
        self.queue.settle(permit.charge, None);
        Some(permit)
    }

    /// Queues a request again that lost `permit`, or refuses it.
    pub(super) fn requeue(&mut self, id: PermitId, permit: PermitRecord, now: Nanos) {
        let Some(ask) = &permit.ask else { return };
        let load = self.load_after(&permit, ask);
        let next = self.enqueue(ask, load, self.unfit(ask), now).map_err(|_refusal| {
            let retry = self.retry_after(now);
            refuse::gave_way(&self.pool, retry)
        });
        self.displaced.push(Displaced { permit: id, next });
    }
}
