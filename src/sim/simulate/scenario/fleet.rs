//! The fleet of a scenario, what it promises, and the dam before it.

use std::time::Duration;

use serde::Deserialize;

use super::Span;
use crate::shed::settings::GateSettings;
use crate::sim::physics::{FirstTokenSpread, Spec};
use crate::sim::simulate::Policy;

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

impl Promise {
    /// The time to the first token that is promised for a prompt of so many tokens.
    pub(in crate::sim::simulate) fn slo(&self, prompt: u64) -> Duration {
        let (ttft_slo, ttft_per_1k) = (self.ttft_slo.0, self.per_1k_prompt_tokens.0);
        GateSettings { ttft_slo, ttft_per_1k, ..GateSettings::default() }.slo(prompt)
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
    /// How long first tokens take.
    pub first_token: FirstToken,
    /// Whether the dam knows `slots` and `kv_tokens`.
    pub told: bool,
}

/// How long first tokens take where prompts are read apart from the batch; with a median of zero they are read in its
/// steps.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FirstToken {
    /// The median of prompts that are not cached.
    pub median: Span,
    /// The deviation of the logarithm around it.
    pub sigma: f64,
    /// No request has less.
    pub least: Span,
    /// No request has more, spikes excepted; no bound when not said.
    pub most: Option<Span>,
    /// Share of the prompts that are cached.
    pub cached_share: f64,
    /// The time of those.
    pub cached: Span,
    /// Share of the requests for which it is `spike_factor` times as long.
    pub spike_share: f64,
    /// How much longer it is for those.
    pub spike_factor: f64,
}

impl Default for FirstToken {
    /// As the simulated worker's options.
    fn default() -> Self {
        Self {
            median: Span::default(),
            sigma: 0.0,
            least: Span::default(),
            most: None,
            cached_share: 0.0,
            cached: Span::default(),
            spike_share: 0.0,
            spike_factor: 10.0,
        }
    }
}

impl FirstToken {
    /// The distribution.
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
            first_token: FirstToken::default(),
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
    pub law: Policy,
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
            law: Policy::default(),
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
