//! Measures what a fleet can serve: the 1× of a scenario.
//!
//! One worker of each group serves the mix in a closed loop: each client asks again as soon as it
//! is answered. The best number of clients is found by trial. So "1×" is the result of the best
//! static limit, never idle, without a gateway in front. No policy that meets the SLO can be much
//! better, so it is a hard reference.
//!
//! Throughput is measured in *work*, in worker seconds: an output token counts as its part of a
//! full step, a prompt token as the time to read it. Answer lengths vary so much that requests per
//! second would need hours to settle; work per second needs a minute. A gateway that picked out the
//! short requests would also gain nothing by it.

use fastrand::Rng;
use hashbrown::HashMap;

use super::offered::OfferedCallers;
use super::scenario::{Scenario, WorkerGroup};
use crate::engine::{EngineModel, EngineSpec, FirstTokens, SequenceEvent};
use traffic_dam_core::clock::Nanos;

/// Capacity is a property of the scenario, not of a run: one seed for all.
const SEED: u64 = 0x1ca9;
/// Numbers of clients to try, as shares of the slots.
const SHARES: [f64; 15] = [1.1, 1.05, 1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05];
/// Requests to measure: per client, and in addition. The first third is warm-up and does not count.
const ROUNDS: (usize, usize) = (12, 150);
/// Number of draws for the mean work of a request.
const DRAWS: u32 = 20_000;

/// Cost of a prompt token and of an output token, in worker seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenPrice {
    pub(super) prompt: f64,
    pub(super) output: f64,
}

impl TokenPrice {
    pub(super) fn of(spec: &EngineSpec) -> Self {
        let slots = f64::from(spec.slots);
        let step = spec.token_time.as_secs_f64() + spec.token_time_per_seq.as_secs_f64() * slots;
        Self { prompt: 1.0 / f64::from(spec.prefill_rate), output: step / slots }
    }

    pub(super) fn work(&self, prompt: u64, output: u64) -> f64 {
        self.prompt * prompt as f64 + self.output * output as f64
    }
}

/// Maximum throughput of one worker of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Peak {
    /// Good work per second.
    pub work: f64,
    /// Good requests per second.
    pub rate: f64,
    /// Number of clients that reached it.
    pub clients: u32,
}

/// Shares of its resources that a worker still has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RemainingShares {
    /// Share of the KV cache.
    pub(super) kv: f64,
    /// Share of the slots.
    pub(super) slots: f64,
}

impl RemainingShares {
    pub(super) const WHOLE: Self = Self { kv: 1.0, slots: 1.0 };

    fn of(self, mut spec: EngineSpec) -> EngineSpec {
        spec.kv_tokens = ((spec.kv_tokens as f64 * self.kv) as u64).max(2);
        spec.slots = self.slots_of(spec.slots);
        spec
    }

    /// Returns its share of `slots`, at least 1.
    pub(super) fn slots_of(self, slots: u32) -> u32 {
        ((f64::from(slots) * self.slots) as u32).max(1)
    }
}

/// A worker's group, its shares of KV cache and slots, and the stretch of answers relative to the
/// mix. The last three are float bits, for equality.
type Conditions = (usize, u64, u64, u64);

/// Capacities of a scenario's workers, under all conditions in the scenario.
#[derive(Clone, Debug)]
pub struct Capacity {
    peaks: HashMap<Conditions, Peak>,
}

impl Capacity {
    /// Measures the workers of `scenario` in closed loops.
    #[must_use]
    pub fn measure(scenario: &Scenario) -> Self {
        let people = OfferedCallers::of(scenario);
        let mut conditions = vec![(RemainingShares::WHOLE, 1.0)];
        let (mut shares, mut stretch) = (RemainingShares::WHOLE, 1.0);
        for event in &scenario.events {
            shares.kv = event.kv.unwrap_or(shares.kv);
            shares.slots = event.slots.unwrap_or(shares.slots);
            stretch = event.output.unwrap_or(stretch);
            // The load depends on the healthy fleet, the figures on the current fleet.
            conditions.extend([(RemainingShares::WHOLE, stretch), (shares, stretch)]);
        }
        let mut peaks = HashMap::new();
        for (shares, stretch) in conditions {
            for (place, group) in scenario.workers.iter().enumerate() {
                peaks
                    .entry(key(place, shares, stretch))
                    .or_insert_with(|| peak(scenario, &people, group, shares, stretch));
            }
        }
        Self { peaks }
    }

    pub(super) fn peak(&self, group: usize, shares: RemainingShares, stretch: f64) -> Peak {
        let nothing = Peak { work: 0.0, rate: 0.0, clients: 0 };
        self.peaks.get(&key(group, shares, stretch)).copied().unwrap_or(nothing)
    }

    /// Returns the requests per second of 1×, with answers `stretch` times as long.
    #[must_use]
    pub fn rate(&self, scenario: &Scenario, stretch: f64) -> f64 {
        scenario.worker_groups().map(|group| self.peak(group, RemainingShares::WHOLE, stretch).rate).sum()
    }
}

fn key(group: usize, shares: RemainingShares, stretch: f64) -> Conditions {
    (group, shares.kv.to_bits(), shares.slots.to_bits(), stretch.to_bits())
}

fn peak(
    scenario: &Scenario,
    people: &OfferedCallers,
    group: &WorkerGroup,
    shares: RemainingShares,
    stretch: f64,
) -> Peak {
    let spec = shares.of(group.spec());
    let price = TokenPrice::of(&group.spec());
    let mut random = Rng::with_seed(SEED);
    let draws = (0..DRAWS).map(|_| people.draw(scenario, stretch, &mut random));
    let mean = draws.map(|wish| price.work(wish.prompt, wish.output())).sum::<f64>() / f64::from(DRAWS);
    let slots = f64::from(spec.slots);
    // One or two clients more than slots close the gap between an answer's end and the next prompt.
    let mut clients: Vec<u32> = SHARES.iter().map(|share| (slots * share).round().max(1.0) as u32).collect();
    clients.extend([spec.slots + 1, spec.slots + 2]);
    clients.sort_unstable();
    clients.dedup();
    let tried = clients.into_iter().map(|clients| {
        let work = closed_loop(scenario, people, (group, &spec), stretch, clients);
        Peak { work, rate: work / mean, clients }
    });
    let nothing = Peak { work: 0.0, rate: 0.0, clients: 0 };
    tried.fold(nothing, |best, next| if next.work > best.work { next } else { best })
}

struct LoopRequest {
    prompt: u64,
    at: Nanos,
    /// `true` if its first token met the TTFT SLO; `None` before that token.
    in_time: Option<bool>,
    unfinished: usize,
}

/// Returns the good work per second that `clients` get from a worker.
fn closed_loop(
    scenario: &Scenario,
    people: &OfferedCallers,
    (group, spec): (&WorkerGroup, &EngineSpec),
    stretch: f64,
    clients: u32,
) -> f64 {
    let price = TokenPrice::of(&group.spec());
    let mut engine = EngineModel::new(spec.clone());
    let mut random = Rng::with_seed(SEED);
    let mut first_tokens = FirstTokens::new(group.first_token.spread(), SEED);
    let mut all: Vec<LoopRequest> = Vec::new();
    let rounds = ROUNDS.0 * clients as usize + ROUNDS.1;
    let (mut sequences, mut done, mut good) = (0, 0, 0.0);
    let mut since = Nanos::ZERO;
    let mut now = Nanos::ZERO;
    let mut events = Vec::new();
    // Bounds the loop if no request of the mix fits.
    let mut hopeless = 0;
    while done < rounds && hopeless < rounds {
        while sequences < clients as usize && hopeless < rounds {
            let wish = people.draw(scenario, stretch, &mut random);
            let first_token = first_tokens.sample();
            let fits = wish.outputs.iter().enumerate().all(|(place, output)| {
                let id = (all.len() as u64) << 8 | place as u64;
                engine.submit_timed(id, wish.prompt, *output, first_token, now).is_ok()
            });
            if fits {
                let unfinished = wish.outputs.len();
                sequences += unfinished;
                all.push(LoopRequest { prompt: wish.prompt, at: now, in_time: None, unfinished });
            } else {
                hopeless += 1;
            }
        }
        let Some(at) = engine.next_event() else { break };
        now = at;
        engine.advance(now, &mut |at, event| events.push((at, event)));
        for (at, event) in events.drain(..) {
            let (SequenceEvent::Token { id, .. } | SequenceEvent::Finished { id }) = event else { continue };
            let Some(asked) = all.get_mut((id >> 8) as usize) else { continue };
            if matches!(event, SequenceEvent::Token { .. }) {
                // All requests here finish, so a request in time is good from its first token on.
                if asked.in_time.is_none() {
                    let in_time = at.since(asked.at) <= scenario.promise.slo(asked.prompt);
                    asked.in_time = Some(in_time);
                    good += if in_time { price.work(asked.prompt, 0) } else { 0.0 };
                }
                good += if asked.in_time == Some(true) { price.output } else { 0.0 };
                continue;
            }
            sequences -= 1;
            asked.unfinished -= 1;
            if asked.unfinished == 0 {
                done += 1;
                if done == rounds / 3 {
                    (since, good) = (at, 0.0);
                }
            }
        }
    }
    good / now.since(since).as_secs_f64().max(1e-9)
}
