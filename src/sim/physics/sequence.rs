//! A sequence inside the worker, and what a step holds of it.

use std::time::Duration;

#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub(super) id: u64,
    pub(super) prompt: u64,
    /// Tokens to yield in all.
    pub(super) output: u32,
    /// Tokens yielded so far; they survive a preemption.
    pub(super) generated: u32,
    /// What must be computed before the next token: the prompt, and after a preemption what it had generated too.
    pub(super) prefill: u64,
    /// Tokens computed and held in the KV cache, those of the step that runs included; zero while it waits.
    pub(super) held: u64,
    /// Whether the step that runs yields a token of it.
    pub(super) yields: bool,
    /// From its slot to its first token, when its prompt is read apart from the steps.
    pub(super) reading: Option<Duration>,
}

/// What is in a step.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) sequences: u32,
    pub(super) prompt_tokens: u64,
}

impl Sequence {
    /// Tokens the next step would compute of it: one when it decodes, else a chunk of its prompt.
    pub(super) fn next_tokens(&self, budget: u64) -> u64 {
        self.prefill.saturating_sub(self.held).max(1).min(budget)
    }

    /// How long it will hold a slot before it joins the steps; `None` when they read its prompt, and what a preempted
    /// sequence has generated.
    pub(super) fn apart(&self) -> Option<Duration> {
        self.reading.filter(|_| self.generated == 0)
    }

    pub(super) fn plan(&mut self, tokens: u64, batch: &mut Batch) {
        batch.sequences += 1;
        if self.held < self.prefill {
            batch.prompt_tokens += tokens;
        }
        self.held += tokens;
        self.yields = self.held >= self.prefill;
    }
}
