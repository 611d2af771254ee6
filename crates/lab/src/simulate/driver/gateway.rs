//! One simulated gateway: the production gate and its surroundings.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::engine::BLOCK_TOKENS;
use crate::simulate::Policy;
use crate::simulate::offered::{OfferedCaller, OfferedRequest};
use crate::simulate::scenario::Scenario;
use traffic_dam_core::clock::Nanos;
use traffic_dam_core::estimate::Estimator;
use traffic_dam_core::fleet;
use traffic_dam_core::refusal::Refusal;
use traffic_dam_core::request::PromptPrefix;
use traffic_dam_core::shed::settings::{GateSettings, LimitSource, PrefixSettings};
use traffic_dam_core::shed::{
    CallerTokens, Displaced, Gate, LEAST_BLOCKS, PermitId, PermitRequest, PoolMember, WaitOutcome, WaiterId,
};

/// The only model.
const MODEL: Option<&str> = Some("sim");
/// Body bytes per prompt token.
const BYTES_PER_TOKEN: u64 = 4;
/// Retry budget in ten seconds: a minimum, and a share of the requests, as in the gateway.
const RETRIES: (u64, f64) = (10, 0.1);

#[derive(Debug)]
pub(super) struct SimulatedGateway {
    /// `None`: every request is admitted.
    pub(super) gate: Option<Gate>,
    estimator: Estimator,
    /// Calls that wait, and calls with a permit that the gate may take back.
    pub(super) waiting: HashMap<WaiterId, usize>,
    pub(super) yielding: HashMap<PermitId, usize>,
    /// Permits taken back before their owners heard of them, and what the owners got instead.
    pub(super) lost: HashMap<PermitId, Result<(WaiterId, Nanos), Refusal>>,
    /// Decisions of the gate that are not delivered yet.
    decided: VecDeque<GateDecision>,
    requests: RecentEvents,
    retries: RecentEvents,
    /// What it has told the other gateways.
    told: Vec<CallerTokens>,
}

/// A decision of the gate about one request.
#[derive(Debug)]
pub(super) enum GateDecision {
    /// It lost its permit.
    Displaced(Displaced),
    /// Its wait is over.
    Settled(WaitOutcome),
}

impl SimulatedGateway {
    /// Returns the first decision that is not delivered yet.
    pub(super) fn next_decision(&mut self) -> Option<GateDecision> {
        let gate = self.gate.as_mut()?;
        self.decided.extend(gate.take_displaced().map(GateDecision::Displaced));
        self.decided.extend(gate.take_outcomes().map(GateDecision::Settled));
        self.decided.pop_front()
    }

    pub(super) fn new(scenario: &Scenario, policy: Policy, seed: u64) -> Self {
        let gate = (policy != Policy::None).then(|| gate(scenario, policy, seed));
        Self {
            gate,
            estimator: Estimator::new(),
            waiting: HashMap::new(),
            yielding: HashMap::new(),
            lost: HashMap::new(),
            decided: VecDeque::new(),
            requests: RecentEvents::default(),
            retries: RecentEvents::default(),
            told: Vec::new(),
        }
    }

    /// Tells what was charged to callers since the last call; returns what that call told.
    pub(super) fn tell(&mut self) -> Vec<CallerTokens> {
        let charged = self.gate.as_mut().map(Gate::tokens_to_tell).unwrap_or_default();
        std::mem::replace(&mut self.told, charged)
    }

    /// Reports to the gate a time in which the gateway itself was stalled.
    pub(super) fn lagged(&mut self, from: Nanos, to: Nanos) {
        if let Some(gate) = &mut self.gate {
            gate.lagged(from, to, to.since(from));
        }
    }

    pub(super) fn ask(&mut self, person: &OfferedCaller, wish: &OfferedRequest, now: Nanos) -> PermitRequest {
        self.requests.add(now);
        let answers = wish.outputs.len() as u32;
        let expected = self.estimator.output(&person.name, MODEL, wish.max_tokens.map(u64::from));
        PermitRequest {
            caller: Arc::clone(&person.name),
            weight: person.weight,
            class: person.class,
            prompt_tokens: wish.prompt,
            expected_output: expected * u64::from(answers),
            sequences: answers,
            stream: wish.stream,
            repeatable: true,
            body_bytes: wish.prompt * BYTES_PER_TOKEN,
            session: None,
            prefix: prefix(wish),
            deadline: None,
            worker: None,
            external: false,
        }
    }

    /// Learns from a complete answer of `seen` tokens in all.
    pub(super) fn learn(&self, person: &OfferedCaller, wish: &OfferedRequest, seen: u64) {
        self.estimator.learn_output(&person.name, MODEL, seen / wish.outputs.len() as u64);
    }

    /// Returns `true` if the retry budget allows one more retry.
    pub(super) fn may_retry(&mut self, now: Nanos) -> bool {
        let allowed = RETRIES.0.max((self.requests.count(now) as f64 * RETRIES.1) as u64);
        self.retries.count(now) < allowed
    }

    /// Counts a retry.
    pub(super) fn retried(&mut self, now: Nanos) {
        self.retries.add(now);
    }
}

/// Returns the prefix that the gateway would compute of the prompt's text.
fn prefix(wish: &OfferedRequest) -> Option<Arc<PromptPrefix>> {
    let whole = usize::try_from(wish.prompt / BLOCK_TOKENS).unwrap_or(usize::MAX);
    let blocks = wish.blocks.get(..whole).filter(|blocks| blocks.len() >= LEAST_BLOCKS)?;
    Some(Arc::new(PromptPrefix { blocks: blocks.into(), bytes: wish.prompt * BYTES_PER_TOKEN }))
}

fn gate(scenario: &Scenario, policy: Policy, seed: u64) -> Gate {
    let defaults = GateSettings::default();
    let (limit, law) = match policy {
        Policy::Fixed(limit) => (LimitSource::Fixed(limit), defaults.law),
        Policy::None | Policy::Slots => (LimitSource::Slots, defaults.law),
        Policy::Algorithm(law) => (LimitSource::Adaptive, law),
    };
    let promise = &scenario.promise;
    let settings = GateSettings {
        limit,
        law,
        queue_length: scenario.dam.queue_length,
        queue_wait: scenario.dam.queue_wait.map_or(promise.ttft_slo.0 / 4, |wait| wait.0),
        reserve: [0.0, scenario.dam.reserve_interactive, scenario.dam.reserve_critical],
        ttft_slo: promise.ttft_slo.0,
        ttft_per_1k: promise.per_1k_prompt_tokens.0,
        itl_slo: promise.itl_slo.0,
        fleet_factor: scenario.dam.fleet_factor,
        gateways: scenario.dam.count,
        prefix: scenario.dam.prefix.then(PrefixSettings::default),
        ..defaults
    };
    let members = scenario.worker_groups().enumerate().map(|(place, group)| {
        let group = &scenario.workers[group];
        let is_reported = group.told || policy == Policy::Slots;
        PoolMember {
            id: Scenario::worker_name(place).into(),
            slots: is_reported.then_some(group.slots),
            kv_tokens: is_reported.then_some(group.kv_tokens),
            eligible: true,
            external: None,
            canary: false,
        }
    });
    let mut gate = Gate::new("simulated".into(), settings.clone(), fleet::PICK, seed);
    gate.rebuild(settings, members.collect(), Nanos::ZERO);
    gate
}

/// Events of the last ten seconds.
#[derive(Debug, Default)]
struct RecentEvents {
    counts: [u64; 10],
    second: u64,
}

impl RecentEvents {
    fn turn(&mut self, now: Nanos) {
        let second = now.0 / 1_000_000_000;
        let length = self.counts.len() as u64;
        for passed in self.second + 1..=second.min(self.second + length) {
            self.counts[(passed % length) as usize] = 0;
        }
        self.second = second;
    }

    fn add(&mut self, now: Nanos) {
        self.turn(now);
        self.counts[(self.second % self.counts.len() as u64) as usize] += 1;
    }

    fn count(&mut self, now: Nanos) -> u64 {
        self.turn(now);
        self.counts.iter().sum()
    }
}
