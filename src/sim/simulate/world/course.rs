//! The course of requests: asking, being sent, tokens, failures, the end.

use std::time::Duration;

use super::call::{Call, Fate, Stage};
use super::machine::State;
use super::{Happening, World};
use crate::clock::Nanos;
use crate::refusal::{Reason, Refusal};
use crate::request::Ending;
use crate::shed::{Answer, Displaced, Failure, Gate, Grant, SeatId, WaiterId};
use crate::sim::physics::Event;

/// How often the gateway tells its gate of a stream's tokens.
const REPORT_EVERY: Duration = Duration::from_millis(100);

impl World<'_> {
    /// A request asks its dam.
    pub(super) fn ask(&mut self, place: usize) {
        let now = self.now;
        let dam = self.routed.usize(..self.dams.len());
        let call = &mut self.calls[place];
        (call.dam, call.arrived) = (dam, now);
        let person = &self.people.all[call.wish.person];
        let dam = &mut self.dams[dam];
        let ask = dam.ask(person, &call.wish, now);
        let Some(gate) = &mut dam.gate else {
            call.granted = Some(now);
            call.stage = Stage::Running(None);
            let machine = self.next_machine();
            return self.send(place, machine);
        };
        match gate.ask(&ask, now) {
            Ok(Answer::Granted(grant)) => self.granted(place, &grant),
            Ok(Answer::Waiting { id, expires_at }) => self.waits(place, id, expires_at),
            Err(refusal) => self.refused(place, &refusal),
        }
        self.settle(self.calls[place].dam);
    }

    /// A dam looks after its queue.
    pub(super) fn tend(&mut self, dam: usize) {
        if let Some(gate) = &mut self.dams[dam].gate {
            gate.advance(self.now);
            self.settle(dam);
        }
    }

    /// Hands on what a gate has decided about those who wait.
    fn settle(&mut self, dam: usize) {
        loop {
            let Some(gate) = &mut self.dams[dam].gate else { return };
            let displaced: Vec<_> = gate.take_displaced().collect();
            let settled: Vec<_> = gate.take_settled().collect();
            if displaced.is_empty() && settled.is_empty() {
                return;
            }
            for Displaced { seat, next } in displaced {
                let Some(place) = self.dams[dam].yielding.remove(&seat) else { continue };
                self.withdraw(place);
                self.calls[place].granted = None;
                match next {
                    Ok((id, expires_at)) => self.waits(place, id, expires_at),
                    Err(refusal) => self.refused(place, &refusal),
                }
            }
            for (id, outcome) in settled {
                let Some(place) = self.leave_queue(dam, id) else { continue };
                match outcome {
                    Ok(grant) => self.granted(place, &grant),
                    Err(refusal) => self.refused(place, &refusal),
                }
            }
        }
    }

    fn leave_queue(&mut self, dam: usize, id: WaiterId) -> Option<usize> {
        self.dams[dam].waiting.remove(&id)
    }

    fn waits(&mut self, place: usize, id: WaiterId, expires_at: Nanos) {
        let call = &mut self.calls[place];
        call.stage = Stage::Waiting(id);
        let dam = call.dam;
        self.dams[dam].waiting.insert(id, place);
        self.plan(expires_at, Happening::Expiry { dam });
    }

    fn granted(&mut self, place: usize, grant: &Grant) {
        let call = &mut self.calls[place];
        call.granted = Some(self.now);
        call.stage = Stage::Running(Some(grant.seat));
        if grant.yields {
            self.dams[call.dam].yielding.insert(grant.seat, place);
        }
        let machine = self.scenario.worker_place(&grant.worker).unwrap_or_default();
        self.send(place, machine);
    }

    fn refused(&mut self, place: usize, refusal: &Refusal) {
        self.end(place, Fate::Refused(refusal.reason));
        let call = &self.calls[place];
        if !call.wish.returns || call.before + 1 >= self.scenario.load.attempts {
            return;
        }
        let told = refusal.retry_after.filter(|_| call.wish.patient);
        let wait = told.unwrap_or(self.scenario.load.impatience.0);
        let again = Call {
            before: call.before + 1,
            as_told: told.is_some(),
            extra: call.extra,
            ..Call::new(call.wish.clone(), self.now + wait)
        };
        // Who would come back after the end is not there any more.
        if again.arrived < super::at(self.scenario.duration) {
            let at = again.arrived;
            self.calls.push(again);
            self.unended += 1;
            self.plan(at, Happening::Ask { call: self.calls.len() - 1 });
        }
    }

    fn next_machine(&mut self) -> usize {
        self.next_machine = (self.next_machine + 1) % self.machines.len();
        self.next_machine
    }

    /// Sends a request to a worker.
    fn send(&mut self, place: usize, machine: usize) {
        let call = &mut self.calls[place];
        call.machine = machine;
        call.sent += 1;
        call.unfinished = call.wish.outputs.len() as u32;
        (call.first, call.seen, call.report_at) = (None, 0, Nanos::ZERO);
        call.by_second.clear();
        let state = self.machines[machine].state;
        if state == State::Dead {
            return self.attempt_failed(place, Failure::Connect);
        }
        self.tell(place, Gate::dispatched);
        let call = &self.calls[place];
        let sent = call.sent;
        let patience = if call.wish.stream { self.scenario.dam.first_token } else { self.scenario.dam.total };
        if state == State::Alive {
            let engine = &mut self.machines[machine].engine;
            let outputs = call.wish.outputs.iter().enumerate();
            let taken = outputs.clone().all(|(answer, output)| {
                engine.submit(sequence(place, answer), call.wish.prompt, *output, self.now).is_ok()
            });
            if !taken {
                // The worker says that this is too long for it, which is an answer.
                self.tell_end(place, Ending::Complete);
                return self.end(place, Fate::Failed(Reason::RequestTooLarge));
            }
            self.plan_step(machine);
        }
        self.plan(self.now + patience.0, Happening::Due { call: place, sent });
    }

    fn plan_step(&mut self, machine: usize) {
        if let Some(at) = self.machines[machine].plan() {
            self.plan(at, Happening::Step { machine });
        }
    }

    /// A worker's step ends.
    pub(super) fn step(&mut self, place: usize) {
        let machine = &mut self.machines[place];
        if machine.planned != Some(self.now) || machine.state != State::Alive {
            return;
        }
        machine.planned = None;
        let mut events = Vec::new();
        machine.engine.advance(self.now, &mut |_, event| events.push(event));
        for event in events {
            match event {
                Event::Token { id, .. } => self.token((id >> 8) as usize),
                Event::Finished { id } => self.finished((id >> 8) as usize),
                Event::Preempted { .. } => self.machines[place].preempted += 1,
            }
        }
        self.plan_step(place);
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
        }
        if reports {
            self.tell(place, |gate, seat, now| gate.tokens(seat, seen, now));
        }
    }

    fn finished(&mut self, place: usize) {
        let call = &mut self.calls[place];
        call.unfinished = call.unfinished.saturating_sub(1);
        if call.unfinished > 0 {
            return;
        }
        let (seen, dam) = (call.seen, call.dam);
        if !call.wish.stream {
            // Its usage, in the last line of the answer.
            self.tell(place, |gate, seat, now| gate.tokens(seat, seen, now));
        }
        let call = &self.calls[place];
        self.dams[dam].learn(&self.people.all[call.wish.person], &call.wish, seen);
        self.tell_end(place, Ending::Complete);
        self.end(place, Fate::Answered);
    }

    /// Tells the gate something about a request's seat.
    fn tell(&mut self, place: usize, say: impl FnOnce(&mut Gate, SeatId, Nanos)) {
        let call = &self.calls[place];
        let dam = call.dam;
        if let (Some(seat), Some(gate)) = (call.seat(), &mut self.dams[dam].gate) {
            say(gate, seat, self.now);
            self.settle(dam);
        }
    }

    /// Frees the seat of a request, if it has one.
    fn tell_end(&mut self, place: usize, ending: Ending) {
        let seen = self.calls[place].seen;
        self.tell(place, |gate, seat, now| gate.release(seat, ending, seen, now));
    }

    /// What the worker did to a request that is not over. It may go to another one before anything was said of the
    /// answer.
    fn attempt_failed(&mut self, place: usize, failure: Failure) {
        self.tell(place, |gate, seat, now| gate.worker_failed(seat, failure, now));
        let call = &self.calls[place];
        let (dam, committed, retried) = (call.dam, call.is_committed(), call.retried);
        let may_move = !committed && !retried && self.dams[dam].gate.is_some();
        if may_move
            && self.dams[dam].may_retry(self.now)
            && let (Some(seat), Some(gate)) = (self.calls[place].seat(), &mut self.dams[dam].gate)
        {
            let moved = gate.reassign(seat, self.now);
            self.settle(dam);
            if let Some(machine) = moved.and_then(|worker| self.scenario.worker_place(&worker)) {
                self.dams[dam].retried(self.now);
                self.calls[place].retried = true;
                return self.send(place, machine);
            }
        }
        let (reason, ending) = match failure {
            Failure::Connect => (Reason::UpstreamUnreachable, Ending::WorkerFailed),
            Failure::Timeout => (Reason::UpstreamTimeout, Ending::TimedOut),
            Failure::Broke | Failure::Refused => (Reason::UpstreamBroke, Ending::WorkerFailed),
        };
        self.tell_end(place, if committed { ending } else { Ending::Refused });
        self.end(place, Fate::Failed(reason));
    }

    /// The patience with a worker is over.
    pub(super) fn due(&mut self, place: usize, sent: u32) {
        let call = &self.calls[place];
        if call.is_over() || call.sent != sent || call.is_committed() {
            return;
        }
        let stream = call.wish.stream;
        self.withdraw(place);
        if !stream {
            // The time for the whole answer is over: there is none left for another worker.
            self.calls[place].retried = true;
        }
        self.attempt_failed(place, Failure::Timeout);
    }

    /// The patience with a silent stream is over.
    pub(super) fn idle(&mut self, place: usize, seen: u64) {
        let call = &self.calls[place];
        if !call.is_over() && call.seen == seen {
            self.withdraw(place);
            self.attempt_failed(place, Failure::Timeout);
        }
    }

    fn withdraw(&mut self, place: usize) {
        let call = &self.calls[place];
        let engine = &mut self.machines[call.machine].engine;
        for answer in 0..call.wish.outputs.len() {
            engine.cancel(sequence(place, answer));
        }
    }

    /// Every request has one end; a second one is a defect, which is counted.
    fn end(&mut self, place: usize, fate: Fate) {
        let call = &mut self.calls[place];
        if call.is_over() {
            self.ended_twice += 1;
            return;
        }
        call.ended = self.now;
        if let Some(seat) = call.seat() {
            self.dams[call.dam].yielding.remove(&seat);
        }
        call.stage = Stage::Over(fate);
        self.unended -= 1;
    }

    /// A worker dies, falls silent, or is restarted.
    pub(super) fn befall(&mut self, machine: usize, state: State) {
        let at_work = self.at_work(machine);
        if state == State::Zombie {
            self.machines[machine].state = state;
            for place in at_work {
                let call = &self.calls[place];
                if call.is_committed() {
                    let (at, seen) = (call.latest + self.scenario.dam.idle.0, call.seen);
                    self.plan(at.max(self.now), Happening::Idle { call: place, seen });
                }
            }
            return;
        }
        self.machines[machine].restart(state, self.kv);
        for place in at_work {
            if !self.calls[place].is_over() {
                self.attempt_failed(place, Failure::Broke);
            }
        }
    }

    /// A worker's cache gets the size that it now has.
    pub(super) fn shrink(&mut self, place: usize) {
        let machine = &mut self.machines[place];
        let kv_tokens = machine.kv_tokens(self.kv);
        let lost = machine.engine.set_kv_tokens(kv_tokens);
        for id in lost {
            let call = (id >> 8) as usize;
            if !self.calls[call].is_over() {
                self.withdraw(call);
                self.attempt_failed(call, Failure::Broke);
            }
        }
        self.plan_step(place);
    }

    fn at_work(&self, machine: usize) -> Vec<usize> {
        let running = |call: &Call| matches!(call.stage, Stage::Running(_)) && call.machine == machine;
        (0..self.calls.len()).filter(|place| running(&self.calls[*place])).collect()
    }
}

/// The name of an answer inside a worker.
fn sequence(call: usize, answer: usize) -> u64 {
    (call as u64) << 8 | answer as u64
}
