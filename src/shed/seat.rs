//! The course of a seat, from its grant to its release, and what the worker's law hears of it.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::clock::Nanos;
use crate::request::{Class, Ending};

use super::ask::Failure;
use super::fair_queue::Charge;
use super::gate::Gate;
use super::law::Sample;
use super::ledger::Load;
use super::member::Worker;

/// Names a seat; never used twice by one gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatId(pub(super) u64);

/// A request at a worker.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) worker: usize,
    pub(super) class: Class,
    pub(super) load: Load,
    charge: Charge,
    granted: Nanos,
    dispatched: Option<Nanos>,
    prefilled: bool,
    /// When tokens were last counted, and how many there were.
    counted: Option<(Nanos, u64)>,
    /// The most tokens ever seen.
    seen: u64,
    /// A failure of the present worker was told already.
    failed: bool,
    /// Places of workers that had this seat before.
    tried: SmallVec<[usize; 2]>,
}

impl Seat {
    pub(super) fn new(worker: usize, class: Class, load: Load, charge: Charge, now: Nanos) -> Self {
        Self {
            worker,
            class,
            load,
            charge,
            granted: now,
            dispatched: None,
            prefilled: false,
            counted: None,
            seen: 0,
            failed: false,
            tried: SmallVec::new(),
        }
    }
}

impl Gate {
    /// The request was sent to the worker.
    pub fn dispatched(&mut self, id: SeatId, now: Nanos) {
        self.note(id, now, |seat, worker| {
            seat.dispatched = Some(now);
            worker.law.observe(Sample::Dispatch { in_flight: worker.ledger.in_flight() }, now);
        });
    }

    /// The first content arrived.
    pub fn first_token(&mut self, id: SeatId, now: Nanos) {
        self.note(id, now, |seat, worker| {
            worker.health.answered();
            if seat.prefilled {
                return;
            }
            seat.prefilled = true;
            worker.ledger.prefilled(&seat.load);
            if let Some(dispatched) = seat.dispatched {
                let ttft = now.since(dispatched);
                worker.law.observe(Sample::FirstToken { ttft, prompt_tokens: seat.load.prompt }, now);
            }
        });
    }

    /// `seen` output tokens have arrived in all.
    pub fn tokens(&mut self, id: SeatId, seen: u64, now: Nanos) {
        self.note(id, now, |seat, worker| {
            seat.see(seen, worker);
            if let Some((since, before)) = seat.counted
                && seen > before
            {
                let sample = Sample::Tokens { count: seen - before, span: now.since(since) };
                worker.law.observe(sample, now);
            }
            seat.counted = Some((now, seen));
        });
    }

    /// The worker failed the request, which still has its seat.
    pub fn worker_failed(&mut self, id: SeatId, kind: Failure, now: Nanos) {
        let Some((seat, worker)) = self.seat_and_worker(id) else { return };
        seat.failed = true;
        worker.law.observe(Sample::WorkerFailed, now);
        match kind {
            Failure::Connect => worker.health.connect_failed(now),
            Failure::Refused => worker.health.answered(),
            Failure::Broke | Failure::Timeout => {}
        }
        self.advance(now);
        self.serve(now);
    }

    /// Moves a seat to a worker that has not had it and has room now. `None`: there is none, and the seat stays.
    pub fn reassign(&mut self, id: SeatId, now: Nanos) -> Option<Arc<str>> {
        let mut seat = self.seats.remove(&id)?;
        seat.tried.push(seat.worker);
        let moved = self.choose(&seat.load, None, &seat.tried, now);
        let worker = moved.map(|place| {
            self.vacate(&seat);
            seat.worker = place;
            (seat.dispatched, seat.prefilled, seat.counted, seat.failed) = (None, false, None, false);
            self.occupy(&seat)
        });
        if worker.is_none() {
            seat.tried.pop();
        }
        self.seats.insert(id, seat);
        self.serve(now);
        worker
    }

    /// Frees a seat. `seen` output tokens have arrived in all. A seat that is free already stays so.
    pub fn release(&mut self, id: SeatId, ending: Ending, seen: u64, now: Nanos) {
        let Some((seat, worker)) = self.seat_and_worker(id) else { return };
        seat.see(seen, worker);
        let sample = match ending {
            Ending::Complete => Some(Sample::End),
            Ending::ClientGone => Some(Sample::ClientGone),
            Ending::WorkerFailed | Ending::TimedOut if !seat.failed => Some(Sample::WorkerFailed),
            Ending::WorkerFailed | Ending::TimedOut | Ending::Refused => None,
        };
        if let Some(sample) = sample.filter(|_| seat.dispatched.is_some()) {
            worker.law.observe(sample, now);
        }
        if ending == Ending::Complete {
            worker.health.answered();
        }
        let Some(seat) = self.seats.remove(&id) else { return };
        self.vacate(&seat);
        self.in_flight = self.in_flight.saturating_sub(u64::from(seat.load.sequences));
        self.drain.freed(now.since(seat.granted), now);
        let used = seat.dispatched.map(|_| Load { output: seat.seen, ..seat.load });
        self.queue.settle(seat.charge, used);
        self.advance(now);
        self.serve(now);
    }

    /// Notes what happened to a seat. If its worker takes more after it than before, the queue learns of it at once.
    fn note(&mut self, id: SeatId, now: Nanos, happen: impl FnOnce(&mut Seat, &mut Worker)) {
        let Some((seat, worker)) = self.seat_and_worker(id) else { return };
        let before = worker.room(now);
        happen(seat, worker);
        if worker.room(now) > before {
            self.serve(now);
        }
    }

    fn vacate(&mut self, seat: &Seat) {
        let Some(place) = self.workers.get_mut(seat.worker) else { return };
        if let Some(worker) = place {
            worker.ledger.vacate(seat.class as usize, &seat.load, seat.prefilled);
        }
        place.take_if(|worker| worker.is_gone());
    }

    fn seat_and_worker(&mut self, id: SeatId) -> Option<(&mut Seat, &mut Worker)> {
        let seat = self.seats.get_mut(&id)?;
        let worker = self.workers.get_mut(seat.worker)?.as_mut()?;
        Some((seat, worker))
    }
}

impl Seat {
    /// Trues up what the request holds.
    fn see(&mut self, seen: u64, worker: &mut Worker) {
        self.seen = self.seen.max(seen);
        let more = self.seen.saturating_sub(self.load.output);
        self.load.output += more;
        worker.ledger.grow(more);
    }
}
