//! The gate of one pool: who gets a seat, who waits, who is told to come back.
//!
//! Every change goes through a method that takes the time and leaves the gate settled: nobody waits who could be
//! served, nobody waits longer than allowed. What that meant for waiting requests is collected in
//! [`Gate::take_settled`], for the caller to hand on. A request at the head of the queue that does not fit holds up
//! those behind it, for at most its own wait: letting smaller ones pass would starve it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use hashbrown::HashMap;

use crate::clock::Nanos;
use crate::refusal::Refusal;

use super::ask::Ask;
use super::callers::WaiterId;
use super::crowd::Crowd;
use super::displace::Displaced;
use super::drain::Drain;
use super::fair_queue::{FairQueue, Tried};
use super::member::Worker;
use super::pick::{Candidate, Pick};
use super::refuse;
use super::roll::Roll;
use super::seat::{Seat, SeatId};
use super::settings::GateSettings;

/// A seat at a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The seat.
    pub seat: SeatId,
    /// The worker it is at.
    pub worker: Arc<str>,
    /// Whether it may be taken away for a critical request before the answer begins.
    pub yields: bool,
    /// Sequences it is for.
    pub sequences: u32,
    /// How long the request waited for it.
    pub waited: Duration,
}

/// A request that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has its seat.
    Granted(Grant),
    /// It waits; its outcome will be among [`Gate::take_settled`].
    Waiting {
        /// Names it.
        id: WaiterId,
        /// When its wait ends.
        expires_at: Nanos,
    },
}

/// What became of a request that waited.
pub type Outcome = (WaiterId, Result<Grant, Refusal>);

/// The gate of one pool.
#[derive(Debug)]
pub struct Gate {
    pub(super) pool: Arc<str>,
    pub(super) settings: GateSettings,
    pub(super) pick: Pick,
    /// A worker keeps its place; the place of one that is gone is used again.
    pub(super) workers: Vec<Option<Worker>>,
    pub(super) seats: HashMap<SeatId, Seat>,
    pub(super) queue: FairQueue,
    pub(super) drain: Drain,
    /// Who was told to come back of late.
    pub(super) told: Crowd,
    /// Sequences of all seats.
    pub(super) in_flight: u64,
    pub(super) random: Rng,
    next_seat: u64,
    pub(super) settled: Vec<Outcome>,
    pub(super) displaced: Vec<Displaced>,
    /// Seats that a critical request may take, by the time of their grant.
    pub(super) displaceable: BTreeSet<(Nanos, SeatId)>,
    /// Seats whose prompt is supposed to be read by then.
    pub(super) reading: BTreeSet<(Nanos, SeatId)>,
    /// Seats whose clients have left while their workers work on, by the time when they are free.
    pub(super) abandoned: BTreeSet<(Nanos, SeatId)>,
    /// Workers as the choice sees them, and their places. Kept to save allocations.
    pub(super) candidates: Vec<Candidate>,
    pub(super) places: Vec<usize>,
    /// What the workers come to together.
    pub(super) roll: Roll,
}

impl Gate {
    /// A gate without workers. `seed` is the start of its randomness: choices and jitter.
    #[must_use]
    pub fn new(pool: Arc<str>, settings: GateSettings, pick: Pick, seed: u64) -> Self {
        Self {
            pool,
            settings,
            pick,
            workers: Vec::new(),
            seats: HashMap::new(),
            queue: FairQueue::default(),
            drain: Drain::default(),
            told: Crowd::default(),
            in_flight: 0,
            random: Rng::with_seed(seed),
            next_seat: 0,
            settled: Vec::new(),
            displaced: Vec::new(),
            displaceable: BTreeSet::new(),
            reading: BTreeSet::new(),
            abandoned: BTreeSet::new(),
            candidates: Vec::new(),
            places: Vec::new(),
            roll: Roll::default(),
        }
    }

    /// Decides about a request.
    ///
    /// # Errors
    /// `request_too_large` when no worker can ever hold the prompt, `no_worker` when none takes work, `overloaded`
    /// when the wait would be too long or the queue is full.
    pub fn ask(&mut self, ask: &Ask, now: Nanos) -> Result<Answer, Refusal> {
        self.advance(now);
        let load = ask.load();
        self.check_size(&load, now)?;
        if !self.queue.blocks(ask.class) {
            if let Some(place) = self.place(&load, ask.class, ask.session, &[], now) {
                return Ok(Answer::Granted(self.admit_at_once(ask, place, now)));
            }
            if let Some((place, id)) = self.find_yielding(ask, now)
                && let Some(yielding) = self.unseat(id, now)
            {
                let grant = self.admit_at_once(ask, place, now);
                if let Some(ask) = yielding.ask {
                    self.requeue(id, &ask, now);
                }
                // What gave way may have been wider than what took its place.
                self.serve(now);
                return Ok(Answer::Granted(grant));
            }
        }
        self.queue.wants(ask.class, now);
        let place = self.enqueue(ask, Tried::new(), now);
        if place.is_err() {
            self.queue.missed(ask, now);
        }
        place.map(|(id, expires_at)| Answer::Waiting { id, expires_at })
    }

    fn admit_at_once(&mut self, ask: &Ask, place: usize, now: Nanos) -> Grant {
        let charge = self.queue.charge(ask, now);
        let mut seat = Seat::new(place, ask.class, ask.load(), ask.stream, charge, now);
        seat.ask = Self::may_yield(ask).then(|| Box::new(ask.clone()));
        self.seat(seat, Duration::ZERO, now)
    }

    /// A waiting request was given up by its client.
    pub fn cancel(&mut self, id: WaiterId, now: Nanos) {
        self.queue.remove(id, now);
        self.advance(now);
        // It may have been the head that held up smaller ones.
        self.serve(now);
    }

    /// A waiting request gave up by its own watch: why it has no seat.
    pub fn give_up(&mut self, id: WaiterId, now: Nanos) -> Refusal {
        let waited = self.queue.refuse(id, now).map_or(Duration::ZERO, |waiting| now.since(waiting.since));
        let refusal = self.waited_in_vain(waited, now);
        self.advance(now);
        self.serve(now);
        refusal
    }

    /// The refusal of a request that has waited.
    pub(super) fn waited_in_vain(&mut self, waited: Duration, now: Nanos) -> Refusal {
        let retry = self.retry_after(now);
        if self.is_open(now) {
            refuse::queue_timeout(&self.pool, waited, retry)
        } else {
            refuse::no_worker(&self.pool, retry)
        }
    }

    /// Refuses those whose time is over, and lets workers back whose cool-down is over.
    pub fn advance(&mut self, now: Nanos) {
        let mut removed = false;
        while let Some(waiting) = self.queue.pop_expired(now) {
            let refusal = self.waited_in_vain(now.since(waiting.since), now);
            self.settled.push((waiting.id, Err(refusal)));
            removed = true;
        }
        let forgiven = self.queue.forgive(now);
        let read = self.suppose_read(now);
        let ended = self.end_abandoned(now);
        if removed || forgiven || read || ended || now >= self.roll.until {
            self.serve(now);
        }
    }

    /// What became of waiting requests since this was last asked, in order.
    pub fn take_settled(&mut self) -> impl Iterator<Item = Outcome> + '_ {
        self.settled.drain(..)
    }

    /// Gives seats to those who wait, in order, while there is room.
    pub(super) fn serve(&mut self, now: Nanos) {
        self.call_roll(now);
        while let Some(head) = self.queue.head(now, self.settings.promote) {
            let (id, load, class, session) = (head.id, head.load, head.class, head.session);
            let tried = head.tried.clone();
            if let Some(place) = self.place(&load, class, session, &tried, now) {
                self.admit(id, place, now);
            } else if let Err(refusal) = self.check_size(&load, now) {
                self.queue.remove(id, now);
                self.settled.push((id, Err(refusal)));
            } else {
                return;
            }
        }
    }

    fn admit(&mut self, head: WaiterId, place: usize, now: Nanos) {
        let Some((waiting, charge)) = self.queue.admit(head, now) else { return };
        let mut seat = Seat::new(place, waiting.class, waiting.load, waiting.stream, charge, now);
        seat.ask = waiting.ask;
        seat.tried = waiting.tried;
        let grant = self.seat(seat, now.since(waiting.since), now);
        self.settled.push((waiting.id, Ok(grant)));
    }

    fn seat(&mut self, seat: Seat, waited: Duration, now: Nanos) -> Grant {
        let id = SeatId(self.next_seat);
        self.next_seat += 1;
        let worker = self.occupy(id, &seat, now);
        self.in_flight += u64::from(seat.load.sequences);
        self.drain.granted(now);
        self.queue.served(seat.class);
        let yields = seat.ask.is_some();
        if yields {
            self.displaceable.insert((seat.granted, id));
        }
        let sequences = seat.load.sequences;
        self.seats.insert(id, seat);
        Grant { seat: id, worker, yields, sequences, waited }
    }

    /// Writes a seat into the ledger of its worker, whose id it returns.
    pub(super) fn occupy(&mut self, id: SeatId, seat: &Seat, now: Nanos) -> Arc<str> {
        let worker = self.workers.get_mut(seat.worker).and_then(Option::as_mut);
        let Some(worker) = worker else { return Arc::clone(&self.pool) };
        worker.ledger.occupy(seat.class as usize, &seat.load);
        worker.aside.begin_trial(id);
        if let Some(reported) = &mut worker.reported {
            reported.sent(seat.load.tokens());
        }
        let id = Arc::clone(&worker.member.id);
        self.recount(seat.worker, now);
        id
    }

    /// A place in the queue and when the wait ends, or why there is none.
    pub(super) fn enqueue(
        &mut self,
        ask: &Ask,
        tried: Tried,
        now: Nanos,
    ) -> Result<(WaiterId, Nanos), Refusal> {
        let open = self.is_open(now);
        let wait = if open { self.settings.queue_wait } else { self.settings.wait_no_worker };
        let expires_at = ask.deadline.map_or(now + wait, |deadline| deadline.min(now + wait));
        let may_wait = expires_at > now && self.settings.queue_length > 0;
        if !open && !may_wait {
            let retry = self.retry_after(now);
            return Err(refuse::no_worker(&self.pool, retry));
        }
        if !may_wait {
            let retry = self.retry_after(now);
            return Err(refuse::no_queue(self.fullness(now), retry));
        }
        if open && let Some(predicted) = self.too_long(ask, expires_at, now) {
            let retry = self.retry_after(now);
            return Err(refuse::predicted(self.fullness(now), predicted, expires_at.since(now), retry));
        }
        let Some(displaced) = self.queue.make_room(ask, self.bounds(), now) else {
            let (waiting, bytes) = (self.queue.len(), self.queue.bytes());
            let retry = self.retry_after(now);
            return Err(refuse::queue_full(self.fullness(now), waiting, bytes, retry));
        };
        for waiting in displaced {
            let retry = self.retry_after(now);
            self.settled.push((waiting.id, Err(refuse::displaced(&self.pool, retry))));
        }
        let id = self.queue.push(ask, tried, expires_at, now);
        // As the new head it may be smaller than the one that did not fit.
        if self.queue.head(now, self.settings.promote).is_some_and(|head| head.id == id) {
            self.serve(now);
        }
        Ok((id, expires_at))
    }

    /// The predicted wait, when it exceeds what the request may wait. Who would be next is never refused for it:
    /// otherwise a freed seat would go to whoever happens to ask first, which is not fair.
    fn too_long(&self, ask: &Ask, expires_at: Nanos, now: Nanos) -> Option<Duration> {
        let budget = expires_at.since(now);
        let rate = self.drain.rate(self.in_flight, now)?;
        // With fewer ahead than this the wait is within the budget, and more would not change the answer.
        let enough = (rate * budget.as_secs_f64()) as u64 + 1;
        let ahead = self.queue.ahead(ask, expires_at, enough, now)?;
        let predicted = self.drain.time_to_free(ahead, self.in_flight, now)?;
        (predicted > budget).then_some(predicted)
    }
}
