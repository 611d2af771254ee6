//! What is to be simulated, as a file says it.
//!
//! Everything has a default, so that a file names only what it is about. Unknown keys are faults: a misspelt setting
//! that is silently ignored would be believed to have been simulated.

mod amount;
mod check;
mod expect;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use amount::{Shape, Span, Spread};
pub use expect::Bound;

use crate::request::Class;
use crate::shed::settings::GateSettings;
use crate::sim::physics::Spec;

/// A scenario: a fleet, a promise, a dam, and what is offered to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name in tables; the file's when it has none.
    #[serde(default)]
    pub name: String,
    /// One line that says what it shows.
    #[serde(default)]
    pub about: String,
    /// For how long load is offered.
    #[serde(default = "default_duration")]
    pub duration: Span,
    /// What happens before is not counted; `0s` for a cold start.
    #[serde(default = "default_warm_up")]
    pub warm_up: Span,
    /// What users are promised.
    #[serde(default)]
    pub promise: Promise,
    /// The fleet, in groups of equal workers, named `w1`, `w2`, … throughout.
    #[serde(default = "default_workers")]
    pub workers: Vec<Group>,
    /// What stands before it.
    #[serde(default)]
    pub dam: Dam,
    /// How much is offered.
    #[serde(default)]
    pub load: Load,
    /// What a request is like.
    #[serde(default)]
    pub requests: Requests,
    /// Who asks, in groups of equal callers.
    #[serde(default = "default_callers")]
    pub callers: Vec<Callers>,
    /// What happens on the way.
    #[serde(default)]
    pub events: Vec<Event>,
    /// What must come out.
    #[serde(default)]
    pub expect: BTreeMap<String, Bound>,
}

fn default_duration() -> Span {
    Span::secs(60)
}

fn default_warm_up() -> Span {
    Span::secs(15)
}

fn default_workers() -> Vec<Group> {
    vec![Group::default()]
}

fn default_callers() -> Vec<Callers> {
    vec![Callers::default()]
}

/// What users are promised.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Promise {
    /// The time to the first token.
    pub ttft_slo: Span,
    /// What it grows by with every 1000 tokens of prompt.
    pub per_1k_prompt_tokens: Span,
    /// From one token to the next.
    pub itl_slo: Span,
}

impl Default for Promise {
    fn default() -> Self {
        Self { ttft_slo: Span::secs(1), per_1k_prompt_tokens: Span::millis(0), itl_slo: Span::millis(100) }
    }
}

/// Equal workers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Group {
    /// How many.
    pub count: u32,
    /// Requests one decodes at once.
    pub slots: u32,
    /// Tokens its KV cache holds.
    pub kv_tokens: u64,
    /// Prompt tokens it reads per second.
    pub prefill_rate: u32,
    /// What every request takes before it reaches the batch.
    pub prefill_base: Span,
    /// What a step takes, and so a token.
    pub token_time: Span,
    /// What each sequence in the batch adds to a step.
    pub token_time_per_seq: Span,
    /// Tokens in a step at the most.
    pub step_tokens: u32,
    /// Whether the dam knows `slots` and `kv_tokens`.
    pub told: bool,
}

impl Default for Group {
    fn default() -> Self {
        let spec = Spec::default();
        Self {
            count: 1,
            slots: spec.slots,
            kv_tokens: spec.kv_tokens,
            prefill_rate: spec.prefill_rate,
            prefill_base: Span(spec.prefill_base),
            token_time: Span(spec.token_time),
            token_time_per_seq: Span(spec.token_time_per_seq),
            step_tokens: spec.step_tokens,
            told: true,
        }
    }
}

impl Group {
    /// The physics of one of them.
    #[must_use]
    pub fn spec(&self) -> Spec {
        Spec {
            slots: self.slots,
            kv_tokens: self.kv_tokens,
            prefill_rate: self.prefill_rate,
            prefill_base: self.prefill_base.0,
            token_time: self.token_time.0,
            token_time_per_seq: self.token_time_per_seq.0,
            step_tokens: self.step_tokens,
        }
    }
}

/// The settings of the dam; what is not said is as in the gateway's own configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dam {
    /// Independent dams before the same fleet, each with its share of the load.
    pub count: u32,
    /// How the limit is found, when the command line does not say: a law, `slots`, `none`, or a number.
    pub law: super::Policy,
    /// What several workers do together, relative to the sum of what each does alone.
    pub fleet_factor: f64,
    /// The most requests that wait.
    pub queue_length: usize,
    /// The longest wait; a quarter of the promise.
    pub queue_wait: Option<Span>,
    /// Share of the limit kept for `critical`.
    pub reserve_critical: f64,
    /// Share of the limit kept for `interactive` and above.
    pub reserve_interactive: f64,
    /// How long to wait for a first token.
    pub first_token: Span,
    /// How long between two tokens.
    pub idle: Span,
    /// How long for the whole answer.
    pub total: Span,
}

impl Default for Dam {
    fn default() -> Self {
        let gate = GateSettings::default();
        Self {
            count: 1,
            law: super::Policy::default(),
            fleet_factor: gate.fleet_factor,
            queue_length: gate.queue_length,
            queue_wait: None,
            reserve_critical: 0.0,
            reserve_interactive: 0.0,
            first_token: Span::secs(30),
            idle: Span::secs(60),
            total: Span::secs(600),
        }
    }
}

/// How much is offered.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Load {
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
}

impl Default for Load {
    fn default() -> Self {
        Self {
            times: None,
            rate: None,
            arrivals: Arrivals::Poisson,
            retry_share: 0.0,
            attempts: 3,
            honour: 1.0,
            impatience: Span::millis(500),
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
pub struct Callers {
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

impl Default for Callers {
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
pub struct Event {
    /// When.
    pub at: Span,
    /// From now on so much is offered, as in [`Load::times`].
    pub times: Option<f64>,
    /// From now on so much is offered, as in [`Load::rate`].
    pub rate: Option<f64>,
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
    /// One more request, of the first caller.
    pub request: Option<Extra>,
    /// Whether the time to recover is counted from here; else from the last event that is no request.
    #[serde(default)]
    pub recover: bool,
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

/// Why a scenario cannot be simulated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file is no scenario: where, and what would be right.
    #[error("{0}")]
    Syntax(String),
    /// Values that cannot be meant, each with its field.
    #[error("{}", .0.join("\n"))]
    Values(Vec<String>),
}

impl Scenario {
    /// Reads a scenario from the text of a file. `name` is used when the file gives none.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self, Fault> {
        let mut scenario: Self = toml::from_str(text).map_err(|error| Fault::Syntax(error.to_string()))?;
        if scenario.name.is_empty() {
            name.clone_into(&mut scenario.name);
        }
        scenario.events.sort_by_key(|event| event.at);
        let faults = scenario.check();
        if faults.is_empty() { Ok(scenario) } else { Err(Fault::Values(faults)) }
    }

    /// How many workers there are.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        self.workers.iter().map(|group| group.count as usize).sum()
    }

    /// The group of each worker, in the order of their names.
    pub fn worker_groups(&self) -> impl Iterator<Item = usize> + '_ {
        self.workers.iter().enumerate().flat_map(|(group, workers)| (0..workers.count).map(move |_| group))
    }

    /// The place of the worker of that name: `w1` is 0.
    #[must_use]
    pub fn worker_place(&self, name: &str) -> Option<usize> {
        let number: usize = name.strip_prefix('w')?.parse().ok()?;
        (1..=self.worker_count()).contains(&number).then(|| number - 1)
    }
}
