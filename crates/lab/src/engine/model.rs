//! The worker's scheduler: it runs one step after the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::EngineSpec;
use super::prefix_cache::PrefixCache;
use super::sequence::{Batch, Sequence};
use traffic_dam_core::clock::Nanos;

/// An event of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceEvent {
    /// The sequence got a slot, in a worker with a prefix cache.
    Started {
        /// Id of the sequence.
        id: u64,
        /// Tokens of its prompt that were cached.
        cached: u64,
    },
    /// The sequence yielded a token.
    Token {
        /// Id of the sequence.
        id: u64,
        /// Index of the token, from zero.
        index: u32,
    },
    /// The sequence yielded its last token and left.
    Finished {
        /// Id of the sequence.
        id: u64,
    },
    /// The sequence lost its KV cache and moved to the head of the queue.
    Preempted {
        /// Id of the sequence.
        id: u64,
    },
}

/// The prompt can never fit into the worker's KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a prompt of {prompt} tokens leaves no room in a context of {kv_tokens} tokens")]
pub struct PromptTooLong {
    /// Length of the prompt, in tokens.
    pub prompt: u64,
    /// Size of the KV cache, in tokens.
    pub kv_tokens: u64,
}

/// A sequence for a worker.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// Its id, chosen by the owner; no sequence inside may have it.
    pub id: u64,
    /// Tokens of its prompt; at least 1.
    pub prompt: u64,
    /// Tokens that it will yield; at least 1, and cut to the KV cache.
    pub output: u32,
    /// Time from slot to first token; `None` if the steps read the prompt.
    pub first_token: Option<Duration>,
    /// Ids of the blocks of [`BLOCK_TOKENS`](super::BLOCK_TOKENS) tokens of its text, each of which
    /// stands for all blocks before it too. They may reach beyond the prompt, as far as the answer
    /// is known.
    pub blocks: Arc<[u64]>,
}

/// A worker in virtual time.
///
/// The owner calls [`EngineModel::advance`] at [`EngineModel::next_event`] or before, to see events on time.
/// A late call loses nothing: each event carries the time at which it happened.
#[derive(Clone, Debug)]
pub struct EngineModel {
    spec: EngineSpec,
    /// Sequences on their way to the queue, each with its time of arrival.
    arriving: VecDeque<(Nanos, Sequence)>,
    waiting: VecDeque<Sequence>,
    /// Sequences in a slot whose prompts are read outside the steps, with the times of their first
    /// tokens. In order of admission.
    prefilling: Vec<(Nanos, Sequence)>,
    /// In the order in which they joined the steps: the last one is the youngest.
    running: Vec<Sequence>,
    /// End of the current step. `None` only while no sequence runs and no waiting one fits.
    step_end: Option<Nanos>,
    kv_used: u64,
    cache: PrefixCache,
    /// End of the current pause.
    paused_until: Nanos,
}

impl EngineModel {
    /// Creates an idle worker. Raises values of `spec` that are below their minimum to it.
    #[must_use]
    pub fn new(spec: EngineSpec) -> Self {
        Self {
            spec: spec.clamped(),
            arriving: VecDeque::new(),
            waiting: VecDeque::new(),
            prefilling: Vec::new(),
            running: Vec::new(),
            step_end: None,
            kv_used: 0,
            cache: PrefixCache::default(),
            paused_until: Nanos::ZERO,
        }
    }

    /// Returns the worker's size and speed in force.
    #[must_use]
    pub fn spec(&self) -> &EngineSpec {
        &self.spec
    }

    /// Takes in a sequence of `prompt` tokens that will yield `output` tokens. Both are at least 1;
    /// the output is cut to the KV cache. The owner chooses `id`; no sequence inside may have it.
    /// Time must not run backwards between calls.
    ///
    /// # Errors
    /// [`PromptTooLong`] if the prompt leaves no room for a token. The engine is then unchanged.
    pub fn submit(&mut self, id: u64, prompt: u64, output: u32, now: Nanos) -> Result<(), PromptTooLong> {
        self.submit_timed(id, prompt, output, None, now)
    }

    /// As [`EngineModel::submit`], with a slot-to-first-token time. `None`: the steps read the prompt.
    ///
    /// # Errors
    /// As [`EngineModel::submit`].
    pub(crate) fn submit_timed(
        &mut self,
        id: u64,
        prompt: u64,
        output: u32,
        first_token: Option<Duration>,
        now: Nanos,
    ) -> Result<(), PromptTooLong> {
        self.submit_sequence(NewSequence { id, prompt, output, first_token, blocks: [].into() }, now)
    }

    /// As [`EngineModel::submit`], of a sequence whose text is known.
    ///
    /// # Errors
    /// As [`EngineModel::submit`].
    pub fn submit_sequence(&mut self, sequence: NewSequence, now: Nanos) -> Result<(), PromptTooLong> {
        let NewSequence { id, prompt, output, first_token, blocks } = sequence;
        let prompt = prompt.max(1);
        let kv_tokens = self.spec.kv_tokens;
        if prompt >= kv_tokens {
            return Err(PromptTooLong { prompt, kv_tokens });
        }
        let room = u32::try_from(kv_tokens - prompt).unwrap_or(u32::MAX);
        let output = output.clamp(1, room);
        let ready = now.max(self.paused_until) + self.spec.prefill_base;
        self.arriving.push_back((
            ready,
            Sequence {
                id,
                prompt,
                output,
                generated: 0,
                prefill: prompt,
                cached_tokens: 0,
                yields: false,
                reading: first_token,
                blocks,
                hit: 0,
            },
        ));
        Ok(())
    }

    /// Removes a sequence, which frees its slot and cache. Returns `false` if it is not inside.
    pub fn cancel(&mut self, id: u64) -> bool {
        if let Some(place) = self.running.iter().position(|sequence| sequence.id == id) {
            self.kv_used -= self.running.remove(place).cached_tokens;
            true
        } else if let Some(place) = self.prefilling.iter().position(|(_, sequence)| sequence.id == id) {
            self.kv_used -= self.prefilling.remove(place).1.cached_tokens;
            true
        } else if let Some(place) = self.waiting.iter().position(|sequence| sequence.id == id) {
            self.waiting.remove(place).is_some()
        } else if let Some(place) = self.arriving.iter().position(|(_, sequence)| sequence.id == id) {
            self.arriving.remove(place).is_some()
        } else {
            false
        }
    }

    /// Resizes the KV cache, to at least 2 tokens. Cuts outputs to it; the youngest sequences make
    /// room at the next step. Removes and returns the sequences that can no longer fit.
    pub(crate) fn set_kv_tokens(&mut self, kv_tokens: u64) -> Vec<u64> {
        self.spec.kv_tokens = kv_tokens.max(2);
        let kv_tokens = self.spec.kv_tokens;
        let mut lost = Vec::new();
        let mut keeps = |sequence: &mut Sequence| {
            let room = u32::try_from(kv_tokens.saturating_sub(sequence.prompt)).unwrap_or(u32::MAX);
            sequence.output = sequence.output.min(room);
            let stays = sequence.generated < sequence.output;
            if !stays {
                lost.push(sequence.id);
            }
            stays
        };
        let kv_used = &mut self.kv_used;
        self.running.retain_mut(|sequence| {
            let stays = keeps(sequence);
            if !stays {
                *kv_used -= sequence.cached_tokens;
            }
            stays
        });
        self.prefilling.retain_mut(|(_, sequence)| {
            let stays = keeps(sequence);
            if !stays {
                *kv_used -= sequence.cached_tokens;
            }
            stays
        });
        self.waiting.retain_mut(&mut keeps);
        self.arriving.retain_mut(|(_, sequence)| keeps(sequence));
        lost
    }

    /// Changes the number of slots (at least 1) from the next step on. If there are fewer than
    /// before, the youngest sequences lose slot and cache, and wait at the head of the queue.
    pub fn set_slots(&mut self, slots: u32) {
        self.spec.slots = slots.max(1);
        self.spec.step_tokens = self.spec.step_tokens.max(slots);
    }

    /// Pauses for `length` from `now` on, like a stopped and continued process. Ongoing work ends
    /// that much later; arrivals in the meantime are taken in afterwards.
    pub fn pause(&mut self, length: Duration, now: Nanos) {
        self.paused_until = now + length;
        let until = self.paused_until;
        self.step_end = self.step_end.map(|end| end + length);
        self.prefilling.iter_mut().for_each(|(read, _)| *read = *read + length);
        self.arriving.iter_mut().for_each(|(ready, _)| *ready = (*ready).max(until));
    }

    /// Returns the time of the next event, provided that nothing is submitted before.
    #[must_use]
    pub fn next_event(&self) -> Option<Nanos> {
        let read = self.prefilling.iter().map(|(until, _)| *until).min();
        let next = self.step_end.or_else(|| self.arriving.front().map(|(ready, _)| *ready));
        next.into_iter().chain(read).min()
    }

    /// Runs all events up to and including `now`, and passes each with its time to `sink`.
    pub fn advance(&mut self, now: Nanos, sink: &mut impl FnMut(Nanos, SequenceEvent)) {
        while let Some(at) = self.next_event().filter(|at| *at <= now) {
            self.end_reading(at, sink);
            if let Some(end) = self.step_end {
                if end > at {
                    continue;
                }
                self.step_end = None;
                self.end_step(at, sink);
            }
            while let Some((_, sequence)) = self.arriving.pop_front_if(|(ready, _)| *ready <= at) {
                self.waiting.push_back(sequence);
            }
            self.start_step(at, sink);
        }
    }

    /// Returns the number of sequences in a slot.
    #[must_use]
    pub fn running(&self) -> usize {
        self.prefilling.len() + self.running.len()
    }

    /// Returns the number of queued sequences, without those that have not reached the queue yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the number of sequences submitted and neither finished nor cancelled.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.arriving.len() + self.waiting.len() + self.running()
    }

    /// Returns the number of tokens in the KV cache.
    #[must_use]
    pub fn kv_used(&self) -> u64 {
        self.kv_used
    }

    /// Yields the first tokens of prompts that were read. Their sequences join the next step.
    fn end_reading(&mut self, at: Nanos, sink: &mut impl FnMut(Nanos, SequenceEvent)) {
        let Self { prefilling: reading, running, kv_used, .. } = self;
        for (_, mut sequence) in reading.extract_if(.., |(until, _)| *until <= at) {
            sink(at, SequenceEvent::Token { id: sequence.id, index: 0 });
            sequence.generated = 1;
            if sequence.generated < sequence.output {
                running.push(sequence);
            } else {
                *kv_used -= sequence.cached_tokens;
                sink(at, SequenceEvent::Finished { id: sequence.id });
            }
        }
    }

    fn end_step(&mut self, at: Nanos, sink: &mut impl FnMut(Nanos, SequenceEvent)) {
        let Self { kv_used, cache, running, spec, .. } = self;
        let most = if spec.prefix_cache { spec.kv_tokens } else { 0 };
        running.retain_mut(|sequence| {
            if !std::mem::take(&mut sequence.yields) {
                return true;
            }
            if most > 0 && sequence.generated == 0 {
                cache.add(&sequence.blocks, sequence.prompt, most);
            }
            sink(at, SequenceEvent::Token { id: sequence.id, index: sequence.generated });
            sequence.generated += 1;
            let stays = sequence.generated < sequence.output;
            if !stays {
                if most > 0 {
                    cache.add(&sequence.blocks, sequence.prompt + u64::from(sequence.generated), most);
                }
                *kv_used -= sequence.cached_tokens;
                sink(at, SequenceEvent::Finished { id: sequence.id });
            }
            stays
        });
    }

    /// Plans a step as chunked prefill does: the batch as admitted, then the head of the queue.
    fn start_step(&mut self, at: Nanos, sink: &mut impl FnMut(Nanos, SequenceEvent)) {
        let mut budget = u64::from(self.spec.step_tokens);
        let mut batch = Batch::default();
        let before = self.running();
        while self.running() > self.spec.slots as usize || self.kv_used > self.spec.kv_tokens {
            self.preempt(at, sink);
        }
        let mut place = 0;
        while let Some(tokens) = self.running.get(place).map(|sequence| sequence.next_tokens(budget)) {
            self.make_room(tokens, at, sink);
            // It is gone only if it was the youngest and made room by leaving itself.
            if let Some(sequence) = self.running.get_mut(place).filter(|_| tokens > 0) {
                sequence.plan(tokens, &mut batch);
                self.kv_used += tokens;
                budget -= tokens;
            }
            place += 1;
        }
        // A sequence preempted just now would be admitted at once, and preempted by the next step.
        let preempted = self.running() < before;
        while !preempted && self.running() < self.spec.slots as usize {
            let room = self.spec.kv_tokens.saturating_sub(self.kv_used);
            // Room for the first chunk is enough, as in real engines. So a full cache thrashes: it
            // discards each newcomer's chunk. A prompt read outside the steps needs all its room.
            let cache = &self.cache;
            let fits = |head: &mut Sequence| match head.apart() {
                Some(_) => head.prompt <= room,
                None => {
                    // The last token is computed in any case.
                    head.hit = cache.cached(&head.blocks).min(head.prompt.saturating_sub(1));
                    (1..=room.saturating_sub(head.hit)).contains(&head.first_chunk(budget))
                }
            };
            let Some(mut sequence) = self.waiting.pop_front_if(fits) else { break };
            if let Some(time) = sequence.apart() {
                sequence.cached_tokens = sequence.prompt;
                self.kv_used += sequence.cached_tokens;
                self.prefilling.push((at + time, sequence));
                continue;
            }
            if self.spec.prefix_cache {
                sink(at, SequenceEvent::Started { id: sequence.id, cached: sequence.hit });
            }
            sequence.cached_tokens = sequence.hit;
            let tokens = sequence.next_tokens(budget);
            sequence.plan(tokens, &mut batch);
            self.kv_used += sequence.hit + tokens;
            budget -= tokens;
            self.running.push(sequence);
        }
        self.step_end =
            (batch.sequences > 0).then(|| at + self.spec.step_time(batch.sequences, batch.prompt_tokens));
    }

    /// Preempts the youngest until `tokens` fit. One alone always fits: `submit` checks that.
    fn make_room(&mut self, tokens: u64, at: Nanos, sink: &mut impl FnMut(Nanos, SequenceEvent)) {
        while self.kv_used + tokens > self.spec.kv_tokens && self.running() > 0 {
            self.preempt(at, sink);
        }
    }

    /// Preempts the youngest sequence: one whose prompt is being read, otherwise one in the steps.
    fn preempt(&mut self, at: Nanos, sink: &mut impl FnMut(Nanos, SequenceEvent)) {
        let reading = self.prefilling.pop().map(|(_, sequence)| sequence);
        let Some(mut youngest) = reading.or_else(|| self.running.pop()) else { return };
        self.kv_used -= youngest.cached_tokens;
        youngest.cached_tokens = 0;
        youngest.prefill = youngest.prompt + u64::from(youngest.generated);
        sink(at, SequenceEvent::Preempted { id: youngest.id });
        self.waiting.push_front(youngest);
    }
}
