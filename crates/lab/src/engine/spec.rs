//! Size and speed of a worker.

use std::time::Duration;

/// Size and speed of a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineSpec {
    /// Sequences decoded at once. At least 1.
    pub slots: u32,
    /// Size of the KV cache, in tokens. At least 2.
    pub kv_tokens: u64,
    /// Prompt tokens per second: ρ of the contract. At least 1.
    pub prefill_rate: u32,
    /// Time each request takes before it reaches the queue (tokenising, scheduling), without
    /// delaying others. With the time of one step it makes τ₀ of the contract.
    pub prefill_base: Duration,
    /// Time of a step without sequences.
    pub token_time: Duration,
    /// Time that each sequence adds to a step.
    pub token_time_per_seq: Duration,
    /// Maximum tokens of a step, decoded and prefilled. At least `slots`: no sequence starves.
    pub step_tokens: u32,
    /// `true` if the beginnings of texts are cached: as many tokens as the KV cache has.
    pub prefix_cache: bool,
}

impl Default for EngineSpec {
    /// Returns a small GPU: idle, it answers 100 prompt tokens in about 60 ms, then every 20 ms.
    fn default() -> Self {
        Self {
            slots: 8,
            kv_tokens: 65_536,
            prefill_rate: 8_000,
            prefill_base: Duration::from_millis(30),
            token_time: Duration::from_millis(20),
            token_time_per_seq: Duration::from_micros(500),
            step_tokens: 512,
            prefix_cache: false,
        }
    }
}

impl EngineSpec {
    /// Raises every value to its minimum.
    pub(super) fn clamped(mut self) -> Self {
        self.slots = self.slots.max(1);
        self.kv_tokens = self.kv_tokens.max(2);
        self.prefill_rate = self.prefill_rate.max(1);
        self.step_tokens = self.step_tokens.max(self.slots);
        self
    }

    pub(super) fn step_time(&self, sequences: u32, prompt_tokens: u64) -> Duration {
        let prefill = prompt_tokens.saturating_mul(1_000_000_000) / u64::from(self.prefill_rate);
        self.token_time
            .saturating_add(self.token_time_per_seq.saturating_mul(sequences))
            .saturating_add(Duration::from_nanos(prefill))
    }
}
