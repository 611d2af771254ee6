//! Back to the queue: requests that lose their seat before their answer has begun.
//!
//! A critical request that finds no room takes the seat of a batch request. Nothing was sent to that client yet, so
//! nothing is lost but the part of a prompt that the worker has read. The youngest goes first, for it has the least
//! behind it. It is put into the queue again, or told `overloaded`. So is a request whose worker failed it while all
//! others are full: it was admitted once, and need not fail for that.
//!
//! * **Failure mode.** A request that must not be sent twice never gives way.
//! * **Trade-off.** The seat is written to its new owner at once, while the worker still drops the other request: for
//!   that moment it has one more than its limit.

use smallvec::SmallVec;

use crate::clock::Nanos;
use crate::refusal::Refusal;
use crate::request::Class;

use super::ask::Ask;
use super::callers::WaiterId;
use super::fair_queue::Tried;
use super::gate::Gate;
use super::refuse;
use super::seat::{Seat, SeatId};

/// Seats that are tried for one request: beyond them they hardly differ.
const TRIES: usize = 8;

/// A request that has lost its seat.
#[derive(Debug)]
pub struct Displaced {
    /// The seat it had.
    pub seat: SeatId,
    /// Its new place in the queue and when its wait ends, or why it has none.
    pub next: Result<(WaiterId, Nanos), Refusal>,
}

impl Gate {
    /// Who has lost its seat since this was last asked, in order. A place in the queue that somebody got here can
    /// already be among [`Gate::take_settled`].
    pub fn take_displaced(&mut self) -> impl Iterator<Item = Displaced> + '_ {
        self.displaced.drain(..)
    }

    /// Lets a request wait again whose worker failed it, and for which no other has room now. `None`: there is no other
    /// worker to wait for, and the seat stays. Otherwise the seat is free, and the request waits or is refused.
    pub fn resubmit(
        &mut self,
        id: SeatId,
        ask: &Ask,
        now: Nanos,
    ) -> Option<Result<(WaiterId, Nanos), Refusal>> {
        if !self.has_alternative(id, now) {
            return None;
        }
        let mut seat = self.unseat(id, now)?;
        seat.tried.push(seat.worker);
        let next = self.enqueue(ask, seat.tried, now);
        self.advance(now);
        self.serve(now);
        Some(next)
    }

    /// Whether there is another worker that takes work and has not had this seat, full or not.
    pub(super) fn has_alternative(&self, id: SeatId, now: Nanos) -> bool {
        let Some(seat) = self.seats.get(&id) else { return false };
        let mut others = self.workers.iter().enumerate().filter(|(place, _)| !seat.has_tried(*place));
        others.any(|(_, worker)| worker.as_ref().is_some_and(|worker| worker.open(now)))
    }

    /// Whether `seat` may be given to a critical request later.
    pub(super) fn may_yield(ask: &Ask) -> bool {
        ask.class == Class::Batch && ask.repeatable
    }

    /// The place of a worker where `ask` has room once the seat returned with it is gone.
    pub(super) fn find_yielding(&mut self, ask: &Ask, now: Nanos) -> Option<(usize, SeatId)> {
        if ask.class != Class::Critical {
            return None;
        }
        let load = ask.load();
        let youngest: SmallVec<[SeatId; TRIES]> =
            self.displaceable.iter().rev().take(TRIES).map(|(_, id)| *id).collect();
        youngest.into_iter().find_map(|id| {
            let seat = self.seats.get(&id)?;
            let (at, class, held, prefilled) = (seat.worker, seat.class as usize, seat.load, seat.prefilled);
            self.workers.get_mut(at)?.as_mut()?.ledger.vacate(class, &held, prefilled);
            self.recount(at, now);
            let place = self.place(&load, ask.class, ask.session, &[], now);
            self.workers.get_mut(at)?.as_mut()?.ledger.occupy(class, &held);
            self.recount(at, now);
            Some((place?, id))
        })
    }

    /// Takes a seat away; its owner is sent to the queue by [`Gate::requeue`].
    pub(super) fn unseat(&mut self, id: SeatId, now: Nanos) -> Option<Seat> {
        let mut seat = self.seats.remove(&id)?;
        self.vacate(id, &mut seat, now);
        self.in_flight = self.in_flight.saturating_sub(u64::from(seat.load.sequences));
        self.queue.settle(seat.charge, None);
        Some(seat)
    }

    /// Lets one who lost its seat wait again, or refuses it.
    pub(super) fn requeue(&mut self, id: SeatId, ask: &Ask, now: Nanos) {
        let next = self.enqueue(ask, Tried::new(), now).map_err(|_refusal| {
            let retry = self.retry_after(now);
            refuse::gave_way(&self.pool, retry)
        });
        self.displaced.push(Displaced { seat: id, next });
    }
}
