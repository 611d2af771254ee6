//! The load that a scenario offers, and its events.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{ScenarioDuration, Sessions, Spread};
use traffic_dam_core::request::Class;

/// Offered load.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OfferedLoad {
    /// Load as a multiple of what the healthy fleet can serve of the offered mix.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub times: Option<f64>,
    /// Load in requests per second.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub rate: Option<f64>,
    /// Distribution of the gaps between requests.
    pub arrivals: Arrivals,
    /// Share of clients that ask again after a refusal.
    #[schemars(range(min = 0, max = 1))]
    pub(crate) retry_share: f64,
    /// Number of times they ask in all.
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
    /// Share of them that wait for `Retry-After`; the others ask again after `impatience`.
    #[schemars(range(min = 0, max = 1))]
    pub(crate) honour: f64,
    /// Wait of the others.
    pub(crate) impatience: ScenarioDuration,
    /// Clients whose `Retry-After` is longer than this do not come back.
    pub patience: Option<ScenarioDuration>,
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
            impatience: ScenarioDuration::millis(500),
            patience: None,
        }
    }
}

/// Distribution of the gaps between requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Exponential gaps: arrivals are independent.
    Poisson,
    /// Equal gaps.
    Regular,
}

/// Properties of requests.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RequestShape {
    /// Tokens of the prompt.
    pub prompt: Spread,
    /// Tokens of the answer, before `max_tokens` cuts it.
    pub output: Spread,
    /// Limit on output tokens that the client sends.
    #[schemars(range(min = 1))]
    pub max_tokens: Option<u32>,
    /// Share of the answers that are streamed.
    #[schemars(range(min = 0, max = 1))]
    pub streamed: f64,
    /// Number of answers (`n`) of the requests in `n_share`.
    #[schemars(range(min = 1, max = 128))]
    pub n: u32,
    /// Share of requests for `n` answers; the others want one.
    #[schemars(range(min = 0, max = 1))]
    pub(crate) n_share: f64,
    /// Conversations; without it each request stands alone.
    pub session: Option<Sessions>,
}

impl Default for RequestShape {
    fn default() -> Self {
        Self {
            prompt: Spread::log_normal(200.0, 0.8),
            output: Spread::log_normal(150.0, 0.8),
            max_tokens: Some(1024),
            streamed: 1.0,
            n: 4,
            n_share: 0.0,
            session: None,
        }
    }
}

/// A group of equal callers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EqualCallers {
    /// Prefix of their names.
    pub name: String,
    /// Number of callers.
    #[schemars(range(min = 1, max = 10_000))]
    pub count: u32,
    /// Share of the load of all of them together; by default an even part of the rest.
    #[schemars(range(min = 0, max = 1))]
    pub share: Option<f64>,
    /// Weight in the fair queue.
    #[schemars(range(min = 1))]
    pub weight: u32,
    /// Priority class.
    pub class: Class,
    /// Number of the only gateway that they use, from 1; by default they use all.
    #[schemars(range(min = 1, max = 64))]
    pub gateway: Option<u32>,
    /// Properties of their requests, if they differ from the scenario's.
    pub requests: Option<RequestShape>,
}

impl Default for EqualCallers {
    fn default() -> Self {
        Self {
            name: "caller".to_owned(),
            count: 20,
            share: None,
            weight: 1,
            class: Class::Interactive,
            gateway: None,
            requests: None,
        }
    }
}

/// An event at one moment; several things may happen at once.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScenarioEvent {
    /// Time since the start.
    pub at: ScenarioDuration,
    /// New offered load, as [`OfferedLoad::times`].
    #[schemars(range(min = 0, max = 1_000_000))]
    pub times: Option<f64>,
    /// New offered load, as [`OfferedLoad::rate`].
    #[schemars(range(min = 0, max = 1_000_000))]
    pub rate: Option<f64>,
    /// New shares of the load by group of callers, as [`EqualCallers::share`].
    #[serde(default)]
    pub shares: BTreeMap<String, f64>,
    /// New factor of answer lengths, relative to the mix.
    #[schemars(range(min = 0.001, max = 1000))]
    pub output: Option<f64>,
    /// New share of its KV cache that every worker has, unknown to the gateway.
    #[schemars(range(min = 0.001, max = 1))]
    pub kv: Option<f64>,
    /// Worker that dies: its connections break, and new ones are refused.
    pub kill: Option<String>,
    /// Worker that accepts requests from now on and answers none.
    pub(crate) zombie: Option<String>,
    /// Worker that is back, empty and healthy.
    pub revive: Option<String>,
    /// A pause of workers or gateways, or a clock jump.
    pub stall: Option<StallEvent>,
    /// New share of its slots that every worker has, unknown to the gateway. The youngest sequences
    /// return to the queue.
    #[schemars(range(min = 0.001, max = 1))]
    pub slots: Option<f64>,
    /// New network delay of everything that a worker sends.
    pub network: Option<ScenarioDuration>,
    /// An extra request of the first caller.
    pub request: Option<ExtraRequest>,
    /// `true` to measure recovery from here; otherwise from the last event other than a request.
    #[serde(default)]
    pub(crate) recover: bool,
}

/// A pause after which work goes on as before.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StallEvent {
    /// A worker's name, `workers`, `dams` (the gateways), or `clock`: the clock jumps ahead instead.
    pub of: String,
    /// Length of the pause or jump.
    pub length: ScenarioDuration,
    /// Period of repetition, until the end of the scenario.
    pub(crate) every: Option<ScenarioDuration>,
}

/// An extra request.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtraRequest {
    /// Tokens of its prompt.
    pub prompt: u32,
    /// Tokens of its answer.
    #[serde(default = "default_extra_output")]
    pub output: u32,
}

fn default_extra_output() -> u32 {
    100
}
