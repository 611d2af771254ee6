//! The judge of a canary on simulated workers: how often its verdict is wrong.
//!
//! The gate, the counts and the judge are the gateway's own; the workers are the engine model. Each
//! run has 5 % of 400 callers on two new workers beside two old ones, at 0.7 of what these can answer, in
//! virtual time.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking, and print"
)]

use std::collections::HashMap;
use std::time::Duration;

use fastrand::Rng;
use traffic_dam_core::clock::Nanos;
use traffic_dam_core::fleet::PICK;
use traffic_dam_core::fleet::judge::{Verdict, judge};
use traffic_dam_core::request::{Class, Ending};
use traffic_dam_core::shed::settings::GateSettings;
use traffic_dam_core::shed::{
    CanaryShare, Gate, GateAnswer, GrantedPermit, PermitId, PermitRequest, PoolMember, WaiterId,
    WorkerFailure,
};
use traffic_dam_lab::engine::{EngineModel, EngineSpec, SequenceEvent};

/// Runs of each kind of side.
const RUNS: u64 = 50;
/// Most wrong verdicts of them: 5 %.
const MOST_WRONG: usize = 2;
const JUDGE: Duration = Duration::from_secs(120);
const CALLERS: usize = 400;
/// Requests per second: two workers answer 18.5.
const RATE: f64 = 13.0;
/// Time after which the failing side answers with an error.
const FAILS_AFTER: Duration = Duration::from_millis(40);

/// The side on trial.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Sound,
    SlowerByHalf,
    FailsATenth,
}

struct Request {
    permit: PermitId,
    worker: usize,
    ask: PermitRequest,
    output: u32,
    seen: u64,
    tried: bool,
}

struct Run {
    side: Side,
    random: Rng,
    gate: Gate,
    engines: Vec<EngineModel>,
    requests: HashMap<u64, Request>,
    waiting: HashMap<WaiterId, (PermitRequest, u32)>,
    /// Requests that fail at this time.
    failing: Vec<(Nanos, u64)>,
    next_id: u64,
}

fn engine(side: Side, new: bool) -> EngineModel {
    let usual = EngineSpec::default();
    EngineModel::new(if new && side == Side::SlowerByHalf {
        EngineSpec {
            prefill_rate: usual.prefill_rate * 2 / 3,
            prefill_base: usual.prefill_base.mul_f64(1.5),
            token_time: usual.token_time.mul_f64(1.5),
            token_time_per_seq: usual.token_time_per_seq.mul_f64(1.5),
            ..usual
        }
    } else {
        usual
    })
}

fn place(worker: &str) -> usize {
    worker.trim_start_matches('w').parse().unwrap()
}

impl Run {
    fn new(side: Side, seed: u64) -> Self {
        let settings = GateSettings {
            canary: Some(CanaryShare { epoch: seed + 1, per_million: 50_000 }),
            ..GateSettings::default()
        };
        let member = |place: usize| PoolMember {
            id: format!("w{place}").into(),
            slots: Some(8),
            kv_tokens: None,
            eligible: true,
            external: None,
            canary: place >= 2,
        };
        let mut gate = Gate::new("chat".into(), settings.clone(), PICK, seed);
        gate.rebuild(settings, (0..4).map(member).collect(), Nanos::ZERO);
        Self {
            side,
            random: Rng::with_seed(seed),
            gate,
            engines: (0..4).map(|place| engine(side, place >= 2)).collect(),
            requests: HashMap::new(),
            waiting: HashMap::new(),
            failing: Vec::new(),
            next_id: 0,
        }
    }

    fn arrive(&mut self, now: Nanos) {
        let output = self.random.u32(8..=24);
        let ask = PermitRequest {
            caller: format!("c{}", self.random.usize(..CALLERS)).into(),
            weight: 1,
            class: Class::Interactive,
            prompt_tokens: self.random.u64(50..=800),
            expected_output: 16,
            sequences: 1,
            stream: self.random.u32(..10) > 0,
            repeatable: true,
            body_bytes: 1000,
            session: None,
            prefix: None,
            deadline: None,
            worker: None,
            external: false,
        };
        match self.gate.ask(&ask, now) {
            Ok(GateAnswer::Granted(grant)) => self.begin(&grant, ask, output, now),
            Ok(GateAnswer::Waiting { id, .. }) => drop(self.waiting.insert(id, (ask, output))),
            Err(_) => {}
        }
    }

    fn begin(&mut self, grant: &GrantedPermit, ask: PermitRequest, output: u32, now: Nanos) {
        let id = self.next_id;
        self.next_id += 1;
        let (permit, worker) = (grant.permit, place(&grant.worker));
        self.requests.insert(id, Request { permit, worker, ask, output, seen: 0, tried: false });
        self.send(id, now);
    }

    fn send(&mut self, id: u64, now: Nanos) {
        let Some(request) = self.requests.get(&id) else { return };
        self.gate.dispatched(request.permit, now);
        if self.side == Side::FailsATenth && request.worker >= 2 && self.random.u32(..10) == 0 {
            return self.failing.push((now + FAILS_AFTER, id));
        }
        self.engines[request.worker].submit(id, request.ask.prompt_tokens, request.output, now).unwrap();
    }

    fn fail(&mut self, id: u64, now: Nanos) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        self.gate.worker_failed(request.permit, WorkerFailure::Error, now);
        let again = if request.tried { None } else { self.gate.reassign(request.permit, now) };
        match again {
            Some(worker) => {
                (request.worker, request.tried) = (place(&worker), true);
                self.send(id, now);
            }
            None => {
                let permit = request.permit;
                self.requests.remove(&id);
                self.gate.release(permit, Ending::WorkerFailed, 0, now);
            }
        }
    }

    fn happen(&mut self, event: SequenceEvent, now: Nanos) {
        match event {
            SequenceEvent::Token { id, index } => {
                let Some(request) = self.requests.get_mut(&id) else { return };
                request.seen += 1;
                if index == 0 && request.ask.stream {
                    self.gate.first_token(request.permit, now);
                }
            }
            SequenceEvent::Finished { id } => {
                let Some(request) = self.requests.remove(&id) else { return };
                self.gate.release(request.permit, Ending::Complete, request.seen, now);
            }
            SequenceEvent::Started { .. } | SequenceEvent::Preempted { .. } => {}
        }
    }

    fn settle(&mut self, now: Nanos) {
        self.gate.process_timeouts(now);
        loop {
            let settled: Vec<_> = self.gate.take_outcomes().collect();
            if settled.is_empty() {
                return;
            }
            for (waiter, outcome) in settled {
                let Some((ask, output)) = self.waiting.remove(&waiter) else { continue };
                if let Ok(grant) = outcome {
                    self.begin(&grant, ask, output, now);
                }
            }
        }
    }

    /// Runs until the judge has decided; it is asked once a second.
    fn verdict(mut self) -> Verdict {
        let (mut arrival, mut second) = (Nanos::ZERO, Nanos::from_secs(1));
        loop {
            let engines = self.engines.iter().filter_map(EngineModel::next_event);
            let failing = self.failing.iter().map(|(at, _)| *at);
            let now = engines.chain(failing).chain([arrival, second]).min().unwrap_or(arrival);
            if now == arrival {
                self.arrive(now);
                arrival = now + Duration::from_secs_f64(-self.random.f64().max(1e-12).ln() / RATE);
            }
            let mut events = Vec::new();
            for engine in &mut self.engines {
                engine.advance(now, &mut |_, event| events.push(event));
            }
            events.into_iter().for_each(|event| self.happen(event, now));
            let due: Vec<_> = self.failing.extract_if(.., |(at, _)| *at <= now).collect();
            due.into_iter().for_each(|(_, id)| self.fail(id, now));
            self.settle(now);
            if now == second {
                second = now + Duration::from_secs(1);
                let (_, counts) = self.gate.canary_counts().unwrap();
                match judge(&counts, now.since(Nanos::ZERO), JUDGE) {
                    Verdict::Wait => {}
                    verdict => return verdict,
                }
            }
        }
    }
}

/// Returns the number of wrong verdicts of fifty seeded runs, and prints them.
fn wrong_verdicts(side: Side) -> usize {
    let verdicts = (0..RUNS).map(|seed| Run::new(side, seed).verdict());
    let is_wrong = |verdict: &Verdict| match side {
        Side::Sound => *verdict != Verdict::Promote,
        Side::SlowerByHalf | Side::FailsATenth => !matches!(verdict, Verdict::Worse(_)),
    };
    let wrong: Vec<_> = verdicts.filter(is_wrong).collect();
    println!("{side:?}: {} of {RUNS} verdicts were wrong {wrong:?}", wrong.len());
    wrong.len()
}

#[test]
fn a_sound_side_is_promoted() {
    assert!(wrong_verdicts(Side::Sound) <= MOST_WRONG);
}

#[test]
fn a_side_that_is_slower_by_half_is_reverted() {
    assert!(wrong_verdicts(Side::SlowerByHalf) <= MOST_WRONG);
}

#[test]
fn a_side_that_fails_a_tenth_is_reverted() {
    assert!(wrong_verdicts(Side::FailsATenth) <= MOST_WRONG);
}
