//! A sequence inside the worker, and its part of a step.

use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub(super) id: u64,
    pub(super) prompt: u64,
    pub(super) output: u32,
    /// Tokens yielded so far; they survive a preemption.
    pub(super) generated: u32,
    /// Tokens to compute before the next one: the prompt; after a preemption also the generated.
    pub(super) prefill: u64,
    /// Tokens in the KV cache, including those of the current step; zero while it waits.
    pub(super) cached_tokens: u64,
    /// `true` if the current step yields a token of this sequence.
    pub(super) yields: bool,
    /// Time from slot to first token, if the prompt is read outside the steps.
    pub(super) reading: Option<Duration>,
    pub(super) blocks: Arc<[u64]>,
    /// Tokens that the prefix cache has of it, while it waits.
    pub(super) hit: u64,
}

#[derive(Default)]
pub(super) struct Batch {
    pub(super) sequences: u32,
    pub(super) prompt_tokens: u64,
}

impl Sequence {
    /// Returns the tokens of the next step: one if it decodes, otherwise a chunk of the prompt.
    pub(super) fn next_tokens(&self, budget: u64) -> u64 {
        self.prefill.saturating_sub(self.cached_tokens).max(1).min(budget)
    }

    /// Returns the tokens of its first step, if the prefix cache has the first `hit` tokens.
    pub(super) fn first_chunk(&self, budget: u64) -> u64 {
        self.prefill.saturating_sub(self.hit).max(1).min(budget)
    }

    /// Returns how long it holds a slot before it joins the steps. `None` if the steps read its
    /// prompt, as they do after a preemption with the tokens generated so far.
    pub(super) fn apart(&self) -> Option<Duration> {
        self.reading.filter(|_| self.generated == 0)
    }

    pub(super) fn plan(&mut self, tokens: u64, batch: &mut Batch) {
        batch.sequences += 1;
        if self.cached_tokens < self.prefill {
            batch.prompt_tokens += tokens;
        }
        self.cached_tokens += tokens;
        self.yields = self.cached_tokens >= self.prefill;
    }
}
