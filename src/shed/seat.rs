//! The life of a permit, from grant to release, and what the limit algorithm learns from it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Nanos;
use crate::request::{Class, Ending};

use super::aside::WorkerTrouble;
use super::ask::{Ask, Failure};
use super::fair_queue::{Charge, Tried};
use super::gate::Gate;
use super::law::Sample;
use super::ledger::Load;
use super::member::{LOOK_EVERY, Suspicion, Worker};
use super::outcomes::FailureEvidence;
use super::prefill::Reading;
use super::silence::FLOWS;

/// Identifies a permit; a gate never uses an id twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatId(pub(super) u64);

/// A request at a worker.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) worker: usize,
    pub(super) class: Class,
    pub(super) load: Load,
    pub(super) charge: Charge,
    pub(super) granted: Nanos,
    /// The request's parameters, while the permit may still be revoked.
    pub(super) ask: Option<Box<Ask>>,
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
    /// The current worker answered with an error, or failed otherwise and that is recorded.
    failed: bool,
    /// It was in flight when its worker fell silent.
    pub(super) hung: bool,
    /// Indexes of workers that had this request before.
    pub(super) tried: Tried,
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
}

/// An overdue first token, while other streams flow, is certain after this time: the worker decodes
/// at most the number of sequences that flowed meanwhile.
const CERTAIN: Duration = Duration::from_millis(150);
/// The same if no more sequences are in flight than just flowed at once.
const CERTAIN_OF_LESS: Duration = Duration::from_millis(400);

impl Seat {
    pub(super) fn new(
        worker: usize,
        class: Class,
        load: Load,
        stream: bool,
        charge: Charge,
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
            failed: false,
            hung: false,
            tried: Tried::new(),
        }
    }
}

impl Gate {
    /// Records that the request was sent to the worker.
    pub fn dispatched(&mut self, id: SeatId, now: Nanos) {
        let Self { seats, workers, settings, reading, .. } = self;
        let Some(seat) = seats.get_mut(&id) else { return };
        let Some(worker) = workers.get_mut(seat.worker).and_then(Option::as_mut) else { return };
        let again = seat.dispatched.is_some();
        seat.forget_dispatch(id, worker, reading);
        let in_flight = worker.ledger.in_flight();
        let ahead = worker.ledger.prefill().saturating_sub(seat.load.prompt);
        let mut dispatch = Dispatch { at: now, ahead, in_flight, read_by: None };
        if seat.stream {
            worker.unread.insert((now, id), worker.patience(ahead, seat.load.prompt, settings, now));
        } else if !seat.prefilled {
            // Other answers do not show when their prompt was read. Assume the time it takes for
            // streams, or half the TTFT SLO while nothing is known.
            let time = worker.prefill.reading(ahead, seat.load.prompt);
            let read_by = now + time.unwrap_or(settings.slo(seat.load.prompt) / 2);
            dispatch.read_by = Some(read_by);
            reading.insert((read_by, id));
        }
        seat.dispatched = Some(dispatch);
        worker.law.observe(Sample::Dispatch { in_flight }, now);
        let place = seat.worker;
        self.recount(place, now);
        if again {
            // A worker that seemed stalled got a fresh start.
            self.serve(now);
        }
    }

    /// Makes the permit irrevocable before the answer goes out. Returns `false` if just revoked.
    pub fn keep(&mut self, id: SeatId) -> bool {
        let Some(seat) = self.seats.get_mut(&id) else { return false };
        seat.ask = None;
        self.displaceable.remove(&(seat.granted, id));
        true
    }

    /// Records that the first content arrived.
    pub fn first_token(&mut self, id: SeatId, now: Nanos) {
        let Self { seats, workers, settings, reading, .. } = self;
        let Some(seat) = seats.get_mut(&id) else { return };
        let Some(worker) = workers.get_mut(seat.worker).and_then(Option::as_mut) else { return };
        worker.answers(now);
        if let Some(dispatch) = seat.dispatched
            && worker.aside.trouble() == Some(WorkerTrouble::Busy)
        {
            worker.aside.succeeded(dispatch.at, now);
        }
        if let Some(dispatch) = seat.dispatched.filter(|_| seat.stream && !seat.prefilled) {
            let (prompt, ttft) = (seat.load.prompt, now.since(dispatch.at));
            worker.answered = worker.answered.max(dispatch.at);
            seat.flowed_at = Some(now);
            worker.flow.count(seat.load.sequences, &mut seat.flowed_in, now);
            if !worker.stalls.spoil(dispatch.at) {
                let idle = settings.dams <= 1 && dispatch.in_flight <= seat.load.sequences;
                let queued = dispatch.in_flight > worker.flow.shown();
                worker.prefill.learn(Reading { prompt, ahead: dispatch.ahead, ttft, idle, queued }, now);
                let expected = worker.prefill.idle(prompt).unwrap_or(ttft);
                let (slo, flowing) = (settings.slo(prompt), worker.flow.most());
                let first = Sample::FirstToken { dispatched: dispatch.at, ttft, expected, slo, flowing };
                worker.law.observe(first, now);
            }
        }
        seat.forget_dispatch(id, worker, reading);
        if !seat.prefilled {
            seat.prefilled = true;
            worker.ledger.prefilled(&seat.load);
        }
        let place = seat.worker;
        self.recount(place, now);
        self.keep(id);
        // The worker has read a prompt, so there is time for another.
        self.serve(now);
    }

    /// Counts prompts as read whose assumed time is over. Returns `true` if there were any.
    pub(super) fn suppose_read(&mut self, now: Nanos) -> bool {
        let mut any = false;
        while let Some((_, id)) = self.reading.first().copied().filter(|(read_by, _)| *read_by <= now) {
            self.reading.pop_first();
            let Some((seat, worker)) = self.seat_and_worker(id) else { continue };
            seat.prefilled = true;
            worker.ledger.prefilled(&seat.load);
            self.keep(id);
            any = true;
        }
        any
    }

    /// Records that `seen` output tokens have arrived in total.
    pub fn tokens(&mut self, id: SeatId, seen: u64, now: Nanos) {
        let long = self.settings.ejection.base;
        let mut passed = None;
        self.note(id, now, |seat, worker| {
            seat.see(seen, worker);
            worker.flows(seat.stream, now);
            if let Some((since, before)) = seat.counted
                && seen > before
                && !worker.stalls.spoil(since)
            {
                let (count, span) = (seen - before, now.since(since));
                worker.law.observe(Sample::Tokens { count, span }, now);
                worker.flow.learn(count, span);
            }
            if seat.stream {
                worker.flow.count(seat.load.sequences, &mut seat.flowed_in, now);
            }
            seat.counted = Some((now, seen));
            seat.flowed_at = Some(now);
            if worker.aside.is_trial(id) {
                passed = seat.dispatched_at().filter(|sent| now.since(*sent) >= long);
            }
        });
        if let Some((sent, place)) = passed.zip(self.seats.get(&id).map(|seat| seat.worker)) {
            self.count_success(place, sent, now);
            self.recount(place, now);
            self.serve(now);
        }
    }

    /// Frees the places of `ended` sequences of the request, but keeps one until the release.
    pub fn finished(&mut self, id: SeatId, ended: u32, now: Nanos) {
        let Some((seat, worker)) = self.seat_and_worker(id) else { return };
        let left = seat.sequences.saturating_sub(ended).max(1);
        let freed = seat.load.sequences.saturating_sub(left);
        if freed > 0 {
            seat.load.sequences = left;
            worker.flow.hang_less(seat.hung, freed);
            worker.flow.uncount(freed, seat.flowed_in, now);
            worker.ledger.shrink(seat.class as usize, freed);
            let place = seat.worker;
            self.in_flight = self.in_flight.saturating_sub(u64::from(freed));
            self.recount(place, now);
            self.advance(now);
            self.serve(now);
        }
    }

    /// Records that the worker failed the request, which keeps its permit.
    pub fn worker_failed(&mut self, id: SeatId, kind: Failure, now: Nanos) {
        let Some((seat, worker)) = self.seat_and_worker(id) else { return };
        seat.failed = true;
        let place = seat.worker;
        if kind != Failure::Error {
            // A request that fails by itself says nothing about the worker's capacity.
            worker.law.observe(Sample::WorkerFailed { in_flight: seat.in_flight_at_dispatch() }, now);
        }
        match kind {
            Failure::Connect => worker.health.failed(now),
            Failure::Busy(_) | Failure::Refused | Failure::Error => worker.answers(now),
            Failure::Broke | Failure::Timeout => {}
        }
        if kind.counts() && worker.aside.is_trial(id) {
            worker.aside.wait(now);
        }
        if let Failure::Busy(_) = kind {
            self.pause(place, now);
        }
        self.recount(place, now);
        self.advance(now);
        self.serve(now);
    }

    /// Moves a permit to a worker with room that has not had the request. Returns the worker's id;
    /// `None` if there is none, and the permit stays.
    pub fn reassign(&mut self, id: SeatId, now: Nanos) -> Option<Arc<str>> {
        let mut seat = self.seats.remove(&id)?;
        seat.tried.push(seat.worker);
        let moved = self.choose(&seat.load, None, &seat.tried, now);
        let worker = moved.map(|place| {
            self.vacate(id, &mut seat, now);
            seat.worker = place;
            (seat.dispatched, seat.prefilled, seat.failed) = (None, false, false);
            (seat.counted, seat.flowed_at, seat.flowed_in, seat.hung) = (None, None, None, false);
            if seat.ask.is_some() {
                self.displaceable.insert((seat.granted, id));
            }
            self.occupy(id, &seat, now)
        });
        if worker.is_none() {
            seat.tried.pop();
        }
        self.seats.insert(id, seat);
        self.serve(now);
        worker
    }

    /// Releases a permit, unless it is free; `seen` output tokens have arrived in total.
    pub fn release(&mut self, id: SeatId, ending: Ending, seen: u64, now: Nanos) {
        let Self { seats, workers, settings, .. } = self;
        let Some(seat) = seats.get_mut(&id) else { return };
        let Some(worker) = workers.get_mut(seat.worker).and_then(Option::as_mut) else { return };
        seat.see(seen, worker);
        let in_flight = seat.in_flight_at_dispatch();
        let sample = seat.dispatched.and_then(|dispatch| match ending {
            Ending::Complete if !seat.failed => {
                let elapsed = now.since(dispatch.at);
                if !seat.stream && !worker.stalls.spoil(dispatch.at) {
                    let (prompt, sequences) = (seat.load.prompt, u64::from(seat.sequences.max(1)));
                    let whole = Sample::Whole {
                        dispatched: dispatch.at,
                        elapsed,
                        tokens: seat.seen / sequences,
                        expected: worker.prefill.idle(prompt).unwrap_or_default(),
                        slo: settings.slo(prompt),
                    };
                    worker.law.observe(whole, now);
                    let written = if seat.seen > 0 { seat.seen } else { seat.load.output };
                    worker.pace.learn(elapsed, written / sequences);
                }
                Some(Sample::End { elapsed, in_flight })
            }
            Ending::ClientGone => Some(Sample::ClientGone),
            Ending::WorkerFailed | Ending::TimedOut if !seat.failed => {
                Some(Sample::WorkerFailed { in_flight })
            }
            Ending::Complete | Ending::WorkerFailed | Ending::TimedOut | Ending::Refused => None,
        });
        if let Some(sample) = sample {
            worker.law.observe(sample, now);
        }
        if ending == Ending::Complete {
            worker.answers(now);
        }
        let (place, sent, caller) = (seat.worker, seat.dispatched_at(), seat.caller());
        match ending {
            Ending::Complete if !seat.failed => self.count_success(place, sent.unwrap_or(now), now),
            Ending::WorkerFailed if !seat.failed => {
                self.count_failure(place, FailureEvidence::Caller(caller), now);
            }
            _ => {}
        }
        let Some(seat) = self.seats.get(&id) else { return };
        let used = seat.dispatched.map(|_| Load { output: seat.seen, ..seat.load });
        self.free(id, used, now);
    }

    /// Removes a permit; `used` is the load it really caused, `None` for no load.
    pub(super) fn free(&mut self, id: SeatId, used: Option<Load>, now: Nanos) {
        let Some(mut seat) = self.seats.remove(&id) else { return };
        self.vacate(id, &mut seat, now);
        self.in_flight = self.in_flight.saturating_sub(u64::from(seat.load.sequences));
        self.drain.freed(now.since(seat.granted), now);
        self.queue.settle(seat.charge, used);
        self.advance(now);
        self.serve(now);
    }

    /// Applies `happen` to a permit; serves the queue at once if that gave its worker more room.
    fn note(&mut self, id: SeatId, now: Nanos, happen: impl FnOnce(&mut Seat, &mut Worker)) {
        let Some((seat, worker)) = self.seat_and_worker(id) else { return };
        let before = worker.room(now);
        happen(seat, worker);
        let more = worker.room(now) > before;
        let place = seat.worker;
        self.look_for_overdue(place, now);
        self.recount(place, now);
        if more {
            self.serve(now);
        }
    }

    /// Tells the limit algorithm when a first token is overdue while other streams flow.
    fn look_for_overdue(&mut self, place: usize, now: Nanos) {
        let Self { workers, seats, settings, .. } = self;
        let Some(worker) = workers.get_mut(place).and_then(Option::as_mut) else { return };
        if now.since(worker.looked_at) < LOOK_EVERY {
            return;
        }
        let Some(dispatched) = worker.overdue(now).filter(|sent| !worker.stalls.spoil(*sent)) else {
            worker.suspicion = None;
            return;
        };
        worker.looked_at = now;
        let here = seats.values().filter(|seat| seat.worker == place);
        let flowing: u32 =
            here.filter(|seat| seat.flows(dispatched, now)).map(|seat| seat.load.sequences).sum();
        let suspicion = worker.suspicion.get_or_insert(Suspicion { since: now, flowing });
        suspicion.flowing = suspicion.flowing.max(flowing);
        let beyond = worker.ledger.in_flight() > worker.flow.shown();
        let certain = match (beyond, worker.prefill.is_spread(settings.ttft_slo)) {
            (true, false) => Duration::ZERO,
            (true, true) => CERTAIN,
            (false, _) => CERTAIN_OF_LESS,
        };
        if now.since(suspicion.since) >= certain {
            let flowing = suspicion.flowing;
            worker.suspicion = None;
            worker.law.observe(Sample::Overdue { dispatched, flowing }, now);
        }
    }

    /// Removes a permit from its worker's ledger and lists.
    pub(super) fn vacate(&mut self, id: SeatId, seat: &mut Seat, now: Nanos) {
        self.displaceable.remove(&(seat.granted, id));
        let Some(place) = self.workers.get_mut(seat.worker) else { return };
        if let Some(worker) = place {
            seat.forget_dispatch(id, worker, &mut self.reading);
            worker.aside.end_trial(id);
            worker.flow.hang_less(seat.hung, seat.load.sequences);
            worker.flow.uncount(seat.load.sequences, seat.flowed_in, now);
            worker.ledger.vacate(seat.class as usize, &seat.load, seat.prefilled);
        }
        place.take_if(|worker| worker.is_gone());
        self.recount(seat.worker, now);
    }

    pub(super) fn seat_and_worker(&mut self, id: SeatId) -> Option<(&mut Seat, &mut Worker)> {
        let seat = self.seats.get_mut(&id)?;
        let worker = self.workers.get_mut(seat.worker)?.as_mut()?;
        Some((seat, worker))
    }
}

impl Seat {
    /// Returns `true` if the worker at `place` has the request or had it before.
    pub(super) fn has_tried(&self, place: usize) -> bool {
        self.worker == place || self.tried.contains(&place)
    }

    /// Removes the request from those that wait for their first token.
    fn forget_dispatch(&self, id: SeatId, worker: &mut Worker, reading: &mut BTreeSet<(Nanos, SeatId)>) {
        if let Some(dispatch) = self.dispatched {
            worker.unread.remove(&(dispatch.at, id));
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

    /// Returns when it was sent to its current worker.
    pub(super) fn dispatched_at(&self) -> Option<Nanos> {
        self.dispatched.map(|dispatch| dispatch.at)
    }

    /// Returns `true` if its worker has begun to answer.
    pub(super) const fn has_begun(&self) -> bool {
        self.flowed_at.is_some()
    }

    fn in_flight_at_dispatch(&self) -> u32 {
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
    fn see(&mut self, seen: u64, worker: &mut Worker) {
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
