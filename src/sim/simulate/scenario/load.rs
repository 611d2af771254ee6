//! What is offered to the dam of a scenario, and what happens on the way.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Span, Spread};
use crate::request::Class;

/// How much is offered.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OfferedLoad {
    /// As a multiple of what the fleet, when healthy, can serve of the mix that is offered.
    pub times: Option<f64>,
    /// In requests per second.
    pub rate: Option<f64>,
    /// How requests follow each other.
    pub arrivals: Arrivals,
    /// Share of clients that ask again after a refusal.
    pub retry_share: f64,
    /// How often they ask in all.
    pub attempts: u32,
    /// Share of them that wait as long as they were told; the others ask again after `impatience`.
    pub honour: f64,
    /// How long the others wait.
    pub impatience: Span,
    /// Who is told to wait longer than this does not come back at all.
    pub patience: Option<Span>,
}

impl Default for OfferedLoad {
    fn default() -> Self {
        Self {
            times: None,
            rate: None,
            arrivals: Arrivals::Poisson,
            retry_share: 0.0,
            attempts: 3,
            honour: 1.0,
            impatience: Span::millis(500),
            patience: None,
        }
    }
}

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Independent of each other.
    Poisson,
    /// At equal distances.
    Regular,
}

/// What requests are like.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Requests {
    /// Tokens of the prompt.
    pub prompt: Spread,
    /// Tokens of the answer, where `max_tokens` does not cut it.
    pub output: Spread,
    /// The client's bound on them.
    pub max_tokens: Option<u32>,
    /// Share of the answers that are streamed.
    pub streamed: f64,
    /// Answers that are wanted at once (`n`) by the share below.
    pub n: u32,
    /// Share of the requests that want `n` answers; the others want one.
    pub n_share: f64,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            prompt: Spread::log_normal(200.0, 0.8),
            output: Spread::log_normal(150.0, 0.8),
            max_tokens: Some(1024),
            streamed: 1.0,
            n: 4,
            n_share: 0.0,
        }
    }
}

/// Equal callers.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EqualCallers {
    /// The first part of their names.
    pub name: String,
    /// How many.
    pub count: u32,
    /// Their share of the load, all together; of what the others leave when not said.
    pub share: Option<f64>,
    /// Their weight in the queue.
    pub weight: u32,
    /// Their class.
    #[serde(deserialize_with = "class")]
    pub class: Class,
    /// What their requests are like, when not as those of the others.
    pub requests: Option<Requests>,
}

impl Default for EqualCallers {
    fn default() -> Self {
        Self {
            name: "caller".to_owned(),
            count: 20,
            share: None,
            weight: 1,
            class: Class::Interactive,
            requests: None,
        }
    }
}

fn class<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Class, D::Error> {
    let name = String::deserialize(deserializer)?;
    Class::parse(&name).ok_or_else(|| {
        serde::de::Error::custom(format_args!(
            "`{name}` is no class: must be `batch`, `interactive` or `critical`"
        ))
    })
}

/// Something that happens at a moment; several things may happen at once.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioEvent {
    /// When.
    pub at: Span,
    /// From now on so much is offered, as in [`OfferedLoad::times`].
    pub times: Option<f64>,
    /// From now on so much is offered, as in [`OfferedLoad::rate`].
    pub rate: Option<f64>,
    /// From now on these groups of callers have these shares of the load, as in [`EqualCallers::share`].
    #[serde(default)]
    pub shares: BTreeMap<String, f64>,
    /// From now on answers are so many times as long as the mix says.
    pub output: Option<f64>,
    /// From now on every worker has this share of its KV cache, and the dam is not told.
    pub kv: Option<f64>,
    /// This worker dies: its connections break, and new ones are refused.
    pub kill: Option<String>,
    /// This worker accepts requests from now on and answers none.
    pub zombie: Option<String>,
    /// This worker is back, empty and healthy.
    pub revive: Option<String>,
    /// Something stands still for a while.
    pub stall: Option<StallEvent>,
    /// From now on every worker has this share of its slots, and the dam is not told: the youngest
    /// sequences wait again.
    pub slots: Option<f64>,
    /// From now on everything that a worker sends takes so much longer to arrive.
    pub network: Option<Span>,
    /// One more request, of the first caller.
    pub request: Option<Extra>,
    /// Whether the time to recover is counted from here; else from the last event that is no request.
    #[serde(default)]
    pub recover: bool,
}

/// Something stands still for a while and then goes on as if nothing had been.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StallEvent {
    /// A worker by its name, or `workers`, `dams`, or `clock`: that one jumps ahead instead.
    pub of: String,
    /// For how long.
    pub length: Span,
    /// It happens again after so long, until the end of the scenario.
    pub every: Option<Span>,
}

/// One more request.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extra {
    /// Tokens of its prompt.
    pub prompt: u32,
    /// Tokens of its answer.
    #[serde(default = "default_extra_output")]
    pub output: u32,
}

fn default_extra_output() -> u32 {
    100
}
