//! Applies the events of the scenario.

use std::time::Duration;

use super::call::Call;
use super::machine::VirtualWorkerState;
use super::{LoadPhase, ScheduledEvent, Simulation};
use crate::simulate::offered::OfferedRequest;
use crate::simulate::scenario::{ScenarioEvent, StallEvent};
use traffic_dam_core::clock::Nanos;
use traffic_dam_core::shed::WorkerFailure;

impl Simulation<'_> {
    pub(super) fn apply_event(&mut self, event: &ScenarioEvent) {
        if event.times.is_some() || event.rate.is_some() {
            (self.times, self.rate) = (event.times, event.rate);
        }
        if !event.shares.is_empty() {
            self.people.claim(self.scenario, &event.shares);
        }
        self.stretch = event.output.unwrap_or(self.stretch);
        if let Some(share) = event.kv {
            self.shares.kv = share;
            (0..self.machines.len()).for_each(|machine| self.shrink(machine));
        }
        if let Some(share) = event.slots {
            self.shares.slots = share;
            self.machines.iter_mut().for_each(|machine| machine.set_slots(self.shares));
        }
        if let Some(delay) = event.network {
            self.network = delay.0;
        }
        if let Some(stall) = &event.stall {
            self.stall(stall);
        }
        for (name, state) in [
            (&event.kill, VirtualWorkerState::Dead),
            (&event.zombie, VirtualWorkerState::Zombie),
            (&event.revive, VirtualWorkerState::Alive),
        ] {
            if let Some(machine) = name.as_deref().and_then(|name| self.scenario.worker_place(name)) {
                self.set_worker_state(machine, state);
            }
        }
        if let Some(extra) = event.request {
            let wish = OfferedRequest {
                person: 0,
                prompt: u64::from(extra.prompt),
                outputs: smallvec::smallvec![extra.output],
                max_tokens: Some(extra.output),
                stream: true,
                returns: false,
                patient: true,
                blocks: [].into(),
                conversation: None,
            };
            self.arrive(Call { extra: true, ..Call::new(wish, self.now) });
        }
        let changes_load = event.times.is_some() || event.rate.is_some() || event.output.is_some();
        if changes_load {
            self.generation += 1;
            self.plan_arrival();
        }
        let about_workers = event.kv.is_some()
            || event.slots.is_some()
            || event.kill.is_some()
            || event.zombie.is_some()
            || event.revive.is_some();
        if changes_load || about_workers {
            self.begin_phase(true);
        }
    }

    pub(super) fn begin_phase(&mut self, disturbs: bool) {
        let alive = self.machines.iter().filter(|machine| machine.state == VirtualWorkerState::Alive);
        let peak =
            alive.map(|machine| self.capacity.peak(machine.group, self.shares, self.stretch).work).sum();
        let healthy = self.capacity.rate(self.scenario, self.stretch);
        let times = self.rate_now() / healthy.max(1e-9);
        self.phases.push(LoadPhase { since: self.now, peak, times, disturbs });
    }

    /// Pauses workers or gateways, or makes the clock jump.
    fn stall(&mut self, stall: &StallEvent) {
        let length = stall.length.0;
        match stall.of.as_str() {
            "workers" => (0..self.machines.len()).for_each(|machine| self.stop(machine, length)),
            "dams" => {
                let until = self.now + length;
                self.plan(until, ScheduledEvent::Resumed { since: self.now });
                self.stopped_until = until;
            }
            "clock" => {
                let since = self.seen_now();
                self.shift += length;
                self.gateways.iter_mut().for_each(|gateway| gateway.lagged(since, since + length));
            }
            worker => {
                if let Some(machine) = self.scenario.worker_place(worker) {
                    self.stop(machine, length);
                }
            }
        }
    }

    fn stop(&mut self, place: usize, length: Duration) {
        let machine = &mut self.machines[place];
        if machine.state == VirtualWorkerState::Alive {
            machine.pause(length, self.now);
            self.plan_step(place);
        }
    }

    /// Ends a stall of the gateways and reports it to their gates.
    pub(super) fn resume(&mut self, since: Nanos) {
        let (from, to) = (since + self.shift, self.seen_now());
        self.gateways.iter_mut().for_each(|gateway| gateway.lagged(from, to));
    }

    /// Kills, silences or restarts a worker.
    fn set_worker_state(&mut self, machine: usize, state: VirtualWorkerState) {
        let at_work = self.at_work(machine);
        if state == VirtualWorkerState::Zombie {
            self.machines[machine].state = state;
            for place in at_work {
                let call = &self.calls[place];
                if call.is_committed() {
                    let (at, seen) = (call.latest + self.scenario.dam.idle.0, call.seen);
                    self.plan(at.max(self.now), ScheduledEvent::Idle { call: place, seen });
                }
            }
            return;
        }
        self.machines[machine].restart(state, self.shares);
        for place in at_work {
            if !self.calls[place].is_over() {
                self.attempt_failed(place, WorkerFailure::Broke);
            }
        }
    }

    /// Resizes a worker's KV cache to its current share.
    fn shrink(&mut self, place: usize) {
        let machine = &mut self.machines[place];
        let kv_tokens = machine.kv_tokens(self.shares.kv);
        let lost = machine.engine.set_kv_tokens(kv_tokens);
        // A request of several answers loses its permit once, however many of them are lost.
        let mut calls: Vec<usize> = lost.into_iter().map(|id| (id >> 8) as usize).collect();
        calls.sort_unstable();
        calls.dedup();
        for call in calls {
            if !self.calls[call].is_over() {
                self.withdraw(call);
                self.attempt_failed(call, WorkerFailure::Broke);
            }
        }
        self.plan_step(place);
    }

    fn at_work(&self, machine: usize) -> Vec<usize> {
        let running = |call: &Call| call.is_running() && call.machine == machine;
        (0..self.calls.len()).filter(|place| running(&self.calls[*place])).collect()
    }
}
