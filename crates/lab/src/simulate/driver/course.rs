//! Requests at the workers: sending, tokens, failures, the end.

use super::call::{Call, CallFate, Stage};
use super::machine::VirtualWorkerState;
use super::{Delivery, ScheduledEvent, Simulation};
use crate::engine::{NewSequence, SequenceEvent};
use crate::simulate::scenario::Scenario;
use traffic_dam_core::clock::Nanos;
use traffic_dam_core::refusal::Reason;
use traffic_dam_core::request::Ending;
use traffic_dam_core::shed::{Gate, PermitId, REPORT_EVERY, WorkerFailure};

impl Simulation<'_> {
    pub(super) fn next_machine(&mut self) -> usize {
        self.next_machine = (self.next_machine + 1) % self.machines.len();
        self.next_machine
    }

    pub(super) fn send(&mut self, place: usize, machine: usize) {
        let call = &mut self.calls[place];
        call.machine = machine;
        call.sent += 1;
        call.unfinished = call.wish.outputs.len() as u32;
        (call.first, call.seen, call.report_at) = (None, 0, Nanos::ZERO);
        call.by_second.clear();
        call.cached = None;
        let state = self.machines[machine].state;
        if state == VirtualWorkerState::Dead {
            return self.attempt_failed(place, WorkerFailure::Connect);
        }
        self.tell(place, Gate::dispatched);
        let call = &self.calls[place];
        let sent = call.sent;
        let patience = if call.wish.stream { self.scenario.dam.first_token } else { self.scenario.dam.total };
        if state == VirtualWorkerState::Alive {
            let worker = &mut self.machines[machine];
            let first_token = worker.first_tokens.sample();
            let taken = call.wish.outputs.iter().enumerate().all(|(answer, output)| {
                let id = sequence(place, answer);
                let (prompt, blocks) = (call.wish.prompt, call.wish.blocks.clone());
                let sequence = NewSequence { id, prompt, output: *output, first_token, blocks };
                worker.engine.submit_sequence(sequence, self.now).is_ok()
            });
            if !taken {
                // The worker calls the request too long for it. That is a valid answer.
                self.tell_end(place, Ending::Complete);
                return self.end(place, CallFate::Failed(Reason::RequestTooLarge));
            }
            self.plan_step(machine);
        }
        self.plan(self.now + patience.0, ScheduledEvent::Due { call: place, sent });
    }

    pub(super) fn plan_step(&mut self, machine: usize) {
        if let Some(at) = self.machines[machine].plan() {
            self.plan(at, ScheduledEvent::Step { machine });
        }
    }

    /// Ends a worker's step and sends its events to the gateways.
    pub(super) fn step(&mut self, place: usize) {
        let machine = &mut self.machines[place];
        if machine.planned != Some(self.now) || machine.state != VirtualWorkerState::Alive {
            return;
        }
        machine.planned = None;
        let mut events = Vec::new();
        machine.engine.advance(self.now, &mut |_, event| events.push(event));
        for event in events {
            let sent = |id: u64| self.calls[(id >> 8) as usize].sent;
            let event = match event {
                SequenceEvent::Token { id, .. } => Delivery { id, sent: sent(id), finished: false },
                SequenceEvent::Finished { id } => Delivery { id, sent: sent(id), finished: true },
                SequenceEvent::Started { id, cached } => {
                    self.calls[(id >> 8) as usize].cached.get_or_insert(cached);
                    continue;
                }
                SequenceEvent::Preempted { .. } => {
                    self.machines[place].preempted += 1;
                    continue;
                }
            };
            if self.network.is_zero() {
                self.happen(ScheduledEvent::Reaches { machine: place, event });
            } else {
                let at = self.now + self.network;
                self.plan(at, ScheduledEvent::Reaches { machine: place, event });
            }
        }
        self.plan_step(place);
    }

    /// Delivers a worker's event to the gateway, unless the request has moved elsewhere meanwhile.
    pub(super) fn reach(&mut self, machine: usize, event: Delivery) {
        let Delivery { id, sent, finished } = event;
        let place = (id >> 8) as usize;
        let call = &self.calls[place];
        if !call.is_running() || call.machine != machine || call.sent != sent {
            return;
        }
        if finished { self.finished(place) } else { self.token(place) }
    }

    fn token(&mut self, place: usize) {
        let now = self.now;
        let call = &mut self.calls[place];
        let is_first = call.first.is_none();
        call.token(now);
        let seen = call.seen;
        if !call.wish.stream {
            return;
        }
        let reports = now >= call.report_at;
        if reports {
            call.report_at = now + REPORT_EVERY;
        }
        if is_first {
            self.tell(place, Gate::first_token);
            self.convict(place);
        }
        if reports {
            self.tell(place, |gate, permit, now| gate.tokens(permit, seen, now));
        }
    }

    fn finished(&mut self, place: usize) {
        let call = &mut self.calls[place];
        call.unfinished = call.unfinished.saturating_sub(1);
        if call.unfinished > 0 {
            let ended = call.wish.outputs.len() as u32 - call.unfinished;
            if call.wish.stream {
                // Each answer of a stream reports its own end.
                self.tell(place, |gate, permit, now| gate.finished(permit, ended, now));
            }
            return;
        }
        let (seen, gateway) = (call.seen, call.gateway);
        if !call.wish.stream {
            // Its token usage arrives with the end of the answer.
            self.tell(place, |gate, permit, now| gate.tokens(permit, seen, now));
        }
        let call = &self.calls[place];
        self.gateways[gateway].learn(&self.people.all[call.wish.person], &call.wish, seen);
        if let Some(cached) = self.calls[place].cached {
            self.tell(place, |gate, permit, _| gate.report_cached(permit, cached));
        }
        self.convict(place);
        self.tell_end(place, Ending::Complete);
        self.end(place, CallFate::Answered);
        self.plan_turn(place);
    }

    /// Plans the next turn of an answered request's conversation.
    fn plan_turn(&mut self, place: usize) {
        let wish = &self.calls[place].wish;
        let shape = &self.people.all[wish.person].requests;
        let Some((next, pause)) = wish.next_turn(shape, self.stretch) else { return };
        let at = Nanos(self.now.0 + pause.0);
        if at < super::at(self.scenario.duration) && !self.is_full() {
            self.calls.push(Call::new(next, at));
            self.unended += 1;
            self.plan(at, ScheduledEvent::Ask { call: self.calls.len() - 1 });
        }
    }

    /// Reports an event of a request's permit to the gate.
    fn tell(&mut self, place: usize, say: impl FnOnce(&mut Gate, PermitId, Nanos)) {
        let call = &self.calls[place];
        let gateway = call.gateway;
        let now = self.seen_now();
        if let (Some(permit), Some(gate)) = (call.permit(), &mut self.gateways[gateway].gate) {
            say(gate, permit, now);
            self.settle(gateway);
        }
    }

    /// Blames the worker that failed this request before, because another worker has now succeeded.
    fn convict(&mut self, place: usize) {
        if let Some((machine, failure)) = self.calls[place].failed_at.take() {
            let worker = Scenario::worker_name(machine);
            self.tell(place, |gate, _, now| gate.convict(&worker, failure, now));
        }
    }

    /// Releases the permit of a request, if it has one.
    fn tell_end(&mut self, place: usize, ending: Ending) {
        let seen = self.calls[place].seen;
        self.tell(place, |gate, permit, now| gate.release(permit, ending, seen, now));
    }

    /// Handles a failed attempt of a request that is not over. The request may move to another
    /// worker if the client has not yet seen any of the answer.
    pub(super) fn attempt_failed(&mut self, place: usize, failure: WorkerFailure) {
        let now = self.seen_now();
        let permit = self.calls[place].permit();
        self.tell(place, |gate, permit, now| gate.worker_failed(permit, failure, now));
        let call = &mut self.calls[place];
        let (gateway, committed, retried) = (call.gateway, call.is_committed(), call.retried);
        // If two workers fail it, neither is blamed. The gate hears of a later break at the end.
        let machine = call.machine;
        let first = (!committed && call.failed_at.take().is_none()).then_some((machine, failure));
        call.failed_at = first;
        let call = &*call;
        if call.is_over() || call.permit() != permit {
            // Its permit was taken meanwhile: it waits, or was refused.
            return;
        }
        let may_move = !committed && !retried && self.gateways[gateway].gate.is_some();
        if may_move
            && self.gateways[gateway].may_retry(now)
            && let (Some(permit), Some(gate)) = (self.calls[place].permit(), &mut self.gateways[gateway].gate)
        {
            let moved = gate.reassign(permit, now);
            self.settle(gateway);
            if self.calls[place].permit() != Some(permit) {
                return;
            }
            if let Some(machine) = moved.and_then(|worker| self.scenario.worker_place(&worker)) {
                self.gateways[gateway].retried(now);
                self.calls[place].retried = true;
                return self.send(place, machine);
            }
            if self.resubmit(place, permit) {
                return;
            }
        }
        let (reason, ending) = match failure {
            WorkerFailure::Connect => (Reason::UpstreamUnreachable, Ending::WorkerFailed),
            WorkerFailure::Timeout => (Reason::UpstreamTimeout, Ending::TimedOut),
            WorkerFailure::Broke
            | WorkerFailure::Busy(_)
            | WorkerFailure::Refused
            | WorkerFailure::Rejected
            | WorkerFailure::Error => (Reason::UpstreamBroke, Ending::WorkerFailed),
        };
        if let Some((machine, failure)) = first {
            let worker = Scenario::worker_name(machine);
            self.tell(place, |gate, permit, now| gate.suspect(permit, &worker, failure, now));
        }
        self.tell_end(place, if committed { ending } else { Ending::Refused });
        self.end(place, CallFate::Failed(reason));
    }

    /// Ends the wait for a first token, or for a whole answer that is not streamed.
    pub(super) fn due(&mut self, place: usize, sent: u32) {
        let call = &self.calls[place];
        if !call.is_running() || call.sent != sent || call.is_committed() {
            return;
        }
        let stream = call.wish.stream;
        self.withdraw(place);
        if !stream {
            // The time for the whole answer is used up: none is left for another worker.
            self.calls[place].retried = true;
        }
        self.attempt_failed(place, WorkerFailure::Timeout);
    }

    /// Ends the wait for the next token of a silent stream.
    pub(super) fn idle(&mut self, place: usize, seen: u64) {
        let call = &self.calls[place];
        if call.is_running() && call.seen == seen {
            self.withdraw(place);
            self.attempt_failed(place, WorkerFailure::Timeout);
        }
    }

    pub(super) fn withdraw(&mut self, place: usize) {
        let call = &self.calls[place];
        let engine = &mut self.machines[call.machine].engine;
        for answer in 0..call.wish.outputs.len() {
            engine.cancel(sequence(place, answer));
        }
    }

    /// Ends a request. A second end is a defect of the program and is counted.
    pub(super) fn end(&mut self, place: usize, fate: CallFate) {
        let call = &mut self.calls[place];
        if call.is_over() {
            self.ended_twice += 1;
            return;
        }
        call.ended = self.now;
        if let Some(permit) = call.permit() {
            self.gateways[call.gateway].yielding.remove(&permit);
        }
        call.stage = Stage::Over(fate);
        self.unended -= 1;
    }
}

/// Returns the sequence id of an answer inside a worker.
fn sequence(call: usize, answer: usize) -> u64 {
    (call as u64) << 8 | answer as u64
}
