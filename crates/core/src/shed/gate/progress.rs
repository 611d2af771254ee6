//! The course of a request at its worker, from dispatch to its last token.
//!
//! Each step changes the worker's ledger, and shows the limit algorithm how the worker keeps up.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::Nanos;
use crate::shed::algorithm::WorkerSample;
use crate::shed::first_tokens::FirstTokenDeadlines;
use crate::shed::permit_record::{Dispatch, PermitId, PermitRecord};
use crate::shed::prefill::PrefillSample;
use crate::shed::worker::GateWorker;
use crate::shed::worker_ejection::WorkerTrouble;

use super::Gate;

/// Requests over which the usual number in flight is averaged.
const USUAL_OVER: f64 = 32.0;

impl Gate {
    /// Records that the request was sent to the worker.
    pub fn dispatched(&mut self, id: PermitId, now: Nanos) {
        let Self { permits, workers, settings, reading, .. } = self;
        let Some(permit) = permits.get_mut(&id) else { return };
        let Some(worker) = workers.get_mut(permit.worker).and_then(Option::as_mut) else { return };
        let again = permit.dispatched_at().is_some();
        Self::forget_dispatch(id, permit, worker, reading);
        let in_flight = worker.ledger.in_flight();
        worker.usual_in_flight += (f64::from(in_flight) - worker.usual_in_flight) / USUAL_OVER;
        let ahead = worker.ledger.prefill().saturating_sub(permit.load.unread());
        let mut dispatch = Dispatch { at: now, ahead, in_flight, read_by: None, bound: false };
        if permit.stream {
            let deadlines = FirstTokenDeadlines::new(&worker.prefill, ahead, &permit.load, settings, now);
            worker.first_tokens.wait_for(id, now, deadlines);
        } else if !permit.prefilled {
            // Other answers do not show when their prompt was read. Assume the time it takes for
            // streams, or half the TTFT SLO while nothing is known.
            let time = worker.prefill.reading(ahead, permit.load.unread());
            let read_by = now + time.unwrap_or(settings.slo(permit.load.prompt) / 2);
            dispatch.read_by = Some(read_by);
            reading.insert((read_by, id));
        }
        permit.dispatch(dispatch);
        worker.law.observe(WorkerSample::Dispatch { in_flight }, now);
        let place = permit.worker;
        self.update_sums(place, now);
        if again {
            // A worker that seemed stalled got a fresh start.
            self.serve(now);
        }
    }

    /// Records that a dispatched request waits for at most `wait` for the process that has its session.
    pub(in crate::shed) fn waits_for_session(&mut self, id: PermitId, wait: Duration) {
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        let Some(sent) = permit.wait_for_session() else { return };
        worker.first_tokens.extend_one(id, sent, wait);
    }

    /// Records that the process that has the session took the request `waited` after its dispatch.
    pub(in crate::shed) fn session_begun_after(&mut self, id: PermitId, waited: Duration, now: Nanos) {
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        let Some((sent, begun)) = permit.begin_in_session(waited, now) else { return };
        worker.first_tokens.count_from(id, sent, begun);
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
        if let Some(dispatch) = permit.last_dispatch()
            && worker.aside.trouble() == Some(WorkerTrouble::Busy)
        {
            worker.aside.succeeded(dispatch.at, now);
        }
        if let Some(dispatch) = permit.last_dispatch().filter(|_| permit.stream && !permit.prefilled) {
            let (prompt, ttft) = (permit.load.unread(), now.since(dispatch.at));
            worker.first_tokens.arrived(dispatch.at);
            permit.begin(ttft, &mut worker.flow, now);
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
        Self::forget_dispatch(id, permit, worker, reading);
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
            worker.count_output(permit, seen);
            worker.on_tokens(permit.stream, now);
            if let Some((since, before)) = permit.last_count()
                && seen > before
                && !worker.stalls.invalidates(since)
            {
                let (count, span) = (seen - before, now.since(since));
                worker.law.observe(WorkerSample::Tokens { count, span }, now);
                worker.flow.learn(count, span);
            }
            permit.count_tokens(seen, &mut worker.flow, now);
            if worker.aside.is_trial(id) {
                passed = permit.dispatched_at().filter(|sent| now.since(*sent) >= long);
            }
        });
        let permit = self.permits.get(&id).map(|permit| (permit.worker, permit.source()));
        if let Some((sent, (place, source))) = passed.zip(permit) {
            self.count_success(place, source, sent, now);
            self.update_sums(place, now);
            self.serve(now);
        }
    }

    /// Records the number of prompt tokens that the worker counted; 0 for none.
    pub(in crate::shed) fn prompt_counted(&mut self, id: PermitId, prompt: u64) {
        if let Some(permit) = self.permits.get_mut(&id).filter(|_| prompt > 0) {
            permit.count_prompt(prompt);
        }
    }

    /// Frees the places of `ended` sequences of the request, but keeps one until the release.
    pub fn finished(&mut self, id: PermitId, ended: u32, now: Nanos) {
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        let left = permit.granted_sequences().saturating_sub(ended).max(1);
        let freed = permit.load.sequences.saturating_sub(left);
        if freed > 0 {
            permit.load.sequences = left;
            permit.leave_flow(freed, &mut worker.flow, now);
            worker.ledger.shrink(permit.class as usize, freed);
            let place = permit.worker;
            self.in_flight = self.in_flight.saturating_sub(u64::from(freed));
            self.update_sums(place, now);
            self.process_timeouts(now);
            self.serve(now);
        }
    }

    /// Removes a request from those that wait for their first token.
    pub(super) fn forget_dispatch(
        id: PermitId,
        permit: &PermitRecord,
        worker: &mut GateWorker,
        reading: &mut BTreeSet<(Nanos, PermitId)>,
    ) {
        if let Some(dispatch) = permit.last_dispatch() {
            worker.first_tokens.forget(id, dispatch.at);
            if let Some(read_by) = dispatch.read_by {
                reading.remove(&(read_by, id));
            }
        }
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
}
