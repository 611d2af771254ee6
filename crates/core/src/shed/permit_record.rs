//! The life of a permit, from grant to release, and what the limit algorithm learns from it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Nanos;
use crate::request::{Class, Ending, PromptPrefix};

use super::algorithm::WorkerSample;
use super::ask::{Affinity, PermitRequest, WorkerFailure};
use super::canary_counts::LoadSide;
use super::fair_queue::{CallerCharge, TriedWorkers};
use super::gate::Gate;
use super::ledger::RequestLoad;
use super::outcomes::FailureEvidence;
use super::prefill::PrefillSample;
use super::provider::QuotaUse;
use super::silence::FLOWS;
use super::worker::{GateWorker, LOOK_EVERY, Suspicion};
use super::worker_ejection::WorkerTrouble;

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
    /// Period (see `silence`) that last counted it as flowing.
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
    pub(super) failed_by_side: bool,
    /// The side of a canary that it counts for.
    pub(super) side: LoadSide,
    /// Time from its dispatch to its first token.
    pub(super) ttft: Option<Duration>,
    /// It was in flight when its worker fell silent.
    pub(super) hung: bool,
    /// Indexes of workers that had this request before.
    pub(super) tried: TriedWorkers,
    /// Prefix of its prompt.
    pub(super) prefix: Option<Arc<PromptPrefix>>,
    /// Blocks of it that its worker had when it was granted.
    pub(super) known_blocks: usize,
    /// Cached prompt tokens that the worker has reported.
    pub(super) reported_cached: Option<u64>,
}

/// State at the dispatch of a request.
#[derive(Clone, Copy, Debug)]
struct Dispatch {
    at: Nanos,
    /// Prompt tokens of other requests that the worker had not read.
    ahead: u64,
    /// Sequences in flight at the worker, its own included.
    in_flight: u32,
    /// When its prompt is assumed to be read; `None` if a first token will show it.
    read_by: Option<Nanos>,
    /// `true` if it waits for the process that has its session, or nobody has told for how long it did:
    /// then its times say nothing about the worker's load.
    bound: bool,
}

/// An overdue first token, while other streams flow, is certain after this time: the worker decodes
/// at most the number of sequences that flowed meanwhile.
const OVERDUE_CONFIRM: Duration = Duration::from_millis(150);
/// The same if no more sequences are in flight than just flowed at once.
const OVERDUE_CONFIRM_WITHIN_SHOWN: Duration = Duration::from_millis(400);

/// Requests over which the usual number in flight is averaged.
const USUAL_OVER: f64 = 32.0;

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
            prefix: None,
            known_blocks: 0,
            reported_cached: None,
        }
    }
}

impl Gate {
    /// Records that the request was sent to the worker.
    pub fn dispatched(&mut self, id: PermitId, now: Nanos) {
        let Self { permits, workers, settings, reading, .. } = self;
        let Some(permit) = permits.get_mut(&id) else { return };
        let Some(worker) = workers.get_mut(permit.worker).and_then(Option::as_mut) else { return };
        let again = permit.dispatched.is_some();
        permit.forget_dispatch(id, worker, reading);
        let in_flight = worker.ledger.in_flight();
        worker.usual_in_flight += (f64::from(in_flight) - worker.usual_in_flight) / USUAL_OVER;
        let ahead = worker.ledger.prefill().saturating_sub(permit.load.unread());
        let mut dispatch = Dispatch { at: now, ahead, in_flight, read_by: None, bound: false };
        if permit.stream {
            worker
                .awaiting_first_token
                .insert((now, id), worker.patience(ahead, &permit.load, settings, now));
        } else if !permit.prefilled {
            // Other answers do not show when their prompt was read. Assume the time it takes for
            // streams, or half the TTFT SLO while nothing is known.
            let time = worker.prefill.reading(ahead, permit.load.unread());
            let read_by = now + time.unwrap_or(settings.slo(permit.load.prompt) / 2);
            dispatch.read_by = Some(read_by);
            reading.insert((read_by, id));
        }
        permit.dispatched = Some(dispatch);
        worker.law.observe(WorkerSample::Dispatch { in_flight }, now);
        let place = permit.worker;
        self.update_sums(place, now);
        if again {
            // A worker that seemed stalled got a fresh start.
            self.serve(now);
        }
    }

    /// Records that a dispatched request waits for at most `wait` for the process that has its session.
    pub(super) fn waits_for_session(&mut self, id: PermitId, wait: Duration) {
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        let Some(dispatch) = &mut permit.dispatched else { return };
        dispatch.bound = true;
        if let Some(deadlines) = worker.awaiting_first_token.get_mut(&(dispatch.at, id)) {
            deadlines.extend(wait);
        }
    }

    /// Records that the process that has the session took the request `waited` after its dispatch.
    pub(super) fn session_begun_after(&mut self, id: PermitId, waited: Duration, now: Nanos) {
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        let Some(dispatch) = permit.dispatched.as_mut().filter(|dispatch| dispatch.bound) else { return };
        let begun = (dispatch.at + waited).min(now);
        if let Some(deadlines) = worker.awaiting_first_token.remove(&(dispatch.at, id)) {
            worker.awaiting_first_token.insert((begun, id), deadlines);
        }
        (dispatch.at, dispatch.bound) = (begun, false);
    }

    /// Records that the answer is a stream, though the request did not say so in time.
    pub fn answered_as_stream(&mut self, id: PermitId) {
        if let Some(permit) = self.permits.get_mut(&id) {
            permit.stream = true;
        }
    }

    /// Makes the permit irrevocable before the answer goes out. Returns `false` if just revoked.
    pub fn keep(&mut self, id: PermitId) -> bool {
        let Some(permit) = self.permits.get_mut(&id) else { return false };
        permit.ask = None;
        self.displaceable.remove(&(permit.granted, id));
        true
    }

    /// Records that the first content arrived.
    pub fn first_token(&mut self, id: PermitId, now: Nanos) {
        let Self { permits, workers, settings, reading, .. } = self;
        let Some(permit) = permits.get_mut(&id) else { return };
        let Some(worker) = workers.get_mut(permit.worker).and_then(Option::as_mut) else { return };
        worker.on_answer(now);
        if let Some(dispatch) = permit.dispatched
            && worker.aside.trouble() == Some(WorkerTrouble::Busy)
        {
            worker.aside.succeeded(dispatch.at, now);
        }
        if let Some(dispatch) = permit.dispatched.filter(|_| permit.stream && !permit.prefilled) {
            let (prompt, ttft) = (permit.load.unread(), now.since(dispatch.at));
            permit.ttft = Some(ttft);
            worker.answered = worker.answered.max(dispatch.at);
            permit.flowed_at = Some(now);
            worker.flow.count(permit.load.sequences, &mut permit.flowed_in, now);
            if !dispatch.bound && !worker.stalls.invalidates(dispatch.at) {
                let idle = settings.gateways <= 1 && dispatch.in_flight <= permit.load.sequences;
                let queued = dispatch.in_flight > worker.flow.long_peak();
                worker
                    .prefill
                    .learn(PrefillSample { prompt, ahead: dispatch.ahead, ttft, idle, queued }, now);
                let expected = worker.prefill.idle(prompt).unwrap_or(ttft);
                let (slo, flowing) = (settings.slo(permit.load.prompt), worker.flow.recent_peak());
                let first =
                    WorkerSample::FirstToken { dispatched: dispatch.at, ttft, expected, slo, flowing };
                worker.law.observe(first, now);
            }
        }
        permit.forget_dispatch(id, worker, reading);
        if !permit.prefilled {
            permit.prefilled = true;
            worker.ledger.prefilled(&permit.load);
        }
        let place = permit.worker;
        self.update_sums(place, now);
        self.keep(id);
        // The worker has read a prompt, so there is time for another.
        self.serve(now);
    }

    /// Counts prompts as read whose assumed time is over. Returns `true` if there were any.
    pub(super) fn mark_assumed_prefilled(&mut self, now: Nanos) -> bool {
        let mut any = false;
        while let Some((_, id)) = self.reading.first().copied().filter(|(read_by, _)| *read_by <= now) {
            self.reading.pop_first();
            let Some((permit, worker)) = self.seat_and_worker(id) else { continue };
            permit.prefilled = true;
            worker.ledger.prefilled(&permit.load);
            self.keep(id);
            any = true;
        }
        any
    }

    /// Records that `seen` output tokens have arrived in total.
    pub fn tokens(&mut self, id: PermitId, seen: u64, now: Nanos) {
        let long = self.settings.ejection.base;
        let mut passed = None;
        self.update(id, now, |permit, worker| {
            permit.update_output(seen, worker);
            worker.on_tokens(permit.stream, now);
            if let Some((since, before)) = permit.counted
                && seen > before
                && !worker.stalls.invalidates(since)
            {
                let (count, span) = (seen - before, now.since(since));
                worker.law.observe(WorkerSample::Tokens { count, span }, now);
                worker.flow.learn(count, span);
            }
            if permit.stream {
                worker.flow.count(permit.load.sequences, &mut permit.flowed_in, now);
            }
            permit.counted = Some((now, seen));
            permit.flowed_at = Some(now);
            if worker.aside.is_trial(id) {
                passed = permit.dispatched_at().filter(|sent| now.since(*sent) >= long);
            }
        });
        if let Some((sent, place)) = passed.zip(self.permits.get(&id).map(|permit| permit.worker)) {
            self.count_success(place, sent, now);
            self.update_sums(place, now);
            self.serve(now);
        }
    }

    /// Records the number of prompt tokens that the worker counted; 0 for none.
    pub(super) fn prompt_counted(&mut self, id: PermitId, prompt: u64) {
        if let Some(permit) = self.permits.get_mut(&id).filter(|_| prompt > 0) {
            permit.prompt_counted = prompt;
        }
    }

    /// Frees the places of `ended` sequences of the request, but keeps one until the release.
    pub fn finished(&mut self, id: PermitId, ended: u32, now: Nanos) {
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        let left = permit.sequences.saturating_sub(ended).max(1);
        let freed = permit.load.sequences.saturating_sub(left);
        if freed > 0 {
            permit.load.sequences = left;
            worker.flow.remove_hung(permit.hung, freed);
            worker.flow.uncount(freed, permit.flowed_in, now);
            worker.ledger.shrink(permit.class as usize, freed);
            let place = permit.worker;
            self.in_flight = self.in_flight.saturating_sub(u64::from(freed));
            self.update_sums(place, now);
            self.process_timeouts(now);
            self.serve(now);
        }
    }

    /// Records that the worker failed the request, which keeps its permit.
    pub fn worker_failed(&mut self, id: PermitId, kind: WorkerFailure, now: Nanos) {
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        permit.failed = true;
        permit.failed_by_side |= permit.side.counts_for_canary() == Some(worker.member.canary);
        let place = permit.worker;
        let quota = worker.member.external.clone();
        let of_the_quota = quota.is_some() && matches!(kind, WorkerFailure::Busy(_));
        worker.rejects |= kind == WorkerFailure::Rejected;
        if !matches!(kind, WorkerFailure::Error | WorkerFailure::Rejected) && !of_the_quota {
            // A request that fails by itself says nothing about the worker's capacity.
            worker.law.observe(WorkerSample::WorkerFailed { in_flight: permit.in_flight_at_dispatch() }, now);
        }
        match kind {
            WorkerFailure::Connect => worker.health.failed(now),
            WorkerFailure::Busy(_)
            | WorkerFailure::Refused
            | WorkerFailure::Rejected
            | WorkerFailure::Error => worker.on_answer(now),
            WorkerFailure::Broke | WorkerFailure::Timeout => {}
        }
        if kind.counts() && worker.aside.is_trial(id) {
            worker.aside.wait(now);
        }
        if kind == WorkerFailure::Connect {
            // A worker that is not there will have been restarted when it is back.
            self.prefixes.forget(place);
        }
        match (kind, quota) {
            (WorkerFailure::Busy(wait), Some(quota)) => quota.0.refused(wait, now),
            (WorkerFailure::Busy(_), None) => self.pause(place, now),
            _ => {}
        }
        self.update_sums(place, now);
        self.process_timeouts(now);
        self.serve(now);
    }

    /// Moves a permit to a worker with room that has not had the request. Returns the worker's id;
    /// `None` if there is none, and the permit stays.
    pub fn reassign(&mut self, id: PermitId, now: Nanos) -> Option<Arc<str>> {
        let mut permit = self.permits.remove(&id)?;
        permit.tried.push(permit.worker);
        let affinity = Affinity { session: None, prefix: permit.prefix.clone() };
        if permit.failed_by_side {
            permit.load.side = permit.load.side.elsewhere();
        }
        let moved = self.choose(&permit.load, &affinity, &permit.tried, now);
        let worker = moved.map(|place| {
            self.detach(id, &mut permit, now);
            permit.worker = place;
            permit.load = self.load_at(place, permit.load, &affinity);
            (permit.dispatched, permit.prefilled, permit.failed) = (None, false, false);
            (permit.counted, permit.flowed_at, permit.flowed_in, permit.hung) = (None, None, None, false);
            (permit.prompt_counted, permit.ttft) = (0, None);
            if permit.ask.is_some() {
                self.displaceable.insert((permit.granted, id));
            }
            self.attach(id, &mut permit, now)
        });
        if worker.is_none() {
            permit.tried.pop();
        }
        self.permits.insert(id, permit);
        self.serve(now);
        worker
    }

    /// Releases a permit, unless it is free; `seen` output tokens have arrived in total.
    pub fn release(&mut self, id: PermitId, ending: Ending, seen: u64, now: Nanos) {
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        permit.update_output(seen, worker);
        self.count_ended(id, ending, now);
        let Self { permits, workers, settings, .. } = self;
        let Some(permit) = permits.get_mut(&id) else { return };
        let Some(worker) = workers.get_mut(permit.worker).and_then(Option::as_mut) else { return };
        let in_flight = permit.in_flight_at_dispatch();
        let sample = permit.dispatched.and_then(|dispatch| match ending {
            Ending::Complete if !permit.failed => {
                let elapsed = now.since(dispatch.at);
                if !permit.stream && !dispatch.bound && !worker.stalls.invalidates(dispatch.at) {
                    let sequences = u64::from(permit.sequences.max(1));
                    let whole = WorkerSample::Whole {
                        dispatched: dispatch.at,
                        elapsed,
                        tokens: permit.seen / sequences,
                        expected: worker.prefill.idle(permit.load.unread()).unwrap_or_default(),
                        slo: settings.slo(permit.load.prompt),
                    };
                    worker.law.observe(whole, now);
                    let written = if permit.seen > 0 { permit.seen } else { permit.load.output };
                    worker.pace.learn(elapsed, written / sequences);
                }
                Some(WorkerSample::End { elapsed, in_flight })
            }
            Ending::ClientGone => Some(WorkerSample::ClientGone),
            Ending::WorkerFailed | Ending::TimedOut if !permit.failed => {
                Some(WorkerSample::WorkerFailed { in_flight })
            }
            Ending::Complete | Ending::WorkerFailed | Ending::TimedOut | Ending::Refused => None,
        });
        if let Some(sample) = sample {
            worker.law.observe(sample, now);
        }
        if ending == Ending::Complete {
            worker.on_answer(now);
        }
        let (place, sent, caller) = (permit.worker, permit.dispatched_at(), permit.caller());
        match ending {
            Ending::Complete if !permit.failed => self.count_success(place, sent.unwrap_or(now), now),
            Ending::WorkerFailed if !permit.failed => {
                self.count_failure(place, FailureEvidence::Caller(caller), now);
            }
            _ => {}
        }
        let Some(permit) = self.permits.get(&id) else { return };
        let cached = permit.reported_cached.unwrap_or(permit.load.cached);
        let used = permit.dispatched.map(|_| RequestLoad { output: permit.seen, cached, ..permit.load });
        self.free(id, used, now);
    }

    /// Removes a permit; `used` is the load it really caused, `None` for no load.
    pub(super) fn free(&mut self, id: PermitId, used: Option<RequestLoad>, now: Nanos) {
        let Some(mut permit) = self.permits.remove(&id) else { return };
        self.detach(id, &mut permit, now);
        self.in_flight = self.in_flight.saturating_sub(u64::from(permit.load.sequences));
        self.drain.freed(now.since(permit.granted), now);
        self.queue.settle(permit.charge, used);
        self.process_timeouts(now);
        self.serve(now);
    }

    /// Applies `happen` to a permit; serves the queue at once if that gave its worker more room.
    fn update(&mut self, id: PermitId, now: Nanos, happen: impl FnOnce(&mut PermitRecord, &mut GateWorker)) {
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        let before = worker.room(now);
        happen(permit, worker);
        let more = worker.room(now) > before;
        let place = permit.worker;
        self.look_for_overdue(place, now);
        self.update_sums(place, now);
        if more {
            self.serve(now);
        }
    }

    /// Tells the limit algorithm when a first token is overdue while other streams flow.
    fn look_for_overdue(&mut self, place: usize, now: Nanos) {
        let Self { workers, permits, settings, .. } = self;
        let Some(worker) = workers.get_mut(place).and_then(Option::as_mut) else { return };
        if now.since(worker.looked_at) < LOOK_EVERY {
            return;
        }
        let Some(dispatched) = worker.overdue(now).filter(|sent| !worker.stalls.invalidates(*sent)) else {
            worker.suspicion = None;
            return;
        };
        worker.looked_at = now;
        let here = permits.values().filter(|permit| permit.worker == place);
        let flowing: u32 =
            here.filter(|permit| permit.flows(dispatched, now)).map(|permit| permit.load.sequences).sum();
        let suspicion = worker.suspicion.get_or_insert(Suspicion { since: now, flowing });
        suspicion.flowing = suspicion.flowing.max(flowing);
        let beyond = worker.ledger.in_flight() > worker.flow.long_peak();
        let certain = match (beyond, worker.prefill.is_spread(settings.ttft_slo)) {
            (true, false) => Duration::ZERO,
            (true, true) => OVERDUE_CONFIRM,
            (false, _) => OVERDUE_CONFIRM_WITHIN_SHOWN,
        };
        if now.since(suspicion.since) >= certain {
            let flowing = suspicion.flowing;
            worker.suspicion = None;
            worker.law.observe(WorkerSample::Overdue { dispatched, flowing }, now);
        }
    }

    /// Removes a permit from its worker's ledger and lists.
    pub(super) fn detach(&mut self, id: PermitId, permit: &mut PermitRecord, now: Nanos) {
        self.displaceable.remove(&(permit.granted, id));
        let Some(place) = self.workers.get_mut(permit.worker) else { return };
        if let Some(worker) = place {
            permit.forget_dispatch(id, worker, &mut self.reading);
            worker.aside.end_trial(id);
            worker.settle_quota(permit, now);
            worker.flow.remove_hung(permit.hung, permit.load.sequences);
            worker.flow.uncount(permit.load.sequences, permit.flowed_in, now);
            worker.ledger.vacate(permit.class as usize, &permit.load, permit.prefilled);
        }
        if let Some(gone) = place.take_if(|worker| worker.is_gone()) {
            self.ejected.remember(&gone);
        }
        self.update_sums(permit.worker, now);
    }

    pub(super) fn seat_and_worker(&mut self, id: PermitId) -> Option<(&mut PermitRecord, &mut GateWorker)> {
        let permit = self.permits.get_mut(&id)?;
        let worker = self.workers.get_mut(permit.worker)?.as_mut()?;
        Some((permit, worker))
    }
}

impl PermitRecord {
    /// Returns `true` if the worker at `position` has the request or had it before.
    pub(super) fn has_tried(&self, place: usize) -> bool {
        self.worker == place || self.tried.contains(&place)
    }

    /// Removes the request from those that wait for their first token.
    fn forget_dispatch(
        &self,
        id: PermitId,
        worker: &mut GateWorker,
        reading: &mut BTreeSet<(Nanos, PermitId)>,
    ) {
        if let Some(dispatch) = self.dispatched {
            worker.awaiting_first_token.remove(&(dispatch.at, id));
            if let Some(read_by) = dispatch.read_by {
                reading.remove(&(read_by, id));
            }
        }
    }

    /// Returns the hash of the caller's id.
    pub(super) const fn caller(&self) -> u64 {
        self.charge.key
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

    /// Returns when it was sent to its current worker.
    pub(super) fn dispatched_at(&self) -> Option<Nanos> {
        self.dispatched.map(|dispatch| dispatch.at)
    }

    /// Returns `true` if its answer is an error.
    pub(super) const fn has_failed(&self) -> bool {
        self.failed
    }

    /// Returns the output tokens seen.
    pub(super) const fn seen_tokens(&self) -> u64 {
        self.seen
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
    fn flows(&self, overdue: Nanos, now: Nanos) -> bool {
        if self.stream {
            self.flowed_at.is_some_and(|at| now.since(at) <= FLOWS)
        } else {
            self.dispatched.is_some_and(|dispatch| dispatch.at <= overdue)
        }
    }

    /// Corrects the expected output by the tokens seen.
    fn update_output(&mut self, seen: u64, worker: &mut GateWorker) {
        // The tokens of a whole answer arrive at once, which does not show when they were decoded.
        if self.stream {
            worker.streamed += seen.saturating_sub(self.seen);
        }
        self.seen = self.seen.max(seen);
        let more = self.seen.saturating_sub(self.load.output);
        self.load.output += more;
        worker.ledger.grow(more);
    }
}
