//! Requests at their gateway: asking, waiting, being admitted or refused, coming back.

use super::call::{Call, CallFate, Stage};
use super::gateway::GateDecision;
use super::{ScheduledEvent, Simulation, at};
use traffic_dam_core::clock::Nanos;
use traffic_dam_core::refusal::Refusal;
use traffic_dam_core::shed::{Displaced, GateAnswer, GrantedPermit, PermitId, WaiterId};

impl Simulation<'_> {
    /// Picks a gateway for a request and asks it for a permit.
    pub(super) fn ask(&mut self, place: usize) {
        let (now, seen_now) = (self.now, self.seen_now());
        let drawn = self.routed.usize(..self.gateways.len());
        let call = &mut self.calls[place];
        let person = &self.people.all[call.wish.person];
        let gateway = person.gateway.unwrap_or(drawn);
        call.gateway = gateway;
        let gateway = &mut self.gateways[gateway];
        let ask = gateway.ask(person, &call.wish, seen_now);
        let Some(gate) = &mut gateway.gate else {
            call.granted = Some(now);
            call.stage = Stage::Running(None);
            let machine = self.next_machine();
            return self.send(place, machine);
        };
        match gate.ask(&ask, seen_now) {
            Ok(GateAnswer::Granted(grant)) => self.granted(place, &grant),
            Ok(GateAnswer::Waiting { id, expires_at }) => self.waits(place, id, expires_at),
            Err(refusal) => self.refused(place, &refusal),
        }
        self.settle(self.calls[place].gateway);
    }

    /// Runs a gate's timers, such as queue timeouts.
    pub(super) fn tend(&mut self, gateway: usize) {
        let now = self.seen_now();
        if let Some(gate) = &mut self.gateways[gateway].gate {
            gate.process_timeouts(now);
            self.settle(gateway);
        }
    }

    /// Delivers a gate's decisions about waiting requests, in its order. A delivery may cause more
    /// decisions; those come after all the others.
    pub(super) fn settle(&mut self, gateway: usize) {
        while let Some(decision) = self.gateways[gateway].next_decision() {
            match decision {
                GateDecision::Displaced(Displaced { permit, next }) => {
                    match self.gateways[gateway].yielding.remove(&permit) {
                        Some(place) => {
                            self.withdraw(place);
                            self.displaced(place, next);
                        }
                        // The permit was taken away before its owner heard of it.
                        None => drop(self.gateways[gateway].lost.insert(permit, next)),
                    }
                }
                GateDecision::Settled((id, outcome)) => {
                    let Some(place) = self.leave_queue(gateway, id) else { continue };
                    match outcome {
                        Ok(grant) => self.granted(place, &grant),
                        Err(refusal) => self.refused(place, &refusal),
                    }
                }
            }
        }
    }

    fn displaced(&mut self, place: usize, next: Result<(WaiterId, Nanos), Refusal>) {
        self.calls[place].granted = None;
        match next {
            Ok((id, expires_at)) => self.waits(place, id, expires_at),
            Err(refusal) => self.refused(place, &refusal),
        }
    }

    /// Queues a request whose worker failed, for another that is full; `false` if there is none.
    pub(super) fn resubmit(&mut self, place: usize, permit: PermitId) -> bool {
        let call = &self.calls[place];
        let number = call.gateway;
        let now = self.seen_now();
        let person = &self.people.all[call.wish.person];
        let gateway = &mut self.gateways[number];
        let ask = gateway.ask(person, &call.wish, now);
        let Some(next) = gateway.gate.as_mut().and_then(|gate| gate.resubmit(permit, &ask, now)) else {
            return false;
        };
        gateway.yielding.remove(&permit);
        gateway.retried(now);
        self.calls[place].retried = true;
        self.calls[place].granted = None;
        match next {
            Ok((id, expires_at)) => self.waits(place, id, expires_at),
            Err(refusal) => self.refused(place, &refusal),
        }
        self.settle(number);
        true
    }

    fn leave_queue(&mut self, gateway: usize, id: WaiterId) -> Option<usize> {
        self.gateways[gateway].waiting.remove(&id)
    }

    fn waits(&mut self, place: usize, id: WaiterId, expires_at: Nanos) {
        let call = &mut self.calls[place];
        call.stage = Stage::Waiting(id);
        let gateway = call.gateway;
        self.gateways[gateway].waiting.insert(id, place);
        self.plan(expires_at - self.shift, ScheduledEvent::Expiry { gateway });
    }

    fn granted(&mut self, place: usize, grant: &GrantedPermit) {
        let call = &mut self.calls[place];
        if let Some(next) = self.gateways[call.gateway].lost.remove(&grant.permit) {
            return self.displaced(place, next);
        }
        call.granted = Some(self.now);
        call.stage = Stage::Running(Some(grant.permit));
        if grant.yields {
            self.gateways[call.gateway].yielding.insert(grant.permit, place);
        }
        let machine = self.scenario.worker_place(&grant.worker).unwrap_or_default();
        self.send(place, machine);
    }

    fn refused(&mut self, place: usize, refusal: &Refusal) {
        self.end(place, CallFate::Refused(refusal.reason));
        self.calls[place].retry_after = refusal.retry_after;
        let call = &self.calls[place];
        if !call.wish.returns || call.before + 1 >= self.scenario.load.attempts {
            return;
        }
        let retry_after = refusal.retry_after.filter(|_| call.wish.patient);
        let patience = self.scenario.load.patience;
        if retry_after.zip(patience).is_some_and(|(retry_after, patience)| retry_after > patience.0) {
            return;
        }
        let wait = retry_after.unwrap_or(self.scenario.load.impatience.0);
        let again = Call {
            before: call.before + 1,
            at_retry_after: retry_after.is_some(),
            extra: call.extra,
            ..Call::new(call.wish.clone(), self.now + wait)
        };
        // Clients that would come back after the end do not come back.
        if again.arrived < at(self.scenario.duration) {
            let at = again.arrived;
            self.calls.push(again);
            self.unended += 1;
            self.plan(at, ScheduledEvent::Ask { call: self.calls.len() - 1 });
        }
    }
}
