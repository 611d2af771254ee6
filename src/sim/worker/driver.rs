//! Runs the engine in real time: one task runs its events, requests submit and remove sequences.

use std::sync::Arc;
use std::task::Waker;

use hashbrown::HashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::WorkerOptions;
use super::debug::WorkerChange;
use super::mailbox::TokenCounts;
use super::meters::{Gauges, Meters};
use crate::clock::{Clock, Nanos};
use traffic_dam_lab::engine::{EngineModel, FirstTokens, Lengths, NewSequence, PromptTooLong, SequenceEvent};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SequenceRequest {
    pub(super) prompt: u64,
    pub(super) max: u32,
    /// `true` to yield exactly `max`, instead of a random length up to it.
    pub(super) exact: bool,
}

pub(super) struct EngineDriver {
    state: Mutex<EngineDriverState>,
    /// Wakes the driver for an event that is earlier than the one it sleeps for.
    sooner: Notify,
    clock: Clock,
    kv_tokens: u64,
}

struct EngineDriverState {
    engine: EngineModel,
    tracks: HashMap<u64, TrackedSequence>,
    next_id: u64,
    lengths: Lengths,
    first_tokens: FirstTokens,
    meters: Meters,
}

/// Data of a sequence inside the engine.
struct TrackedSequence {
    mailbox: Arc<TokenCounts>,
    /// Index within the request.
    sequence: usize,
    /// Time of its last token, or of its submission before the first.
    since: Nanos,
}

impl EngineDriver {
    pub(super) fn new(options: &WorkerOptions) -> Self {
        let engine = EngineModel::new(options.spec());
        let kv_tokens = engine.spec().kv_tokens;
        Self {
            state: Mutex::new(EngineDriverState {
                engine,
                tracks: HashMap::new(),
                next_id: 0,
                lengths: Lengths::new(options.mean_output, options.seed),
                first_tokens: FirstTokens::new(options.first_tokens(), options.seed),
                meters: Meters::default(),
            }),
            sooner: Notify::new(),
            clock: Clock::system(),
            kv_tokens,
        }
    }

    /// Runs the engine's events when they are due. Never returns.
    pub(super) async fn drive(&self) {
        let mut woken = Vec::new();
        loop {
            let next = {
                let mut state = self.state.lock();
                state.advance(self.clock.now(), &mut woken);
                state.engine.next_event()
            };
            // After the lock: a woken task may at once end and remove its sequences.
            woken.drain(..).for_each(Waker::wake);
            match next {
                None => self.sooner.notified().await,
                Some(at) => {
                    let wait = at.since(self.clock.now());
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.sooner.notified() => {}
                    }
                }
            }
        }
    }

    /// Submits all sequences of a request, or none of them. `blocks` are those of their common prompt.
    ///
    /// # Errors
    /// [`PromptTooLong`] if one of the prompts can never fit.
    pub(super) fn submit(
        self: &Arc<Self>,
        wishes: &[SequenceRequest],
        blocks: &Arc<[u64]>,
    ) -> Result<SequenceWork, PromptTooLong> {
        if let Some(wish) = wishes.iter().find(|wish| wish.prompt >= self.kv_tokens) {
            return Err(PromptTooLong { prompt: wish.prompt, kv_tokens: self.kv_tokens });
        }
        // Created before the lock is taken, so dropped after the lock: its drop takes the lock.
        let mut work = SequenceWork {
            driver: Arc::clone(self),
            mailbox: Arc::new(TokenCounts::new(wishes.len())),
            first: 0,
            cut: SmallVec::with_capacity(wishes.len()),
        };
        let now = self.clock.now();
        let mut state = self.state.lock();
        let was_next = state.engine.next_event();
        work.first = state.next_id;
        for wish in wishes {
            let most = wish.max.min(u32::try_from(self.kv_tokens - wish.prompt).unwrap_or(u32::MAX));
            let output = if wish.exact { most } else { state.lengths.sample(most) };
            let id = state.next_id;
            let first_token = state.first_tokens.sample();
            let (prompt, blocks) = (wish.prompt, Arc::clone(blocks));
            state.engine.submit_sequence(NewSequence { id, prompt, output, first_token, blocks }, now)?;
            state.next_id += 1;
            let track =
                TrackedSequence { mailbox: Arc::clone(&work.mailbox), sequence: work.cut.len(), since: now };
            state.tracks.insert(id, track);
            work.cut.push(output == most);
        }
        let sooner = state.engine.next_event().is_some_and(|next| was_next.is_none_or(|was| next < was));
        drop(state);
        if sooner {
            self.sooner.notify_one();
        }
        Ok(work)
    }

    pub(super) fn change(&self, change: &WorkerChange) {
        let mut state = self.state.lock();
        if let Some(slots) = change.slots {
            state.engine.set_slots(slots);
        }
        if let Some(share) = change.cached_share {
            state.first_tokens.set_cached_share(share);
        }
    }

    pub(super) fn count_prompt(&self, tokens: u64) {
        self.state.lock().meters.prompt_tokens += tokens;
    }

    pub(super) fn metrics(&self, model: &str) -> String {
        let gauges = self.gauges();
        self.state.lock().meters.render(model, &gauges)
    }

    pub(super) fn gauges(&self) -> Gauges {
        let state = self.state.lock();
        let engine = &state.engine;
        let kv_usage = engine.kv_used() as f64 / self.kv_tokens as f64;
        Gauges { running: engine.running(), waiting: engine.waiting(), kv_usage }
    }
}

impl EngineDriverState {
    fn advance(&mut self, now: Nanos, woken: &mut Vec<Waker>) {
        let Self { engine, tracks, meters, .. } = self;
        engine.advance(now, &mut |at, event| match event {
            SequenceEvent::Token { id, index } => {
                let Some(track) = tracks.get_mut(&id) else { return };
                meters.token(index, at.since(track.since));
                track.since = at;
                woken.extend(track.mailbox.token(track.sequence));
            }
            SequenceEvent::Finished { id } => {
                woken.extend(tracks.remove(&id).and_then(|track| track.mailbox.finish()));
            }
            SequenceEvent::Started { id, cached } => {
                if let Some(track) = tracks.get(&id) {
                    track.mailbox.set_cached(cached);
                }
            }
            SequenceEvent::Preempted { .. } => meters.preemptions += 1,
        });
    }
}

/// The sequences of one request. Drop removes unfinished ones: a client that hangs up frees slots.
pub(super) struct SequenceWork {
    driver: Arc<EngineDriver>,
    pub(super) mailbox: Arc<TokenCounts>,
    first: u64,
    /// For each sequence, `true` if its token limit will end it.
    pub(super) cut: SmallVec<[bool; 2]>,
}

impl Drop for SequenceWork {
    fn drop(&mut self) {
        let mut state = self.driver.state.lock();
        for id in self.first..self.first + self.cut.len() as u64 {
            if state.tracks.remove(&id).is_some() {
                state.engine.cancel(id);
            }
        }
    }
}
