//! The record of a permit: the request, its worker, and its course so far.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Nanos;
use crate::request::{Class, PromptPrefix};

use super::ask::{Affinity, PermitRequest};
use super::canary_counts::LoadSide;
use super::fair_queue::{CallerCharge, TriedWorkers};
use super::ledger::RequestLoad;
use super::outcomes::RequestSource;
use super::provider::QuotaUse;
use super::stream_activity::{FLOWS, StreamActivity};

/// Identifies a permit; a gate never uses an id twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PermitId(pub(super) u64);

/// A request at a worker.
#[derive(Debug)]
pub(super) struct PermitRecord {
    pub(super) worker: usize,
    pub(super) class: Class,
    pub(super) load: RequestLoad,
    pub(super) charge: CallerCharge,
    pub(super) granted: Nanos,
    /// The request's parameters, while the permit may still be revoked.
    pub(super) ask: Option<Box<PermitRequest>>,
    /// Sequences it was granted for.
    sequences: u32,
    pub(super) stream: bool,
    dispatched: Option<Dispatch>,
    /// The worker has read the prompt: seen by the first token, or assumed.
    pub(super) prefilled: bool,
    /// Time and total of the last count of tokens.
    counted: Option<(Nanos, u64)>,
    /// When anything last arrived.
    flowed_at: Option<Nanos>,
    /// Period (see `stream_activity`) that last counted it as flowing.
    flowed_in: Option<u64>,
    /// Largest number of output tokens seen.
    seen: u64,
    /// Prompt tokens that the worker counted; 0 until it tells.
    prompt_counted: u64,
    /// Tokens charged to the quota of an external worker.
    pub(super) quota_charge: u64,
    /// The current worker answered with an error, or failed otherwise and that is recorded.
    failed: bool,
    /// A worker of its side of a canary failed it.
    failed_by_side: bool,
    /// The side of a canary that it counts for.
    pub(super) side: LoadSide,
    /// Time from its dispatch to its first token.
    ttft: Option<Duration>,
    /// It was in flight when its worker fell silent.
    hung: bool,
    /// Indexes of workers that had this request before.
    pub(super) tried: TriedWorkers,
    /// Hash of its session.
    session: Option<u64>,
    /// Prefix of its prompt.
    pub(super) prefix: Option<Arc<PromptPrefix>>,
    /// Blocks of it that its worker had when it was granted.
    pub(super) known_blocks: usize,
    /// Cached prompt tokens that the worker has reported.
    pub(super) reported_cached: Option<u64>,
}

/// State at the dispatch of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dispatch {
    pub(super) at: Nanos,
    /// Prompt tokens of other requests that the worker had not read.
    pub(super) ahead: u64,
    /// Sequences in flight at the worker, its own included.
    pub(super) in_flight: u32,
    /// When its prompt is assumed to be read; `None` if a first token will show it.
    pub(super) read_by: Option<Nanos>,
    /// `true` if it waits for the process that has its session, or nobody has told for how long it did:
    /// then its times say nothing about the worker's load.
    pub(super) bound: bool,
}

impl PermitRecord {
    pub(super) fn new(
        worker: usize,
        class: Class,
        load: RequestLoad,
        stream: bool,
        charge: CallerCharge,
        now: Nanos,
    ) -> Self {
        Self {
            worker,
            class,
            load,
            charge,
            granted: now,
            ask: None,
            sequences: load.sequences,
            stream,
            dispatched: None,
            prefilled: false,
            counted: None,
            flowed_at: None,
            flowed_in: None,
            seen: 0,
            prompt_counted: 0,
            quota_charge: 0,
            failed: false,
            failed_by_side: false,
            side: load.side,
            ttft: None,
            hung: false,
            tried: TriedWorkers::new(),
            session: None,
            prefix: None,
            known_blocks: 0,
            reported_cached: None,
        }
    }

    /// Returns `true` if the worker at `place` has the request or had it before.
    pub(super) fn has_tried(&self, place: usize) -> bool {
        self.worker == place || self.tried.contains(&place)
    }

    /// Sets what binds it to some of the workers.
    pub(super) fn bind(&mut self, affinity: Affinity) {
        (self.session, self.prefix) = (affinity.session, affinity.prefix);
    }

    /// Returns who sent it, and what bound it to a worker.
    pub(super) fn source(&self) -> RequestSource {
        let whole = || self.prefix.as_ref().and_then(|prefix| prefix.blocks.last().copied());
        RequestSource { caller: self.charge.key, bound_by: self.session.or_else(whole) }
    }

    /// Records that it was sent to its worker.
    pub(super) const fn dispatch(&mut self, dispatch: Dispatch) {
        self.dispatched = Some(dispatch);
    }

    /// Records that it waits for the process that has its session. Returns when it was dispatched.
    pub(super) fn wait_for_session(&mut self) -> Option<Nanos> {
        let dispatch = self.dispatched.as_mut()?;
        dispatch.bound = true;
        Some(dispatch.at)
    }

    /// Records that this process took it `waited` after its dispatch, from when its times count. Returns
    /// when it was dispatched, and when it was taken; `None` if it does not wait for a process.
    pub(super) fn begin_in_session(&mut self, waited: Duration, now: Nanos) -> Option<(Nanos, Nanos)> {
        let dispatch = self.dispatched.as_mut().filter(|dispatch| dispatch.bound)?;
        let begun = (dispatch.at + waited).min(now);
        let sent = std::mem::replace(&mut dispatch.at, begun);
        dispatch.bound = false;
        Some((sent, begun))
    }

    /// Records the first token, `ttft` after the dispatch, and that the stream flows.
    pub(super) fn begin(&mut self, ttft: Duration, flow: &mut StreamActivity, now: Nanos) {
        self.ttft = Some(ttft);
        self.flowed_at = Some(now);
        flow.count(self.load.sequences, &mut self.flowed_in, now);
    }

    /// Returns the time and total of the last count of tokens.
    pub(super) const fn last_count(&self) -> Option<(Nanos, u64)> {
        self.counted
    }

    /// Counts `seen` output tokens in total, and that a stream flows.
    pub(super) fn count_tokens(&mut self, seen: u64, flow: &mut StreamActivity, now: Nanos) {
        if self.stream {
            flow.count(self.load.sequences, &mut self.flowed_in, now);
        }
        self.counted = Some((now, seen));
        self.flowed_at = Some(now);
    }

    /// Removes `sequences` of it, which have ended or leave, from those that flow or hang.
    pub(super) fn leave_flow(&self, sequences: u32, flow: &mut StreamActivity, now: Nanos) {
        flow.remove_hung(self.hung, sequences);
        flow.uncount(sequences, self.flowed_in, now);
    }

    /// Records that its worker has fallen silent.
    pub(super) const fn hang(&mut self) {
        self.hung = true;
    }

    /// Moves it to the worker at `place`, where its load will be `load`, and begins its course anew.
    pub(super) fn move_to(&mut self, place: usize, load: RequestLoad) {
        (self.worker, self.load) = (place, load);
        (self.dispatched, self.prefilled, self.failed) = (None, false, false);
        (self.counted, self.flowed_at, self.flowed_in, self.hung) = (None, None, None, false);
        (self.prompt_counted, self.ttft) = (0, None);
    }

    /// Records the number of prompt tokens that the worker counted.
    pub(super) const fn count_prompt(&mut self, prompt: u64) {
        self.prompt_counted = prompt;
    }

    /// Records that its worker failed it, which is on trial or, if not `canary`, a usual one.
    pub(super) fn fail_at(&mut self, canary: bool) {
        self.failed = true;
        self.failed_by_side |= self.side.counts_for_canary() == Some(canary);
    }

    /// Records that the answer is an error, of the worker or of the caller.
    pub(super) const fn fail(&mut self) {
        self.failed = true;
    }

    /// Returns what it used of the quota of an external worker. A refused request took no tokens;
    /// one whose client left may have taken all that was expected.
    pub(super) fn quota_use(&self) -> QuotaUse {
        let prompt = if self.prompt_counted > 0 { self.prompt_counted } else { self.load.prompt };
        match self.dispatched {
            None => QuotaUse::Unsent,
            Some(_) if self.failed => QuotaUse::Tokens(0),
            Some(_) if self.seen > 0 || self.prompt_counted > 0 => {
                QuotaUse::Tokens(prompt.saturating_add(self.seen))
            }
            Some(_) => QuotaUse::Tokens(self.quota_charge),
        }
    }

    /// Returns the sequences that it was granted for, those that have ended included.
    pub(super) const fn granted_sequences(&self) -> u32 {
        self.sequences
    }

    /// Returns the state when it was sent to its current worker; `None` before that.
    pub(super) const fn last_dispatch(&self) -> Option<Dispatch> {
        self.dispatched
    }

    /// Returns the load that it really caused; `None` if it was not sent.
    pub(super) fn used_load(&self) -> Option<RequestLoad> {
        let cached = self.reported_cached.unwrap_or(self.load.cached);
        self.dispatched.map(|_| RequestLoad { output: self.seen, cached, ..self.load })
    }

    /// Returns when it was sent to its current worker.
    pub(super) fn dispatched_at(&self) -> Option<Nanos> {
        self.dispatched.map(|dispatch| dispatch.at)
    }

    /// Returns `true` if its answer is an error.
    pub(super) const fn has_failed(&self) -> bool {
        self.failed
    }

    /// Returns `true` if a worker of its side of a canary failed it.
    pub(super) const fn has_failed_by_side(&self) -> bool {
        self.failed_by_side
    }

    /// Returns the output tokens seen.
    pub(super) const fn seen_tokens(&self) -> u64 {
        self.seen
    }

    /// Returns the time from its dispatch to its first token.
    pub(super) const fn ttft(&self) -> Option<Duration> {
        self.ttft
    }

    /// Returns `true` if its worker has begun to answer.
    pub(super) const fn has_begun(&self) -> bool {
        self.flowed_at.is_some()
    }

    /// Returns the sequences in flight at its worker when it was sent there, its own included.
    pub(super) fn in_flight_at_dispatch(&self) -> u32 {
        self.dispatched.map_or(0, |dispatch| dispatch.in_flight)
    }

    /// Returns `true` if its worker presumably decodes it while a request sent at `overdue` waits.
    /// A non-streamed request that was sent earlier is assumed to be decoded.
    pub(super) fn flows(&self, overdue: Nanos, now: Nanos) -> bool {
        if self.stream {
            self.flowed_at.is_some_and(|at| now.since(at) <= FLOWS)
        } else {
            self.dispatched.is_some_and(|dispatch| dispatch.at <= overdue)
        }
    }

    /// Records `seen` output tokens in total. Returns how many of them are new, and how many more than
    /// expected; these are expected from now on.
    pub(super) fn see(&mut self, seen: u64) -> (u64, u64) {
        let new = seen.saturating_sub(self.seen);
        self.seen += new;
        let beyond = self.seen.saturating_sub(self.load.output);
        self.load.output += beyond;
        (new, beyond)
    }
}
