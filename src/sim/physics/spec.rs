//! The size and the speed of a worker.

use std::time::Duration;

/// The size and the speed of a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Sequences decoded at once. At least 1.
    pub slots: u32,
    /// Tokens the KV cache holds. At least 2.
    pub kv_tokens: u64,
    /// Prompt tokens per second, ρ of the contract. At least 1.
    pub prefill_rate: u32,
    /// What every request pays before it reaches the line (tokenising, scheduling), without holding up the others:
    /// with the time of one step it makes τ₀ of the contract.
    pub prefill_base: Duration,
    /// What a step takes with nothing in it.
    pub token_time: Duration,
    /// What each sequence in a step adds to it.
    pub token_time_per_seq: Duration,
    /// Tokens a step handles at the most, decoded and prefilled; raised to `slots`, so that no sequence starves.
    pub step_tokens: u32,
}

impl Default for Spec {
    /// A small GPU: an idle worker answers a prompt of 100 tokens after some 60 ms, and then every 20 ms.
    fn default() -> Self {
        Self {
            slots: 8,
            kv_tokens: 65_536,
            prefill_rate: 8_000,
            prefill_base: Duration::from_millis(30),
            token_time: Duration::from_millis(20),
            token_time_per_seq: Duration::from_micros(500),
            step_tokens: 512,
        }
    }
}

impl Spec {
    /// The same, with every value at or above its least.
    pub(super) fn sane(mut self) -> Self {
        self.slots = self.slots.max(1);
        self.kv_tokens = self.kv_tokens.max(2);
        self.prefill_rate = self.prefill_rate.max(1);
        self.step_tokens = self.step_tokens.max(self.slots);
        self
    }

    /// How long a step takes with so many sequences and prompt tokens in it.
    pub(super) fn step_time(&self, sequences: u32, prompt_tokens: u64) -> Duration {
        let prefill = prompt_tokens.saturating_mul(1_000_000_000) / u64::from(self.prefill_rate);
        self.token_time
            .saturating_add(self.token_time_per_seq.saturating_mul(sequences))
            .saturating_add(Duration::from_nanos(prefill))
    }
}
