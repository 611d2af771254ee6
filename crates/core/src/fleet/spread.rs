//! Tests which workers requests go to: a gate with the fleet's choice among many, in virtual time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fastrand::Rng;

use super::PICK;
use crate::clock::Nanos;
use crate::request::{Caller, Ending, RequestCost};
use crate::shed::settings::{GateSettings, LimitSource};
use crate::shed::{Gate, GateAnswer, PermitId, PermitRequest, PoolMember};

const SLOTS: u32 = 32;

fn settings() -> GateSettings {
    GateSettings { limit: LimitSource::Slots, fleet_factor: 1.0, ..GateSettings::default() }
}

fn members(workers: usize) -> Vec<PoolMember> {
    let member = |i| PoolMember {
        id: Arc::from(format!("w{i}")),
        slots: Some(SLOTS),
        kv_tokens: None,
        eligible: true,
        external: None,
        canary: false,
    };
    (0..workers).map(member).collect()
}

fn gate(workers: usize) -> Gate {
    let mut gate = Gate::new("p".into(), settings(), PICK, 7);
    gate.rebuild(settings(), members(workers), Nanos::ZERO);
    gate
}

fn ask(session: Option<u64>) -> PermitRequest {
    PermitRequest { session, ..PermitRequest::of(&Caller::new("key:a"), &RequestCost::path()) }
}

/// Clients of many conversations, whose answers take 5 s on average.
struct Load {
    gate: Gate,
    random: Rng,
    now: Nanos,
    ends: BTreeMap<(Nanos, PermitId), u64>,
    /// Last worker of each session.
    last: HashMap<u64, Arc<str>>,
}

impl Load {
    fn before(workers: usize) -> Self {
        Self {
            gate: gate(workers),
            random: Rng::with_seed(1),
            now: Nanos::ZERO,
            ends: BTreeMap::new(),
            last: HashMap::new(),
        }
    }

    fn exponential(&mut self, mean: f64) -> u64 {
        (-mean * (1.0 - self.random.f64()).ln()) as u64
    }

    /// Sends requests, one after another, that keep `busy` sequences in flight on average. Returns
    /// the share of served requests with a known session that went to its last worker.
    fn run(&mut self, requests: usize, busy: f64, sessions: u64) -> f64 {
        let (mut same, mut again) = (0_u32, 0_u32);
        for _ in 0..requests {
            let pause = self.exponential(5e9 / busy);
            self.now = Nanos(self.now.0 + pause);
            while let Some((&(at, permit), _)) =
                self.ends.first_key_value().filter(|((at, _), _)| *at <= self.now)
            {
                self.ends.pop_first();
                self.gate.release(permit, Ending::Complete, 0, at);
            }
            let session = self.random.u64(..sessions).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let Ok(GateAnswer::Granted(grant)) = self.gate.ask(&ask(Some(session)), self.now) else {
                continue;
            };
            let length = self.exponential(5e9);
            self.ends.insert((Nanos(self.now.0 + length), grant.permit), session);
            if let Some(before) = self.last.insert(session, Arc::clone(&grant.worker)) {
                again += 1;
                same += u32::from(before == grant.worker);
            }
        }
        f64::from(same) / f64::from(again.max(1))
    }
}

#[test]
fn sessions_stay_while_the_fleet_does_and_few_move_when_one_leaves() {
    for (workers, load, least) in [(8, 0.3, 0.99), (8, 0.5, 0.99), (8, 0.6, 0.95), (40, 0.5, 0.99)] {
        let mut clients = Load::before(workers);
        let busy = load * f64::from(SLOTS) * workers as f64;
        clients.run(10_000, busy, 2000);
        let stay = clients.run(20_000, busy, 2000);
        println!(
            "{workers} workers, {load} full: {:.2} % of requests go where their session was",
            stay * 100.0
        );
        assert!(stay >= least, "{stay}");
    }
    for workers in [4, 8, 40] {
        let mut clients = Load::before(workers);
        let busy = 0.3 * f64::from(SLOTS) * workers as f64;
        clients.run(10_000, busy, 1000);
        clients.gate.rebuild(settings(), members(workers - 1), clients.now);
        let before = clients.last.clone();
        clients.run(10_000, busy, 1000);
        let moved =
            before.iter().filter(|(session, worker)| clients.last.get(session) != Some(worker)).count();
        let moved = moved as f64 / before.len() as f64;
        let most = 1.0 / workers as f64 + 0.05;
        println!(
            "one of {workers} left: {:.1} % of sessions moved, {:.1} % allowed",
            moved * 100.0,
            most * 100.0
        );
        assert!(moved <= most, "{moved}");
    }
}

#[test]
fn among_many_a_session_goes_where_it_would_among_all_and_back_when_its_worker_is() {
    let mut gate = gate(100);
    let now = Nanos::ZERO;
    let at = |gate: &mut Gate, session| match gate.ask(&ask(Some(session)), now) {
        Ok(GateAnswer::Granted(grant)) => {
            gate.release(grant.permit, Ending::Complete, 0, now);
            grant.worker
        }
        other => panic!("not granted: {other:?}"),
    };
    let session_map: Vec<_> = (0..200).map(|session| at(&mut gate, session)).collect();
    // The first pass ranked every worker; in the second the session map knows it.
    assert_eq!(session_map, (0..200).map(|session| at(&mut gate, session)).collect::<Vec<_>>());
    let gone = Arc::clone(&session_map[0]);
    gate.weigh(&gone, 0.0, now);
    for (session, home) in (0..200).zip(&session_map) {
        let moved = at(&mut gate, session) != *home;
        assert_eq!(moved, *home == gone, "session {session}");
    }
    gate.weigh(&gone, 1.0, now);
    assert_eq!(session_map, (0..200).map(|session| at(&mut gate, session)).collect::<Vec<_>>());
}

#[test]
fn among_many_the_last_place_is_found_and_load_is_even() {
    let mut gate = gate(100);
    let mut permits = Vec::new();
    let mut most = 0;
    for count in 0..100 * SLOTS {
        let Ok(GateAnswer::Granted(grant)) = gate.ask(&ask(None), Nanos::ZERO) else {
            panic!("{count} of {} places were found", 100 * SLOTS)
        };
        permits.push(grant.permit);
        if count == 50 * SLOTS {
            most =
                gate.snapshot(Nanos::ZERO).workers.iter().map(|worker| worker.in_flight).max().unwrap_or(0);
        }
    }
    // Largest load of 100 workers at a mean of 16: random choice would give 27.
    assert!(most <= 20, "{most}");
    for permit in permits {
        gate.release(permit, Ending::Complete, 0, Nanos::ZERO);
    }
    assert_eq!(gate.snapshot(Nanos::ZERO).in_flight(), 0);
}
