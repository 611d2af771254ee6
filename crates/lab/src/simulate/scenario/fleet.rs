//! The fleet of a scenario, its SLOs, and the gateway in front of it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::ScenarioDuration;
use crate::engine::{EngineSpec, FirstTokenSpread};
use crate::simulate::Policy;
use traffic_dam_core::shed::settings::GateSettings;

/// Latency SLOs.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScenarioSlo {
    /// TTFT SLO.
    pub ttft_slo: ScenarioDuration,
    /// Increase of the TTFT SLO per 1000 prompt tokens.
    pub per_1k_prompt_tokens: ScenarioDuration,
    /// SLO for the time between two tokens.
    pub itl_slo: ScenarioDuration,
}

impl Default for ScenarioSlo {
    fn default() -> Self {
        Self {
            ttft_slo: ScenarioDuration::secs(1),
            per_1k_prompt_tokens: ScenarioDuration::millis(0),
            itl_slo: ScenarioDuration::millis(100),
        }
    }
}

impl ScenarioSlo {
    pub(in crate::simulate) fn slo(&self, prompt: u64) -> Duration {
        let (ttft_slo, ttft_per_1k) = (self.ttft_slo.0, self.per_1k_prompt_tokens.0);
        GateSettings { ttft_slo, ttft_per_1k, ..GateSettings::default() }.slo(prompt)
    }
}

/// A group of equal workers.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerGroup {
    /// Number of workers.
    pub count: u32,
    /// Sequences that a worker decodes at once.
    #[schemars(range(min = 1, max = 16_384))]
    pub slots: u32,
    /// Size of a worker's KV cache, in tokens.
    #[schemars(range(min = 2))]
    pub kv_tokens: u64,
    /// Prompt tokens that a worker reads per second.
    #[schemars(range(min = 1))]
    pub prefill_rate: u32,
    /// Time each request takes before it reaches the batch.
    pub prefill_base: ScenarioDuration,
    /// Time of a step without its sequences: the least time between two tokens.
    pub token_time: ScenarioDuration,
    /// Time that each sequence adds to a step.
    pub token_time_per_seq: ScenarioDuration,
    /// Maximum tokens of a step.
    pub step_tokens: u32,
    /// `true` if workers keep the beginnings of texts in a prefix cache.
    pub prefix_cache: bool,
    /// Distribution of the time from getting a slot to the first token.
    pub first_token: FirstToken,
    /// `true` if the gateway knows `slots` and `kv_tokens`.
    pub told: bool,
}

/// Time to first token of prompts read outside the batch. If `median` is 0, the batch reads them.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FirstToken {
    /// Median for prompts that are not cached.
    pub median: ScenarioDuration,
    /// Standard deviation of the logarithm of that time.
    #[schemars(range(min = 0, max = 4))]
    pub sigma: f64,
    /// Minimum for prompts that are not cached.
    pub least: ScenarioDuration,
    /// Maximum before spikes; no bound if absent.
    pub most: Option<ScenarioDuration>,
    /// Share of prompts that are cached.
    #[schemars(range(min = 0, max = 1))]
    pub cached_share: f64,
    /// Time for cached prompts.
    pub cached: ScenarioDuration,
    /// Share of requests whose time is multiplied by `spike_factor`.
    #[schemars(range(min = 0, max = 1))]
    pub spike_share: f64,
    /// Factor of a spike.
    #[schemars(range(min = 0, max = 1000))]
    pub spike_factor: f64,
}

impl Default for FirstToken {
    /// Returns the defaults of the simulated worker's options.
    fn default() -> Self {
        Self {
            median: ScenarioDuration::default(),
            sigma: 0.0,
            least: ScenarioDuration::default(),
            most: None,
            cached_share: 0.0,
            cached: ScenarioDuration::default(),
            spike_share: 0.0,
            spike_factor: 10.0,
        }
    }
}

impl FirstToken {
    /// Returns the distribution for [`crate::engine::FirstTokens`].
    #[must_use]
    pub fn spread(&self) -> FirstTokenSpread {
        FirstTokenSpread {
            median: self.median.0,
            sigma: self.sigma,
            least: self.least.0,
            most: self.most.map_or(Duration::MAX, |most| most.0),
            cached_share: self.cached_share,
            cached: self.cached.0,
            spike_share: self.spike_share,
            spike_factor: self.spike_factor,
        }
    }
}

impl Default for WorkerGroup {
    fn default() -> Self {
        let spec = EngineSpec::default();
        Self {
            count: 1,
            slots: spec.slots,
            kv_tokens: spec.kv_tokens,
            prefill_rate: spec.prefill_rate,
            prefill_base: ScenarioDuration(spec.prefill_base),
            token_time: ScenarioDuration(spec.token_time),
            token_time_per_seq: ScenarioDuration(spec.token_time_per_seq),
            step_tokens: spec.step_tokens,
            prefix_cache: spec.prefix_cache,
            first_token: FirstToken::default(),
            told: true,
        }
    }
}

impl WorkerGroup {
    /// Returns the size and speed of one worker.
    #[must_use]
    pub fn spec(&self) -> EngineSpec {
        EngineSpec {
            slots: self.slots,
            kv_tokens: self.kv_tokens,
            prefill_rate: self.prefill_rate,
            prefill_base: self.prefill_base.0,
            token_time: self.token_time.0,
            token_time_per_seq: self.token_time_per_seq.0,
            step_tokens: self.step_tokens,
            prefix_cache: self.prefix_cache,
        }
    }
}

/// Settings of the gateway. Defaults are those of the gateway's configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GatewaySection {
    /// Number of independent gateways for the same fleet, each with its share of the load.
    #[schemars(range(min = 1, max = 64))]
    pub count: u32,
    /// `true` if they tell each other what they charged to callers, as with Redis.
    pub exchange: bool,
    /// Limit policy, if the command line names none: an algorithm, `slots`, `none`, or a number.
    pub law: Policy,
    /// Throughput of several workers together, relative to the sum of each alone.
    #[schemars(range(min = 0.01, max = 1))]
    pub fleet_factor: f64,
    /// Maximum number of waiting requests.
    pub queue_length: usize,
    /// Maximum wait; a quarter of the TTFT SLO if absent.
    pub queue_wait: Option<ScenarioDuration>,
    /// `true` to choose workers by the prefixes of prompts, as with `concurrency.prefix: auto`.
    pub prefix: bool,
    /// Share of the limit reserved for `critical`.
    #[schemars(range(min = 0, max = 1))]
    pub(crate) reserve_critical: f64,
    /// Share of the limit reserved for `interactive` and above.
    #[schemars(range(min = 0, max = 1))]
    pub(crate) reserve_interactive: f64,
    /// Timeout for the first token of a stream.
    pub first_token: ScenarioDuration,
    /// Timeout between two tokens.
    pub idle: ScenarioDuration,
    /// Timeout for a whole answer.
    pub total: ScenarioDuration,
}

impl Default for GatewaySection {
    fn default() -> Self {
        let gate = GateSettings::default();
        Self {
            count: 1,
            exchange: true,
            law: Policy::default(),
            fleet_factor: gate.fleet_factor,
            queue_length: gate.queue_length,
            queue_wait: None,
            prefix: true,
            reserve_critical: 0.0,
            reserve_interactive: 0.0,
            first_token: ScenarioDuration::secs(30),
            idle: ScenarioDuration::secs(60),
            total: ScenarioDuration::secs(600),
        }
    }
}
