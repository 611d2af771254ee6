//! Offered load, the dams and the workers, event by event in virtual time.

mod call;
mod course;
mod dam;
mod machine;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;

pub(super) use self::call::{Call, Fate, SECOND, Stage};
use self::dam::Dam;
use self::machine::{Machine, State};
use super::Policy;
use super::capacity::Capacity;
use super::offered::{People, Wish, gap};
use super::scenario::{Arrivals, Event, Scenario};
use crate::clock::Nanos;
use crate::shed::GateSnapshot;

/// How often the gateway looks after its gates.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// Parts of the randomness, so that what is offered does not depend on what the dam does.
const OFFERED: u64 = 0x0ffe_7ed0;
const ROUTED: u64 = 0x7000_7ed0;

/// Something that will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// The next request of the load, unless the load has changed since.
    Arrival { generation: u32 },
    /// A request asks.
    Ask { call: usize },
    /// A worker ends a step.
    Step { machine: usize },
    /// A wait ends at a dam.
    Expiry { dam: usize },
    /// Time for housekeeping.
    Housekeeping,
    /// The patience with a worker ends that was sent this request for the `sent`th time.
    Due { call: usize, sent: u32 },
    /// The patience with a stream ends that has yielded nothing since.
    Idle { call: usize, seen: u64 },
    /// An event of the scenario.
    Event { place: usize },
    /// A second is over.
    Second,
}

/// What was so at the end of a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moment {
    /// Sequences that may be in flight.
    pub(super) limit: u64,
    pub(super) in_flight: u64,
    pub(super) waiting: u64,
}

/// From when on which good work per second is the most there can be, and which load is offered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    pub(super) since: Nanos,
    pub(super) peak: f64,
    /// What is offered, as a multiple of what the healthy fleet can serve.
    pub(super) times: f64,
    /// The time to recover may be counted from here.
    pub(super) disturbs: bool,
}

/// Everything that happens.
pub(super) struct World<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) people: People,
    capacity: &'a Capacity,
    now: Nanos,
    agenda: BinaryHeap<Reverse<(Nanos, u64, Happening)>>,
    /// Of what happens at the same time, the first that was planned is first.
    planned: u64,
    machines: Vec<Machine>,
    dams: Vec<Dam>,
    pub(super) calls: Vec<Call>,
    unended: usize,
    offered: Rng,
    routed: Rng,
    generation: u32,
    /// Requests per second; or as a multiple of what can be served.
    times: Option<f64>,
    rate: Option<f64>,
    stretch: f64,
    kv: f64,
    next_machine: usize,
    pub(super) phases: Vec<Phase>,
    pub(super) moments: Vec<Moment>,
    /// Requests that ended twice.
    pub(super) ended_twice: u64,
}

impl<'a> World<'a> {
    pub(super) fn new(scenario: &'a Scenario, policy: Policy, seed: u64, capacity: &'a Capacity) -> Self {
        let machine = |group: usize| Machine::new(group, scenario.workers[group].spec());
        let dam = |place: u32| Dam::new(scenario, policy, seed ^ (u64::from(place) << 32));
        let load = scenario.load;
        Self {
            scenario,
            people: People::of(scenario),
            capacity,
            now: Nanos::ZERO,
            agenda: BinaryHeap::new(),
            planned: 0,
            machines: scenario.worker_groups().map(machine).collect(),
            dams: (0..scenario.dam.count).map(dam).collect(),
            calls: Vec::new(),
            unended: 0,
            offered: Rng::with_seed(seed ^ OFFERED),
            routed: Rng::with_seed(seed ^ ROUTED),
            generation: 0,
            times: load.times.or(load.rate.is_none().then_some(1.0)),
            rate: load.rate,
            stretch: 1.0,
            kv: 1.0,
            next_machine: 0,
            phases: Vec::new(),
            moments: Vec::new(),
            ended_twice: 0,
        }
    }

    /// Lives through the scenario, and then until nothing is left to be done.
    pub(super) fn run(&mut self) {
        let events: Vec<(usize, Nanos)> =
            self.scenario.events.iter().enumerate().map(|(place, event)| (place, at(event.at))).collect();
        for (place, at) in events {
            self.plan(at, Happening::Event { place });
        }
        self.begin_phase(false);
        self.plan_arrival();
        self.plan(self.now + HOUSEKEEPING, Happening::Housekeeping);
        self.plan(Nanos::from_secs(1), Happening::Second);
        while let Some(Reverse((at, _, happening))) = self.agenda.pop() {
            self.now = at;
            self.happen(happening);
        }
    }

    /// What is left in the gates at the end; nothing should be.
    pub(super) fn rest(&self) -> impl Iterator<Item = GateSnapshot> + '_ {
        self.dams.iter().filter_map(|dam| dam.gate.as_ref()).map(|gate| gate.snapshot(self.now))
    }

    /// How often workers threw a sequence out of their cache.
    pub(super) fn preempted(&self) -> u64 {
        self.machines.iter().map(|machine| machine.preempted).sum()
    }

    /// The group of a worker.
    pub(super) fn group_of(&self, machine: usize) -> usize {
        self.machines[machine].group
    }

    fn plan(&mut self, at: Nanos, happening: Happening) {
        self.planned += 1;
        self.agenda.push(Reverse((at, self.planned, happening)));
    }

    /// Whether load is offered.
    fn is_open(&self) -> bool {
        self.now < at(self.scenario.duration)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival { generation } if generation == self.generation && self.is_open() => {
                let wish = self.people.draw(self.scenario, self.stretch, &mut self.offered);
                self.arrive(Call::new(wish, self.now));
                self.plan_arrival();
            }
            Happening::Arrival { .. } => {}
            Happening::Ask { call } => self.ask(call),
            Happening::Step { machine } => self.step(machine),
            Happening::Expiry { dam } => self.tend(dam),
            Happening::Housekeeping => {
                (0..self.dams.len()).for_each(|dam| self.tend(dam));
                if self.is_open() || self.unended > 0 {
                    self.plan(self.now + HOUSEKEEPING, Happening::Housekeeping);
                }
            }
            Happening::Due { call, sent } => self.due(call, sent),
            Happening::Idle { call, seen } => self.idle(call, seen),
            Happening::Event { place } => {
                let scenario = self.scenario;
                self.strike(&scenario.events[place]);
            }
            Happening::Second => {
                self.note_moment();
                if self.is_open() {
                    self.plan(self.now + Duration::from_secs(1), Happening::Second);
                }
            }
        }
    }

    fn plan_arrival(&mut self) {
        let rate = self.rate_now();
        if rate > 0.0 {
            let regular = self.scenario.load.arrivals == Arrivals::Regular;
            let gap = gap(rate, regular, &mut self.offered);
            let generation = self.generation;
            self.plan(self.now + Duration::from_secs_f64(gap.min(1e6)), Happening::Arrival { generation });
        }
    }

    /// Requests per second that are offered now. A multiple refers to the healthy fleet and the mix of now.
    fn rate_now(&self) -> f64 {
        match (self.rate, self.times) {
            (Some(rate), _) => rate,
            (None, times) => times.unwrap_or(1.0) * self.capacity.rate(self.scenario, self.stretch),
        }
    }

    fn arrive(&mut self, call: Call) {
        self.calls.push(call);
        self.unended += 1;
        self.ask(self.calls.len() - 1);
    }

    /// Makes something happen that the scenario says.
    fn strike(&mut self, event: &Event) {
        if event.times.is_some() || event.rate.is_some() {
            (self.times, self.rate) = (event.times, event.rate);
        }
        self.stretch = event.output.unwrap_or(self.stretch);
        if let Some(share) = event.kv {
            self.kv = share;
            (0..self.machines.len()).for_each(|machine| self.shrink(machine));
        }
        for (name, state) in
            [(&event.kill, State::Dead), (&event.zombie, State::Zombie), (&event.revive, State::Alive)]
        {
            if let Some(machine) = name.as_deref().and_then(|name| self.scenario.worker_place(name)) {
                self.befall(machine, state);
            }
        }
        if let Some(extra) = event.request {
            let wish = Wish {
                person: 0,
                prompt: u64::from(extra.prompt),
                outputs: smallvec::smallvec![extra.output],
                max_tokens: Some(extra.output),
                stream: true,
                returns: false,
                patient: true,
            };
            self.arrive(Call { extra: true, ..Call::new(wish, self.now) });
        }
        let changes_load = event.times.is_some() || event.rate.is_some() || event.output.is_some();
        if changes_load {
            self.generation += 1;
            self.plan_arrival();
        }
        let about_workers =
            event.kv.is_some() || event.kill.is_some() || event.zombie.is_some() || event.revive.is_some();
        if changes_load || about_workers {
            self.begin_phase(true);
        }
    }

    fn begin_phase(&mut self, disturbs: bool) {
        let alive = self.machines.iter().filter(|machine| machine.state == State::Alive);
        let peak = alive.map(|machine| self.capacity.peak(machine.group, self.kv, self.stretch).work).sum();
        let healthy = self.capacity.rate(self.scenario, self.stretch);
        let times = self.rate_now() / healthy.max(1e-9);
        self.phases.push(Phase { since: self.now, peak, times, disturbs });
    }

    fn note_moment(&mut self) {
        let mut moment = Moment::default();
        for dam in &self.dams {
            if let Some(gate) = &dam.gate {
                let gate = gate.snapshot(self.now);
                moment.in_flight += gate.in_flight();
                moment.waiting += gate.queue.iter().sum::<usize>() as u64;
                moment.limit += gate.workers.iter().map(|worker| u64::from(worker.limit)).sum::<u64>();
            }
        }
        if self.dams.iter().all(|dam| dam.gate.is_none()) {
            moment.in_flight = self.machines.iter().map(|machine| machine.engine.inside() as u64).sum();
        }
        self.moments.push(moment);
    }
}

/// The moment that a scenario names.
pub(super) fn at(span: super::scenario::Span) -> Nanos {
    Nanos::ZERO + span.0
}
