//! Generates the offered requests.
//!
//! Every draw depends only on the seed and never on the gateway. So two limit algorithms with the
//! same seed get the same requests at the same times.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use smallvec::{SmallVec, smallvec};

use crate::draw::{above_zero, normal_of};

use super::conversation::{Conversation, ConversationTurn};
use super::scenario::{RequestShape, Scenario, Spread, SpreadShape};
use traffic_dam_core::clock::Nanos;
use traffic_dam_core::request::Class;

#[derive(Clone, Debug)]
pub(super) struct OfferedCaller {
    pub(super) name: Arc<str>,
    /// Index into the scenario's groups of callers.
    group: usize,
    pub(super) class: Class,
    pub(super) weight: u32,
    /// The only gateway that it uses; `None` for any.
    pub(super) gateway: Option<usize>,
    /// Share of the load.
    pub(super) share: f64,
    pub(super) requests: RequestShape,
}

#[derive(Clone, Debug)]
pub(super) struct OfferedRequest {
    pub(super) person: usize,
    pub(super) prompt: u64,
    pub(super) outputs: SmallVec<[u32; 1]>,
    pub(super) max_tokens: Option<u32>,
    pub(super) stream: bool,
    /// `true` if its client asks again after a refusal.
    pub(super) returns: bool,
    /// `true` if the client then waits for `Retry-After`.
    pub(super) patient: bool,
    /// Ids of the blocks of its text, answer included; none if it has nothing in common with others.
    pub(super) blocks: Arc<[u64]>,
    /// The conversation that it is a turn of.
    pub(super) conversation: Option<Conversation>,
}

impl OfferedRequest {
    pub(super) fn output(&self) -> u64 {
        self.outputs.iter().map(|output| u64::from(*output)).sum()
    }

    /// Returns the next turn of its conversation, and the time until it comes; `None` if there is
    /// none.
    pub(super) fn next_turn(&self, shape: &RequestShape, stretch: f64) -> Option<(Self, Nanos)> {
        let ConversationTurn { conversation, prompt, output, pause } =
            self.conversation.as_ref()?.next(self.prompt + self.output(), shape, stretch)?;
        let blocks = conversation.blocks(prompt + u64::from(output));
        let conversation = Some(conversation);
        Some((Self { prompt, outputs: smallvec![output], blocks, conversation, ..self.clone() }, pause))
    }
}

/// All callers of a scenario, with cumulative shares for drawing.
#[derive(Clone, Debug)]
pub(super) struct OfferedCallers {
    pub(super) all: Vec<OfferedCaller>,
    /// Share of the load that each group claims; the other callers split the rest evenly.
    claimed: Vec<Option<f64>>,
    /// `sums[i]` is the share of the first `i + 1`.
    sums: Vec<f64>,
}

impl OfferedCallers {
    pub(super) fn of(scenario: &Scenario) -> Self {
        let mut all = Vec::new();
        for (group, callers) in scenario.callers.iter().enumerate() {
            for number in 1..=callers.count {
                all.push(OfferedCaller {
                    name: if callers.count == 1 {
                        callers.name.as_str().into()
                    } else {
                        format!("{}-{number}", callers.name).into()
                    },
                    group,
                    class: callers.class,
                    weight: callers.weight,
                    gateway: callers.gateway.map(|number| number as usize - 1),
                    share: 0.0,
                    requests: callers.requests.unwrap_or(scenario.requests),
                });
            }
        }
        let claimed = scenario.callers.iter().map(|callers| callers.share).collect();
        let mut people = Self { all, claimed, sums: Vec::new() };
        people.divide();
        people
    }

    /// Sets the shares of the groups with these names.
    pub(super) fn claim(&mut self, scenario: &Scenario, shares: &BTreeMap<String, f64>) {
        for (claimed, callers) in self.claimed.iter_mut().zip(&scenario.callers) {
            *claimed = shares.get(&callers.name).copied().or(*claimed);
        }
        self.divide();
    }

    fn divide(&mut self) {
        let said: f64 = self.claimed.iter().flatten().sum();
        let mut counts = vec![0_u32; self.claimed.len()];
        self.all.iter().for_each(|person| counts[person.group] += 1);
        let silent = counts.iter().zip(&self.claimed).filter(|(_, claimed)| claimed.is_none());
        let silent: u32 = silent.map(|(count, _)| count).sum();
        let rest = (1.0 - said).max(0.0) / f64::from(silent.max(1));
        for person in &mut self.all {
            let (claimed, count) = (self.claimed[person.group], counts[person.group]);
            person.share = claimed.map_or(rest, |share| share / f64::from(count));
        }
        let mut sum = 0.0;
        let sums = self.all.iter().map(|person| {
            sum += person.share;
            sum
        });
        self.sums = sums.collect();
    }

    /// Draws the next request, with answers `stretch` times as long as in the mix.
    pub(super) fn draw(&self, scenario: &Scenario, stretch: f64, random: &mut Rng) -> OfferedRequest {
        let total = self.sums.last().copied().unwrap_or(1.0);
        let drawn = random.f64() * total;
        let person = self.sums.partition_point(|sum| *sum <= drawn).min(self.all.len() - 1);
        let requests = &self.all[person].requests;
        let answers = if random.f64() < requests.n_share { requests.n } else { 1 };
        let prompt = u64::from(requests.prompt.draw(1.0, random));
        let most = requests.max_tokens.unwrap_or(u32::MAX);
        let mut drawn = OfferedRequest {
            person,
            prompt,
            outputs: (0..answers).map(|_| requests.output.draw(stretch, random).min(most)).collect(),
            max_tokens: requests.max_tokens,
            stream: random.f64() < requests.streamed,
            returns: random.f64() < scenario.load.retry_share,
            patient: random.f64() < scenario.load.honour,
            blocks: [].into(),
            conversation: None,
        };
        if let Some(sessions) = &requests.session {
            let conversation = Conversation::begin(sessions, random);
            drawn.prompt += Conversation::head(sessions);
            drawn.blocks = conversation.blocks(drawn.prompt + drawn.output());
            drawn.conversation = Some(conversation);
        }
        drawn
    }
}

impl Spread {
    /// Draws a length, `stretch` times as long; at least 1.
    pub(super) fn draw(&self, stretch: f64, random: &mut Rng) -> u32 {
        // Drawn for all shapes, so that another shape does not change later draws.
        let above_zero = above_zero(random);
        let mean = self.mean * stretch;
        let length = match self.shape {
            SpreadShape::Fixed => mean,
            SpreadShape::LogNormal(sigma) => {
                (mean.ln() - sigma * sigma / 2.0 + sigma * normal_of(above_zero, random)).exp()
            }
            SpreadShape::Pareto(exponent) => {
                mean * (exponent - 1.0) / exponent / above_zero.powf(1.0 / exponent)
            }
        };
        // The cast saturates at `u32::MAX`.
        (length.round() as u32).clamp(1, self.max)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mean(spread: Spread) -> f64 {
        let mut random = Rng::with_seed(7);
        (0..100_000).map(|_| f64::from(spread.draw(1.0, &mut random))).sum::<f64>() / 100_000.0
    }

    #[test]
    fn spreads_have_the_mean_they_are_given() {
        assert!((mean(Spread::fixed(50)) - 50.0).abs() < 1e-9);
        assert!((mean(Spread::log_normal(200.0, 0.8)) - 200.0).abs() < 4.0);
        let pareto = Spread { mean: 200.0, shape: SpreadShape::Pareto(2.5), max: 1_000_000 };
        assert!((mean(pareto) - 200.0).abs() < 6.0, "{}", mean(pareto));
    }

    #[test]
    fn shares_that_nobody_claims_are_split_evenly() {
        let callers = json!([{ "name": "heavy", "count": 1, "share": 0.7 }, { "count": 3 }]);
        let scenario: Scenario = serde_json::from_value(json!({ "callers": callers })).unwrap();
        let people = OfferedCallers::of(&scenario);
        let shares: Vec<f64> = people.all.iter().map(|person| person.share).collect();
        assert_eq!(&*people.all[0].name, "heavy");
        assert!(shares.iter().zip([0.7, 0.1, 0.1, 0.1]).all(|(share, wanted)| (share - wanted).abs() < 1e-9));
    }

    #[test]
    fn a_share_that_is_claimed_later_is_taken_from_the_others() {
        let callers = json!([{ "name": "heavy", "count": 1 }, { "name": "light", "count": 3 }]);
        let scenario: Scenario = serde_json::from_value(json!({ "callers": callers })).unwrap();
        let mut people = OfferedCallers::of(&scenario);
        assert!(people.all.iter().all(|person| (person.share - 0.25).abs() < 1e-9));
        people.claim(&scenario, &BTreeMap::from([("heavy".to_owned(), 0.7)]));
        let shares: Vec<f64> = people.all.iter().map(|person| person.share).collect();
        assert!(shares.iter().zip([0.7, 0.1, 0.1, 0.1]).all(|(share, wanted)| (share - wanted).abs() < 1e-9));
    }
}
