//! Drives load, gateways and workers event by event in virtual time.

mod asking;
mod call;
mod course;
mod events;
mod exchange;
mod gateway;
mod machine;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;

pub(super) use self::call::{Call, CallFate, SECOND, Stage};
use self::gateway::SimulatedGateway;
use self::machine::VirtualWorker;
use super::Policy;
use super::capacity::{Capacity, RemainingShares};
use super::offered::OfferedCallers;
use super::scenario::{Arrivals, Scenario};
use crate::draw::gap;
use traffic_dam_core::clock::Nanos;
use traffic_dam_core::shed::GateSnapshot;

/// Interval of the gateway's housekeeping.
const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// Maximum requests of one run: about 3 GB of memory.
const MOST_CALLS: usize = 10_000_000;
/// Seeds of independent random streams: the offered load does not depend on the gateway.
const OFFERED: u64 = 0x0ffe_7ed0;
const ROUTED: u64 = 0x7000_7ed0;
const READ: u64 = 0x7ead_7ed0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ScheduledEvent {
    /// The next request arrives, unless the load has changed since it was planned.
    Arrival {
        generation: u32,
    },
    Ask {
        call: usize,
    },
    /// A worker's step ends.
    Step {
        machine: usize,
    },
    /// A wait in a gateway's queue expires.
    Expiry {
        gateway: usize,
    },
    Housekeeping,
    /// A request's attempt number `sent` times out.
    Due {
        call: usize,
        sent: u32,
    },
    /// A stream times out that has yielded nothing since token `seen`.
    Idle {
        call: usize,
        seen: u64,
    },
    Event {
        place: usize,
    },
    /// A worker's event reaches the gateway.
    Reaches {
        machine: usize,
        event: Delivery,
    },
    /// The gateways resume after a stall.
    Resumed {
        since: Nanos,
    },
    /// One second has passed.
    Second,
}

/// A worker's event on its way to the gateway: a token of an answer, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Delivery {
    /// The answer's sequence id, and the number of the attempt that made it.
    id: u64,
    sent: u32,
    finished: bool,
}

/// State at the end of a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SecondEnd {
    /// Sum of the workers' limits, in sequences.
    pub(super) limit: u64,
    pub(super) in_flight: u64,
    pub(super) waiting: u64,
}

/// A period with one maximum of good work per second and one offered load.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoadPhase {
    pub(super) since: Nanos,
    pub(super) peak: f64,
    /// Offered load, as a multiple of the healthy fleet's capacity.
    pub(super) times: f64,
    /// `true` if the recovery time may be counted from here.
    pub(super) disturbs: bool,
}

pub(super) struct Simulation<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) people: OfferedCallers,
    capacity: &'a Capacity,
    now: Nanos,
    agenda: BinaryHeap<Reverse<(Nanos, u64, ScheduledEvent)>>,
    /// Sequence number of planned events; of events at the same time, the first planned is first.
    planned: u64,
    machines: Vec<VirtualWorker>,
    gateways: Vec<SimulatedGateway>,
    pub(super) calls: Vec<Call>,
    unended: usize,
    offered: Rng,
    routed: Rng,
    generation: u32,
    /// Offered load as a multiple of the capacity, or in requests per second.
    times: Option<f64>,
    rate: Option<f64>,
    stretch: f64,
    shares: RemainingShares,
    /// End of the gateways' current stall.
    stopped_until: Nanos,
    /// Lead of the gateways' clock over the simulation's.
    shift: Duration,
    /// Network delay of everything that a worker sends.
    network: Duration,
    next_machine: usize,
    pub(super) phases: Vec<LoadPhase>,
    pub(super) moments: Vec<SecondEnd>,
    /// Number of requests that ended twice (a defect).
    pub(super) ended_twice: u64,
}

impl ScheduledEvent {
    /// Returns `true` if a gateway handles it.
    fn is_at_the_gateway(self) -> bool {
        match self {
            Self::Ask { .. }
            | Self::Expiry { .. }
            | Self::Housekeeping
            | Self::Due { .. }
            | Self::Idle { .. }
            | Self::Reaches { .. } => true,
            Self::Arrival { .. }
            | Self::Step { .. }
            | Self::Event { .. }
            | Self::Resumed { .. }
            | Self::Second => false,
        }
    }
}

impl<'a> Simulation<'a> {
    pub(super) fn new(scenario: &'a Scenario, policy: Policy, seed: u64, capacity: &'a Capacity) -> Self {
        let machine = |group: usize| VirtualWorker::new(group, &scenario.workers[group], seed ^ READ);
        let gateway = |place: u32| SimulatedGateway::new(scenario, policy, seed ^ (u64::from(place) << 32));
        let load = scenario.load;
        Self {
            scenario,
            people: OfferedCallers::of(scenario),
            capacity,
            now: Nanos::ZERO,
            agenda: BinaryHeap::new(),
            planned: 0,
            machines: scenario.worker_groups().map(machine).collect(),
            gateways: (0..scenario.dam.count).map(gateway).collect(),
            calls: Vec::new(),
            unended: 0,
            offered: Rng::with_seed(seed ^ OFFERED),
            routed: Rng::with_seed(seed ^ ROUTED),
            generation: 0,
            times: load.times.or(load.rate.is_none().then_some(1.0)),
            rate: load.rate,
            stretch: 1.0,
            shares: RemainingShares::WHOLE,
            stopped_until: Nanos::ZERO,
            shift: Duration::ZERO,
            network: Duration::ZERO,
            next_machine: 0,
            phases: Vec::new(),
            moments: Vec::new(),
            ended_twice: 0,
        }
    }

    /// Runs the scenario, then until no event is left.
    pub(super) fn run(&mut self) {
        for (place, event) in self.scenario.events.iter().enumerate() {
            self.plan(at(event.at), ScheduledEvent::Event { place });
        }
        self.begin_phase(false);
        self.plan_arrival();
        self.plan(self.now + HOUSEKEEPING, ScheduledEvent::Housekeeping);
        self.plan(Nanos::from_secs(1), ScheduledEvent::Second);
        while let Some(Reverse((at, _, happening))) = self.agenda.pop() {
            self.now = at;
            self.happen(happening);
        }
    }

    /// Returns a snapshot of each gate at the end; all should be empty.
    pub(super) fn rest(&self) -> impl Iterator<Item = GateSnapshot> + '_ {
        self.gateways
            .iter()
            .filter_map(|gateway| gateway.gate.as_ref())
            .map(|gate| gate.snapshot(self.seen_now()))
    }

    pub(super) fn preempted(&self) -> u64 {
        self.machines.iter().map(|machine| machine.preempted).sum()
    }

    pub(super) fn group_of(&self, machine: usize) -> usize {
        self.machines[machine].group
    }

    fn plan(&mut self, at: Nanos, happening: ScheduledEvent) {
        self.planned += 1;
        self.agenda.push(Reverse((at, self.planned, happening)));
    }

    /// Returns the time by the gateways' clock.
    fn seen_now(&self) -> Nanos {
        self.now + self.shift
    }

    /// Returns `true` while load is offered.
    fn is_open(&self) -> bool {
        self.now < at(self.scenario.duration) && !self.is_full()
    }

    /// Returns `true` if the run has reached its maximum of requests.
    pub(super) fn is_full(&self) -> bool {
        self.calls.len() >= MOST_CALLS
    }

    fn happen(&mut self, happening: ScheduledEvent) {
        if happening.is_at_the_gateway() && self.now < self.stopped_until {
            return self.plan(self.stopped_until, happening);
        }
        match happening {
            ScheduledEvent::Arrival { generation } if generation == self.generation && self.is_open() => {
                let wish = self.people.draw(self.scenario, self.stretch, &mut self.offered);
                self.arrive(Call::new(wish, self.now));
                self.plan_arrival();
            }
            ScheduledEvent::Arrival { .. } => {}
            ScheduledEvent::Ask { call } => self.ask(call),
            ScheduledEvent::Step { machine } => self.step(machine),
            ScheduledEvent::Expiry { gateway } => self.tend(gateway),
            ScheduledEvent::Housekeeping => {
                (0..self.gateways.len()).for_each(|gateway| self.tend(gateway));
                if self.is_open() || self.unended > 0 {
                    self.plan(self.now + HOUSEKEEPING, ScheduledEvent::Housekeeping);
                }
            }
            ScheduledEvent::Due { call, sent } => self.due(call, sent),
            ScheduledEvent::Idle { call, seen } => self.idle(call, seen),
            ScheduledEvent::Event { place } => {
                let scenario = self.scenario;
                self.apply_event(&scenario.events[place]);
                let again = scenario.events[place].stall.as_ref().and_then(|stall| stall.every);
                if let Some(every) = again.filter(|_| self.is_open()) {
                    self.plan(self.now + every.0, ScheduledEvent::Event { place });
                }
            }
            ScheduledEvent::Reaches { machine, event } => self.reach(machine, event),
            ScheduledEvent::Resumed { since } => self.resume(since),
            ScheduledEvent::Second => {
                self.note_moment();
                self.exchange_tokens();
                if self.is_open() {
                    self.plan(self.now + Duration::from_secs(1), ScheduledEvent::Second);
                }
            }
        }
    }

    fn plan_arrival(&mut self) {
        let rate = self.rate_now();
        if rate > 0.0 {
            let regular = self.scenario.load.arrivals == Arrivals::Regular;
            let gap = if regular { 1.0 / rate } else { gap(rate, &mut self.offered) };
            let generation = self.generation;
            self.plan(
                self.now + Duration::from_secs_f64(gap.min(1e6)),
                ScheduledEvent::Arrival { generation },
            );
        }
    }

    /// Returns the load in requests per second. `times` refers to the healthy fleet and current
    /// mix.
    fn rate_now(&self) -> f64 {
        match (self.rate, self.times) {
            (Some(rate), _) => rate,
            (None, times) => times.unwrap_or(1.0) * self.capacity.rate(self.scenario, self.stretch),
        }
    }

    fn arrive(&mut self, call: Call) {
        self.calls.push(call);
        self.unended += 1;
        let call = self.calls.len() - 1;
        self.happen(ScheduledEvent::Ask { call });
    }

    fn note_moment(&mut self) {
        let mut moment = SecondEnd::default();
        for gateway in &self.gateways {
            if let Some(gate) = &gateway.gate {
                let gate = gate.snapshot(self.seen_now());
                moment.in_flight += gate.in_flight();
                moment.waiting += gate.queue.iter().sum::<usize>() as u64;
                moment.limit += gate.workers.iter().map(|worker| u64::from(worker.limit)).sum::<u64>();
            }
        }
        if self.gateways.iter().all(|gateway| gateway.gate.is_none()) {
            moment.in_flight = self.machines.iter().map(|machine| machine.engine.unfinished() as u64).sum();
        }
        self.moments.push(moment);
    }
}

pub(super) fn at(span: super::scenario::ScenarioDuration) -> Nanos {
    Nanos::ZERO + span.0
}
