//! The worker's scheduler: one step after the other.

use std::collections::VecDeque;
use std::time::Duration;

use super::Spec;
use super::sequence::{Batch, Sequence};
use crate::clock::Nanos;

/// What happened to a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It yielded its token number `index`, counted from zero.
    Token {
        /// The sequence.
        id: u64,
        /// The token's number.
        index: u32,
    },
    /// It yielded its last token and left.
    Finished {
        /// The sequence.
        id: u64,
    },
    /// It lost its KV cache and went to the head of the line.
    Preempted {
        /// The sequence.
        id: u64,
    },
}

/// A prompt that this worker can never hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a prompt of {prompt} tokens leaves no room in a context of {kv_tokens} tokens")]
pub struct TooLong {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens the KV cache holds.
    pub kv_tokens: u64,
}

/// A worker in virtual time.
///
/// The owner calls [`Engine::advance`] no later than [`Engine::next_event`] says, to see events at their time; when it
/// calls later, nothing is lost: the events carry the time at which they happened.
#[derive(Clone, Debug)]
pub struct Engine {
    spec: Spec,
    /// On their way to the line, by the time they reach it.
    arriving: VecDeque<(Nanos, Sequence)>,
    waiting: VecDeque<Sequence>,
    /// In a slot, with their prompts read apart from the steps, and when their first tokens come. In the order of
    /// admission.
    reading: Vec<(Nanos, Sequence)>,
    /// In the order in which they joined the steps: the last is the youngest.
    running: Vec<Sequence>,
    /// When the step that runs ends. `None` only while nothing runs, and nothing waits that has room.
    step_end: Option<Nanos>,
    kv_used: u64,
    /// It stands still until then.
    paused_until: Nanos,
}

impl Engine {
    /// An idle worker. Values of the spec below their least are raised to it.
    #[must_use]
    pub fn new(spec: Spec) -> Self {
        Self {
            spec: spec.sane(),
            arriving: VecDeque::new(),
            waiting: VecDeque::new(),
            reading: Vec::new(),
            running: Vec::new(),
            step_end: None,
            kv_used: 0,
            paused_until: Nanos::ZERO,
        }
    }

    /// The worker's size and speed, as they are in force.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Takes in a sequence of `prompt` tokens that will yield `output` tokens (both at least 1, the output cut to
    /// what the KV cache holds). The `id` is the owner's and must not be inside already. Times must not run backwards
    /// between calls.
    ///
    /// # Errors
    /// [`TooLong`] when the prompt leaves no room for a token; nothing was taken in.
    pub fn submit(&mut self, id: u64, prompt: u64, output: u32, now: Nanos) -> Result<(), TooLong> {
        self.submit_timed(id, prompt, output, None, now)
    }

    /// As [`Engine::submit`], with the time from its slot to its first token. `None`: the steps read its prompt.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn submit_timed(
        &mut self,
        id: u64,
        prompt: u64,
        output: u32,
        first_token: Option<Duration>,
        now: Nanos,
    ) -> Result<(), TooLong> {
        let prompt = prompt.max(1);
        let kv_tokens = self.spec.kv_tokens;
        if prompt >= kv_tokens {
            return Err(TooLong { prompt, kv_tokens });
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
                held: 0,
                yields: false,
                reading: first_token,
            },
        ));
        Ok(())
    }

    /// Takes a sequence out, wherever it is. Its slot and its cache are free for the next step. False when it is not
    /// inside.
    pub fn cancel(&mut self, id: u64) -> bool {
        if let Some(place) = self.running.iter().position(|sequence| sequence.id == id) {
            self.kv_used -= self.running.remove(place).held;
            true
        } else if let Some(place) = self.reading.iter().position(|(_, sequence)| sequence.id == id) {
            self.kv_used -= self.reading.remove(place).1.held;
            true
        } else if let Some(place) = self.waiting.iter().position(|sequence| sequence.id == id) {
            self.waiting.remove(place).is_some()
        } else if let Some(place) = self.arriving.iter().position(|(_, sequence)| sequence.id == id) {
            self.arriving.remove(place).is_some()
        } else {
            false
        }
    }

    /// Another size for the KV cache, at least 2 tokens. Answers are cut to what it holds, and the youngest make room
    /// with the next step; those whose prompt no longer fits, or what they have yielded, are thrown out and returned.
    pub fn set_kv_tokens(&mut self, kv_tokens: u64) -> Vec<u64> {
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
                *kv_used -= sequence.held;
            }
            stays
        });
        self.reading.retain_mut(|(_, sequence)| {
            let stays = keeps(sequence);
            if !stays {
                *kv_used -= sequence.held;
            }
            stays
        });
        self.waiting.retain_mut(&mut keeps);
        self.arriving.retain_mut(|(_, sequence)| keeps(sequence));
        lost
    }

    /// Another number of slots, at least 1, from the next step on. When there are fewer than before, the youngest
    /// sequences lose theirs and their cache, and wait at the head of the line.
    pub fn set_slots(&mut self, slots: u32) {
        self.spec.slots = slots.max(1);
        self.spec.step_tokens = self.spec.step_tokens.max(slots);
    }

    /// Stands still for `length` from `now` on, as a process that is stopped and continued: all that is under way ends so
    /// much later, and what arrives meanwhile is taken in afterwards.
    pub fn pause(&mut self, length: Duration, now: Nanos) {
        self.paused_until = now + length;
        let until = self.paused_until;
        self.step_end = self.step_end.map(|end| end + length);
        self.reading.iter_mut().for_each(|(read, _)| *read = *read + length);
        self.arriving.iter_mut().for_each(|(ready, _)| *ready = (*ready).max(until));
    }

    /// When something happens next, if nothing is submitted before.
    #[must_use]
    pub fn next_event(&self) -> Option<Nanos> {
        let read = self.reading.iter().map(|(until, _)| *until).min();
        let next = self.step_end.or_else(|| self.arriving.front().map(|(ready, _)| *ready));
        next.into_iter().chain(read).min()
    }

    /// Lives through everything up to and including `now`, and hands each event with its time to `sink`, in order.
    pub fn advance(&mut self, now: Nanos, sink: &mut impl FnMut(Nanos, Event)) {
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

    /// Sequences in a slot.
    #[must_use]
    pub fn running(&self) -> usize {
        self.reading.len() + self.running.len()
    }

    /// Sequences in the line; those that have not reached it yet do not count.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences submitted that neither finished nor were cancelled.
    #[must_use]
    pub fn inside(&self) -> usize {
        self.arriving.len() + self.waiting.len() + self.running()
    }

    /// Tokens held in the KV cache.
    #[must_use]
    pub fn kv_used(&self) -> u64 {
        self.kv_used
    }

    /// Yields the first tokens of prompts that have been read. Their sequences take part from the next step on.
    fn end_reading(&mut self, at: Nanos, sink: &mut impl FnMut(Nanos, Event)) {
        let Self { reading, running, kv_used, .. } = self;
        for (_, mut sequence) in reading.extract_if(.., |(until, _)| *until <= at) {
            sink(at, Event::Token { id: sequence.id, index: 0 });
            sequence.generated = 1;
            if sequence.generated < sequence.output {
                running.push(sequence);
            } else {
                *kv_used -= sequence.held;
                sink(at, Event::Finished { id: sequence.id });
            }
        }
    }

    fn end_step(&mut self, at: Nanos, sink: &mut impl FnMut(Nanos, Event)) {
        let kv_used = &mut self.kv_used;
        self.running.retain_mut(|sequence| {
            if !std::mem::take(&mut sequence.yields) {
                return true;
            }
            sink(at, Event::Token { id: sequence.id, index: sequence.generated });
            sequence.generated += 1;
            let stays = sequence.generated < sequence.output;
            if !stays {
                *kv_used -= sequence.held;
                sink(at, Event::Finished { id: sequence.id });
            }
            stays
        });
    }

    /// Plans a step as chunked prefill does: the batch in the order of admission, then the head of the line.
    fn start_step(&mut self, at: Nanos, sink: &mut impl FnMut(Nanos, Event)) {
        let mut budget = u64::from(self.spec.step_tokens);
        let mut batch = Batch::default();
        let before = self.running();
        while self.running() > self.spec.slots as usize || self.kv_used > self.spec.kv_tokens {
            self.preempt(at, sink);
        }
        let mut place = 0;
        while let Some(tokens) = self.running.get(place).map(|sequence| sequence.next_tokens(budget)) {
            self.make_room(tokens, at, sink);
            // Gone only when it was the youngest and made room by leaving itself.
            if let Some(sequence) = self.running.get_mut(place).filter(|_| tokens > 0) {
                sequence.plan(tokens, &mut batch);
                self.kv_used += tokens;
                budget -= tokens;
            }
            place += 1;
        }
        // Whoever was just thrown out would be let in again at once, only to be thrown out by the next step.
        let preempted = self.running() < before;
        while !preempted && self.running() < self.spec.slots as usize {
            let room = self.spec.kv_tokens.saturating_sub(self.kv_used);
            // Room for the first chunk is enough, as in the engines this stands for: that is what lets a full cache
            // thrash, each newcomer's chunk computed and thrown out again. A prompt read elsewhere comes whole.
            let fits = |head: &mut Sequence| match head.apart() {
                Some(_) => head.prompt <= room,
                None => (1..=room).contains(&head.next_tokens(budget)),
            };
            let Some(mut sequence) = self.waiting.pop_front_if(fits) else { break };
            if let Some(time) = sequence.apart() {
                sequence.held = sequence.prompt;
                self.kv_used += sequence.held;
                self.reading.push((at + time, sequence));
                continue;
            }
            let tokens = sequence.next_tokens(budget);
            sequence.plan(tokens, &mut batch);
            self.kv_used += tokens;
            budget -= tokens;
            self.running.push(sequence);
        }
        self.step_end =
            (batch.sequences > 0).then(|| at + self.spec.step_time(batch.sequences, batch.prompt_tokens));
    }

    /// Throws out the youngest until so many tokens fit. A sequence alone always fits: `submit` saw to that.
    fn make_room(&mut self, tokens: u64, at: Nanos, sink: &mut impl FnMut(Nanos, Event)) {
        while self.kv_used + tokens > self.spec.kv_tokens && self.running() > 0 {
            self.preempt(at, sink);
        }
    }

    /// Throws out the youngest: of those whose prompts are read, else of those in the steps.
    fn preempt(&mut self, at: Nanos, sink: &mut impl FnMut(Nanos, Event)) {
        let reading = self.reading.pop().map(|(_, sequence)| sequence);
        let Some(mut youngest) = reading.or_else(|| self.running.pop()) else { return };
        self.kv_used -= youngest.held;
        youngest.held = 0;
        youngest.prefill = youngest.prompt + u64::from(youngest.generated);
        sink(at, Event::Preempted { id: youngest.id });
        self.waiting.push_front(youngest);
    }
}
