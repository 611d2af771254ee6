//! The gate of one pool: who gets a seat, who waits, who is told to come back.
//!
//! Every change goes through a method that takes the time and leaves the gate settled: nobody waits who could be
//! served, nobody waits longer than allowed. What that meant for waiting requests is collected in
//! [`Gate::take_settled`], for the caller to hand on. A request at the head of the queue that does not fit holds up
//! those behind it, for at most its own wait: letting smaller ones pass would starve it.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use hashbrown::HashMap;

use crate::clock::Nanos;
use crate::refusal::Refusal;
use crate::request::Class;

use super::ask::Ask;
use super::callers::WaiterId;
use super::drain::Drain;
use super::fair_queue::{Bounds, FairQueue, Waiting};
use super::ledger::Load;
use super::member::{Member, Worker};
use super::pick::{Candidate, Pick};
use super::refuse::{self, Fullness};
use super::seat::{Seat, SeatId};
use super::settings::GateSettings;
use super::snapshot::{GateSnapshot, WorkerSnapshot};

/// When to come back while nothing has been measured yet.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest advice.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// A seat at a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The seat.
    pub seat: SeatId,
    /// The worker it is at.
    pub worker: Arc<str>,
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
    /// Sequences of all seats.
    pub(super) in_flight: u64,
    pub(super) random: Rng,
    next_seat: u64,
    settled: Vec<Outcome>,
    /// The workers that take work now, as the choice sees them, and their places. Kept to save allocations.
    candidates: Vec<Candidate>,
    places: Vec<usize>,
    /// When the next cool-down ends.
    recheck: Nanos,
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
            in_flight: 0,
            random: Rng::with_seed(seed),
            next_seat: 0,
            settled: Vec::new(),
            candidates: Vec::new(),
            places: Vec::new(),
            recheck: Nanos::MAX,
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
        let open = self.is_open(now);
        if open {
            self.check_size(&load, now)?;
            if !self.queue.blocks(ask.class)
                && let Some(place) = self.place(&load, ask.class, ask.session, now)
            {
                let charge = self.queue.charge(ask);
                let seat = Seat::new(place, ask.class, load, charge, now);
                return Ok(Answer::Granted(self.seat(seat, Duration::ZERO)));
            }
        }
        self.enqueue(ask, open, now)
    }

    /// A waiting request was given up by its client.
    pub fn cancel(&mut self, id: WaiterId, now: Nanos) {
        self.queue.remove(id);
        self.advance(now);
        // It may have been the head that held up smaller ones.
        self.serve(now);
    }

    /// A waiting request gave up by its own watch: why it has no seat.
    pub fn give_up(&mut self, id: WaiterId, now: Nanos) -> Refusal {
        let waited = self.queue.remove(id).map_or(Duration::ZERO, |waiting| now.since(waiting.since));
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
        if removed || now >= self.recheck {
            self.serve(now);
        }
    }

    /// What became of waiting requests since this was last asked, in order.
    pub fn take_settled(&mut self) -> impl Iterator<Item = Outcome> + '_ {
        self.settled.drain(..)
    }

    /// New settings and workers. Who is kept keeps its ledger; who is gone keeps it until its seats are free.
    pub fn rebuild(&mut self, settings: GateSettings, members: Vec<Member>, now: Nanos) {
        self.settings = settings;
        for worker in self.workers.iter_mut().flatten() {
            worker.leaving = true;
        }
        for member in members {
            let kept = self.workers.iter_mut().flatten().find(|worker| worker.member.id == member.id);
            if let Some(worker) = kept {
                worker.retell(member, &self.settings);
                continue;
            }
            let worker = Worker::new(member, &self.settings);
            match self.workers.iter_mut().find(|place| place.is_none()) {
                Some(place) => *place = Some(worker),
                None => self.workers.push(Some(worker)),
            }
        }
        for place in &mut self.workers {
            place.take_if(|worker| worker.is_gone());
        }
        while let Some(waiting) = self.queue.pop_surplus(self.bounds()) {
            let retry = self.retry_after(now);
            self.settled.push((waiting.id, Err(refuse::displaced(&self.pool, retry))));
        }
        self.advance(now);
        self.serve(now);
    }

    /// When a refused client should come back: the time until everything that waits has a seat, and 0–50 % more so
    /// that clients do not come back together; at most 60 s.
    pub fn retry_after(&mut self, now: Nanos) -> Duration {
        let base = match self.next_cool_down_end(now) {
            Some(end) if !self.is_open(now) => end.since(now),
            _ => {
                let sequences = self.queue.sequences() + 1;
                self.drain.time_to_free(sequences, self.in_flight, now).unwrap_or(FIRST_RETRY)
            }
        };
        let base = base.clamp(Duration::from_millis(1), LONGEST_RETRY);
        base.mul_f64(1.0 + self.random.f64() / 2.0).min(LONGEST_RETRY)
    }

    /// The gate as it is now.
    #[must_use]
    pub fn snapshot(&self, now: Nanos) -> GateSnapshot {
        let workers = self.workers.iter().flatten().map(|worker| WorkerSnapshot {
            id: Arc::clone(&worker.member.id),
            in_flight: worker.ledger.in_flight(),
            limit: worker.limit(),
            prefill_tokens: worker.ledger.prefill(),
            tokens: worker.ledger.tokens(),
            kv_tokens: worker.member.kv_tokens,
            eligible: worker.member.eligible && !worker.leaving,
            reachable: worker.health.reachable(now),
            leaving: worker.leaving,
        });
        GateSnapshot {
            workers: workers.collect(),
            queue: Class::ALL.map(|class| self.queue.depth(class)),
            queue_bytes: self.queue.bytes(),
        }
    }

    /// Gives seats to those who wait, in order, while there is room.
    pub(super) fn serve(&mut self, now: Nanos) {
        self.recheck = self.next_cool_down_end(now).unwrap_or(Nanos::MAX);
        while let Some(head) = self.queue.head() {
            if let Some(place) = self.place(&head.load, head.class, head.session, now) {
                self.admit(&head, place, now);
            } else if self.is_open(now)
                && let Err(refusal) = self.check_size(&head.load, now)
            {
                self.queue.remove(head.id);
                self.settled.push((head.id, Err(refusal)));
            } else {
                return;
            }
        }
    }

    /// The workers with room for `load` that are not in `tried`, for the choice.
    pub(super) fn choose(
        &mut self,
        load: &Load,
        session: Option<u64>,
        tried: &[usize],
        now: Nanos,
    ) -> Option<usize> {
        self.survey(load, tried, now);
        self.chosen(session)
    }

    fn admit(&mut self, head: &Waiting, place: usize, now: Nanos) {
        let Some((waiting, charge)) = self.queue.admit(head.id) else { return };
        let seat = Seat::new(place, waiting.class, waiting.load, charge, now);
        let grant = self.seat(seat, now.since(waiting.since));
        self.settled.push((waiting.id, Ok(grant)));
    }

    fn seat(&mut self, seat: Seat, waited: Duration) -> Grant {
        let id = SeatId(self.next_seat);
        self.next_seat += 1;
        let worker = self.occupy(&seat);
        self.in_flight += u64::from(seat.load.sequences);
        self.seats.insert(id, seat);
        Grant { seat: id, worker, waited }
    }

    /// Writes a seat into the ledger of its worker, whose id it returns.
    pub(super) fn occupy(&mut self, seat: &Seat) -> Arc<str> {
        match self.workers.get_mut(seat.worker).and_then(Option::as_mut) {
            Some(worker) => {
                worker.ledger.occupy(seat.class as usize, &seat.load);
                Arc::clone(&worker.member.id)
            }
            None => Arc::clone(&self.pool),
        }
    }

    fn enqueue(&mut self, ask: &Ask, open: bool, now: Nanos) -> Result<Answer, Refusal> {
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
        let Some(displaced) = self.queue.make_room(ask, self.bounds()) else {
            let retry = self.retry_after(now);
            return Err(refuse::queue_full(self.fullness(now), self.queue.len(), self.queue.bytes(), retry));
        };
        for waiting in displaced {
            let retry = self.retry_after(now);
            self.settled.push((waiting.id, Err(refuse::displaced(&self.pool, retry))));
        }
        let id = self.queue.push(ask, expires_at, now);
        // It may be the new head, and smaller than the one that did not fit.
        self.serve(now);
        Ok(Answer::Waiting { id, expires_at })
    }

    /// The predicted wait, when it exceeds what the request may wait.
    fn too_long(&self, ask: &Ask, expires_at: Nanos, now: Nanos) -> Option<Duration> {
        let budget = expires_at.since(now);
        let rate = self.drain.rate(self.in_flight, now)?;
        let own = u64::from(ask.load().sequences);
        // Counting further than this does not change the answer.
        let enough = (rate * budget.as_secs_f64()) as u64 + 1;
        let ahead = self.queue.ahead(ask, expires_at, enough);
        let predicted = self.drain.time_to_free(ahead + own, self.in_flight, now)?;
        (predicted > budget).then_some(predicted)
    }

    fn place(&mut self, load: &Load, class: Class, session: Option<u64>, now: Nanos) -> Option<usize> {
        self.survey(load, &[], now);
        if self.reserve_allows(load, class, now) { self.chosen(session) } else { None }
    }

    fn survey(&mut self, load: &Load, tried: &[usize], now: Nanos) {
        self.candidates.clear();
        self.places.clear();
        for (place, worker) in self.workers.iter().enumerate() {
            let Some(worker) = worker.as_ref().filter(|worker| worker.open(now)) else { continue };
            if tried.contains(&place) {
                continue;
            }
            self.candidates.push(Candidate {
                key: worker.key,
                in_flight: worker.ledger.in_flight(),
                limit: worker.limit(),
                tokens: worker.ledger.tokens(),
                fits: worker.fits(load),
            });
            self.places.push(place);
        }
    }

    fn chosen(&mut self, session: Option<u64>) -> Option<usize> {
        let chosen = (self.pick)(&self.candidates, session, &mut self.random)?;
        self.candidates.get(chosen).filter(|candidate| candidate.fits)?;
        self.places.get(chosen).copied()
    }

    /// Whether the shares kept for higher classes stay free. The lower classes together may fill the rest; what the
    /// higher ones themselves occupy does not count against the lower. A pool at rest takes anything.
    fn reserve_allows(&self, load: &Load, class: Class, now: Nanos) -> bool {
        if self.settings.reserve.iter().all(|share| *share <= 0.0) {
            return true;
        }
        let limit: u64 = self.candidates.iter().map(|candidate| u64::from(candidate.limit)).sum();
        let widest = self.candidates.iter().map(|candidate| candidate.limit).max().unwrap_or(1);
        let mut occupied = [0_u64; 3];
        for worker in self.workers.iter().flatten().filter(|worker| worker.open(now)) {
            for (sum, count) in occupied.iter_mut().zip(worker.ledger.by_class()) {
                *sum += u64::from(count);
            }
        }
        if occupied.iter().all(|count| *count == 0) {
            return true;
        }
        let load = u64::from(load.sequences.min(widest));
        let mut below: u64 = occupied.iter().take(class as usize).sum();
        Class::ALL.into_iter().filter(|other| *other >= class).all(|other| {
            below += occupied[other as usize];
            below + load <= limit.saturating_sub(self.kept_above(other, limit))
        })
    }

    /// Sequences of `limit` kept for the classes above `class`; never the last one.
    fn kept_above(&self, class: Class, limit: u64) -> u64 {
        let share: f64 = self.settings.reserve.iter().skip(class as usize + 1).sum();
        let kept = (share.clamp(0.0, 1.0) * limit as f64).round() as u64;
        kept.min(limit.saturating_sub(1))
    }

    /// Refuses a prompt that no worker at hand can hold.
    fn check_size(&self, load: &Load, now: Nanos) -> Result<(), Refusal> {
        let open = || self.workers.iter().flatten().filter(|worker| worker.open(now));
        if open().any(|worker| worker.can_hold(load)) {
            return Ok(());
        }
        let most = open().filter_map(|worker| worker.member.kv_tokens).max().unwrap_or(0);
        Err(refuse::too_large(&self.pool, load.prompt, most))
    }

    fn is_open(&self, now: Nanos) -> bool {
        self.workers.iter().flatten().any(|worker| worker.open(now))
    }

    fn next_cool_down_end(&self, now: Nanos) -> Option<Nanos> {
        self.workers.iter().flatten().filter_map(|worker| worker.health.cooling_until(now)).min()
    }

    fn bounds(&self) -> Bounds {
        Bounds { length: self.settings.queue_length, bytes: self.settings.queue_bytes }
    }

    fn fullness(&self, now: Nanos) -> Fullness<'_> {
        let open = || self.workers.iter().flatten().filter(|worker| worker.open(now));
        Fullness {
            pool: &self.pool,
            in_flight: open().map(|worker| u64::from(worker.ledger.in_flight())).sum(),
            limit: open().map(|worker| u64::from(worker.limit())).sum(),
        }
    }
}
