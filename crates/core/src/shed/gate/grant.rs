//! Permits as the gate keeps them: granted, counted at their worker, and taken back.
//!
//! Each [`Gate::attach`] is undone by exactly one [`Gate::detach`].

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Nanos;
use crate::shed::ask::{Affinity, PermitRequest};
use crate::shed::callers::WaiterId;
use crate::shed::ledger::RequestLoad;
use crate::shed::permit_record::{PermitId, PermitRecord};
use crate::shed::worker::GateWorker;

use super::{Gate, GrantedPermit};

impl Gate {
    /// Grants `ask` a permit at the worker at `place`, without a wait.
    pub(super) fn admit_at_once(
        &mut self,
        ask: &PermitRequest,
        place: usize,
        affinity: Affinity,
        now: Nanos,
    ) -> GrantedPermit {
        let load = self.load_at(place, self.load_of(ask), &affinity);
        let charge = self.queue.charge(ask, &load, now);
        let mut permit = PermitRecord::new(place, ask.class, load, ask.stream, charge, now);
        permit.bind(affinity);
        permit.ask = ask.is_revocable().then(|| Box::new(ask.clone()));
        permit.tried = self.unfit(ask);
        self.permit(permit, Duration::ZERO, now)
    }

    /// Grants the waiting request `head` a permit at the worker at `place`.
    pub(super) fn admit(&mut self, head: WaiterId, place: usize, now: Nanos) {
        let Some((waiting, charge)) = self.queue.admit(head, now) else { return };
        let load = self.load_at(place, waiting.load, &waiting.affinity);
        let mut permit = PermitRecord::new(place, waiting.class, load, waiting.stream, charge, now);
        permit.bind(waiting.affinity);
        permit.ask = waiting.ask;
        permit.tried = waiting.tried;
        let grant = self.permit(permit, now.since(waiting.since), now);
        self.settled.push((waiting.id, Ok(grant)));
    }

    fn permit(&mut self, mut permit: PermitRecord, waited: Duration, now: Nanos) -> GrantedPermit {
        let id = PermitId(self.next_permit);
        self.next_permit += 1;
        let worker = self.attach(id, &mut permit, now);
        self.in_flight += u64::from(permit.load.sequences);
        self.drain.granted(now);
        self.queue.served(permit.class);
        let yields = permit.ask.is_some();
        if yields {
            self.displaceable.insert((permit.granted, id));
        }
        let sequences = permit.load.sequences;
        self.permits.insert(id, permit);
        GrantedPermit { permit: id, worker, yields, sequences, waited }
    }

    /// Adds a permit to its worker's ledger; returns the worker's id.
    pub(super) fn attach(&mut self, id: PermitId, permit: &mut PermitRecord, now: Nanos) -> Arc<str> {
        self.enter_prefix(permit);
        let worker = self.workers.get_mut(permit.worker).and_then(Option::as_mut);
        let Some(worker) = worker else { return Arc::clone(&self.pool) };
        worker.ledger.occupy(permit.class as usize, &permit.load);
        worker.aside.begin_trial(id);
        worker.charge_quota(permit, now);
        if let Some(reported) = &mut worker.reported {
            reported.sent(permit.load.tokens());
        }
        let id = Arc::clone(&worker.member.id);
        self.update_sums(permit.worker, now);
        id
    }

    /// Removes a permit from its worker's ledger and lists.
    pub(super) fn detach(&mut self, id: PermitId, permit: &mut PermitRecord, now: Nanos) {
        self.displaceable.remove(&(permit.granted, id));
        let Some(place) = self.workers.get_mut(permit.worker) else { return };
        if let Some(worker) = place {
            Self::forget_dispatch(id, permit, worker, &mut self.reading);
            worker.aside.end_trial(id);
            worker.settle_quota(permit, now);
            permit.leave_flow(permit.load.sequences, &mut worker.flow, now);
            worker.ledger.vacate(permit.class as usize, &permit.load, permit.prefilled);
        }
        if let Some(gone) = place.take_if(|worker| worker.is_gone()) {
            self.ejected.remember(&gone);
        }
        self.update_sums(permit.worker, now);
    }

    /// Removes a permit; `used` is the load it really caused, `None` for no load.
    pub(super) fn free(&mut self, id: PermitId, used: Option<RequestLoad>, now: Nanos) {
        let Some(mut permit) = self.permits.remove(&id) else { return };
        self.detach(id, &mut permit, now);
        self.in_flight = self.in_flight.saturating_sub(u64::from(permit.load.sequences));
        self.drain.freed(now.since(permit.granted), now);
        self.queue.settle(permit.charge, used);
        self.process_timeouts(now);
        self.serve(now);
    }

    pub(super) fn seat_and_worker(&mut self, id: PermitId) -> Option<(&mut PermitRecord, &mut GateWorker)> {
        let permit = self.permits.get_mut(&id)?;
        let worker = self.workers.get_mut(permit.worker)?.as_mut()?;
        Some((permit, worker))
    }
}
