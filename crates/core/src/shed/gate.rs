//! The gate of one pool: admits, queues or refuses requests.
//!
//! Every change goes through a method that takes the time and leaves the gate settled: no request
//! waits that could be served, and none longer than allowed. [`Gate::take_outcomes`] returns what
//! became of waiting requests. A head of the queue that does not fit holds up those behind it, for
//! at most its own wait: letting smaller ones pass would starve it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use hashbrown::HashMap;

use crate::clock::Nanos;
use crate::refusal::Refusal;

use super::ask::{Affinity, PermitRequest};
use super::callers::WaiterId;
use super::canary_counts::{CanaryCounts, MomentsByLoad};
use super::displace::Displaced;
use super::drain::DrainEstimate;
use super::ejected_memory::EjectedMemory;
use super::fair_queue::{FairQueue, TriedWorkers};
use super::ledger::RequestLoad;
use super::permit_record::{PermitId, PermitRecord};
use super::pick::{Candidate, Pick};
use super::prefix::{PrefixIndex, PrefixOption, PrefixTally};
use super::refuse;
use super::retry_spread::RetrySpread;
use super::settings::GateSettings;
use super::sums::PoolSums;
use super::worker::GateWorker;

/// A granted permit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedPermit {
    /// Id of the permit.
    pub permit: PermitId,
    /// Id of the worker.
    pub worker: Arc<str>,
    /// `true` if a critical request may revoke it before the answer begins.
    pub yields: bool,
    /// Sequences it covers.
    pub sequences: u32,
    /// How long the request waited for it.
    pub waited: Duration,
}

/// The result for a request that is not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateAnswer {
    /// It was admitted.
    Granted(GrantedPermit),
    /// It waits; its outcome will be among [`Gate::take_outcomes`].
    Waiting {
        /// Identifies the request.
        id: WaiterId,
        /// When its wait ends.
        expires_at: Nanos,
    },
}

/// Outcome of a request that waited: a permit or a refusal.
pub type WaitOutcome = (WaiterId, Result<GrantedPermit, Refusal>);

/// The gate of one pool.
#[derive(Debug)]
pub struct Gate {
    pub(super) pool: Arc<str>,
    pub(super) settings: GateSettings,
    pub(super) pick: Pick,
    /// A worker keeps its index; the index of a removed one is reused.
    pub(super) workers: Vec<Option<GateWorker>>,
    pub(super) permits: HashMap<PermitId, PermitRecord>,
    pub(super) queue: FairQueue,
    pub(super) drain: DrainEstimate,
    /// Recent refusals that carried a retry time.
    pub(super) retry_spread: RetrySpread,
    /// Sequences of all permits.
    pub(super) in_flight: u64,
    pub(super) random: Rng,
    next_permit: u64,
    pub(super) settled: Vec<WaitOutcome>,
    pub(super) displaced: Vec<Displaced>,
    /// Permits that a critical request may revoke, by time of grant.
    pub(super) displaceable: BTreeSet<(Nanos, PermitId)>,
    /// Permits whose prompt is assumed to be read at the given time.
    pub(super) reading: BTreeSet<(Nanos, PermitId)>,
    /// Permits whose clients have left while the workers may work on, by time of release.
    pub(super) abandoned: BTreeSet<(Nanos, PermitId)>,
    /// Workers as the choice sees them, and their indexes. Kept to save allocations.
    pub(super) candidates: Vec<Candidate>,
    pub(super) places: Vec<usize>,
    pub(super) options: Vec<PrefixOption>,
    /// The prompts that each worker has read.
    pub(super) prefixes: PrefixIndex,
    pub(super) cached: PrefixTally,
    /// Ejections of workers that were removed.
    pub(super) ejected: EjectedMemory,
    /// What became of the requests since the canary began.
    pub(super) canary: CanaryCounts,
    /// Times per token at each load, before any canary.
    pub(super) pace_history: MomentsByLoad,
    /// Totals over the workers.
    pub(super) sums: PoolSums,
}

impl Gate {
    /// Creates a gate without workers. `seed` seeds its random choices and jitter.
    #[must_use]
    pub fn new(pool: Arc<str>, settings: GateSettings, pick: Pick, seed: u64) -> Self {
        Self {
            pool,
            settings,
            pick,
            workers: Vec::new(),
            permits: HashMap::new(),
            queue: FairQueue::default(),
            drain: DrainEstimate::default(),
            retry_spread: RetrySpread::default(),
            in_flight: 0,
            random: Rng::with_seed(seed),
            next_permit: 0,
            settled: Vec::new(),
            displaced: Vec::new(),
            displaceable: BTreeSet::new(),
            reading: BTreeSet::new(),
            abandoned: BTreeSet::new(),
            candidates: Vec::new(),
            places: Vec::new(),
            options: Vec::new(),
            prefixes: PrefixIndex::default(),
            cached: PrefixTally::default(),
            ejected: EjectedMemory::default(),
            canary: CanaryCounts::default(),
            pace_history: MomentsByLoad::default(),
            sums: PoolSums::default(),
        }
    }

    /// Admits, queues or refuses a request.
    ///
    /// # Errors
    /// `request_too_large` if no worker can ever hold the prompt, `no_worker` if none takes work,
    /// `overloaded` if the wait would be too long or the queue is full.
    pub fn ask(&mut self, ask: &PermitRequest, now: Nanos) -> Result<GateAnswer, Refusal> {
        self.process_timeouts(now);
        let (load, affinity) = (self.load_of(ask), self.affinity(ask));
        self.check_size(&load, now)?;
        let tried = self.unfit(ask);
        if !self.queue.has_waiting_at_or_above(ask.class) {
            if let Some(place) = self.place(&load, ask.class, &affinity, &tried, now) {
                return Ok(GateAnswer::Granted(self.admit_at_once(ask, place, affinity, now)));
            }
            if let Some((place, id)) = self.find_yielding(ask, now)
                && let Some(yielding) = self.revoke(id, now)
            {
                let grant = self.admit_at_once(ask, place, affinity, now);
                self.requeue(id, yielding, now);
                // The revoked request may have been wider than the new one.
                self.serve(now);
                return Ok(GateAnswer::Granted(grant));
            }
        }
        self.queue.mark_starving(ask.class, now);
        let place = self.enqueue(ask, load, tried, now);
        if place.is_err() {
            self.count_refused(load.side);
            let load = self.load_anywhere(load, &affinity);
            self.queue.missed(ask, &load, now);
        }
        place.map(|(id, expires_at)| GateAnswer::Waiting { id, expires_at })
    }

    fn admit_at_once(
        &mut self,
        ask: &PermitRequest,
        place: usize,
        affinity: Affinity,
        now: Nanos,
    ) -> GrantedPermit {
        let load = self.load_at(place, self.load_of(ask), &affinity);
        let charge = self.queue.charge(ask, &load, now);
        let mut permit = PermitRecord::new(place, ask.class, load, ask.stream, charge, now);
        permit.prefix = affinity.prefix;
        permit.ask = Self::is_revocable(ask).then(|| Box::new(ask.clone()));
        permit.tried = self.unfit(ask);
        self.permit(permit, Duration::ZERO, now)
    }

    /// Returns the workers that cannot serve a request which only one worker can serve.
    pub(super) fn unfit(&self, ask: &PermitRequest) -> TriedWorkers {
        let Some(only) = &ask.worker else { return TriedWorkers::new() };
        let others = self
            .workers
            .iter()
            .enumerate()
            .filter(|(_, worker)| worker.as_ref().is_some_and(|worker| worker.member.id != *only));
        others.map(|(place, _)| place).collect()
    }

    /// Removes a waiting request whose client has left.
    pub fn cancel(&mut self, id: WaiterId, now: Nanos) {
        self.queue.remove(id, now);
        self.process_timeouts(now);
        // It may have been the head that held up smaller ones.
        self.serve(now);
    }

    /// Removes a waiting request whose own timer expired; returns its refusal.
    pub fn give_up(&mut self, id: WaiterId, now: Nanos) -> Refusal {
        let waiting = self.queue.refuse(id, now);
        if let Some(waiting) = &waiting {
            self.count_refused(waiting.load.side);
        }
        let waited = waiting.map_or(Duration::ZERO, |waiting| now.since(waiting.since));
        let refusal = self.waited_in_vain(waited, now);
        self.process_timeouts(now);
        self.serve(now);
        refusal
    }

    /// Returns the refusal of a request that has waited.
    pub(super) fn waited_in_vain(&mut self, waited: Duration, now: Nanos) -> Refusal {
        let retry = self.retry_after(now);
        if self.is_open(now) {
            refuse::queue_timeout(&self.pool, waited, retry)
        } else {
            refuse::no_worker(&self.pool, retry)
        }
    }

    /// Refuses requests whose wait is over, and reopens workers whose cool-down is over.
    pub fn process_timeouts(&mut self, now: Nanos) {
        let mut removed = false;
        while let Some(waiting) = self.queue.pop_expired(now) {
            self.count_refused(waiting.load.side);
            let refusal = self.waited_in_vain(now.since(waiting.since), now);
            self.settled.push((waiting.id, Err(refusal)));
            removed = true;
        }
        let forgiven = self.queue.forgive(now);
        let read = self.mark_assumed_prefilled(now);
        let ended = self.end_abandoned(now);
        if removed || forgiven || read || ended || now >= self.sums.until {
            self.serve(now);
        }
    }

    /// Returns the outcomes of waiting requests since the last call, in order.
    pub fn take_outcomes(&mut self) -> impl Iterator<Item = WaitOutcome> + '_ {
        self.settled.drain(..)
    }

    /// Grants permits to waiting requests, in order, while there is room.
    pub(super) fn serve(&mut self, now: Nanos) {
        self.refresh_sums(now);
        while let Some(head) = self.queue.head(now, self.settings.promote) {
            let (id, load, class) = (head.id, head.load, head.class);
            let (affinity, tried) = (head.affinity.clone(), head.tried.clone());
            if let Some(place) = self.place(&load, class, &affinity, &tried, now) {
                self.admit(id, place, now);
            } else if let Err(refusal) = self.check_size(&load, now) {
                self.queue.remove(id, now);
                self.settled.push((id, Err(refusal)));
            } else {
                // Nothing but time brings a provider's quota back.
                if let Some(opens_at) = self.quota_opens_at(&load, now) {
                    self.sums.until = self.sums.until.min(opens_at);
                }
                return;
            }
        }
    }

    fn admit(&mut self, head: WaiterId, place: usize, now: Nanos) {
        let Some((waiting, charge)) = self.queue.admit(head, now) else { return };
        let load = self.load_at(place, waiting.load, &waiting.affinity);
        let mut permit = PermitRecord::new(place, waiting.class, load, waiting.stream, charge, now);
        permit.prefix = waiting.affinity.prefix;
        permit.ask = waiting.ask;
        permit.tried = waiting.tried;
        let grant = self.permit(permit, now.since(waiting.since), now);
        self.settled.push((waiting.id, Ok(grant)));
    }

    fn permit(&mut self, mut permit: PermitRecord, waited: Duration, now: Nanos) -> GrantedPermit {
        let id = PermitId(self.next_permit);
        self.next_permit += 1;
        let worker = self.attach(id, &mut permit, now);
        self.in_flight += u64::from(permit.load.sequences);
        self.drain.granted(now);
        self.queue.served(permit.class);
        let yields = permit.ask.is_some();
        if yields {
            self.displaceable.insert((permit.granted, id));
        }
        let sequences = permit.load.sequences;
        self.permits.insert(id, permit);
        GrantedPermit { permit: id, worker, yields, sequences, waited }
    }

    /// Adds a permit to its worker's ledger; returns the worker's id.
    pub(super) fn attach(&mut self, id: PermitId, permit: &mut PermitRecord, now: Nanos) -> Arc<str> {
        self.enter_prefix(permit);
        let worker = self.workers.get_mut(permit.worker).and_then(Option::as_mut);
        let Some(worker) = worker else { return Arc::clone(&self.pool) };
        worker.ledger.occupy(permit.class as usize, &permit.load);
        worker.aside.begin_trial(id);
        worker.charge_quota(permit, now);
        if let Some(reported) = &mut worker.reported {
            reported.sent(permit.load.tokens());
        }
        let id = Arc::clone(&worker.member.id);
        self.update_sums(permit.worker, now);
        id
    }

    /// Queues a request of `load`; returns its id and the end of its wait, or the refusal.
    pub(super) fn enqueue(
        &mut self,
        ask: &PermitRequest,
        load: RequestLoad,
        tried: TriedWorkers,
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
        let opens_at = self.quota_opens_at(&load, now);
        if let Some(opens_at) = opens_at.filter(|opens_at| *opens_at >= expires_at) {
            let retry = self.after_quota(opens_at.since(now));
            return Err(refuse::no_quota(&self.pool, retry));
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
            self.count_refused(waiting.load.side);
            let retry = self.retry_after(now);
            self.settled.push((waiting.id, Err(refuse::displaced(&self.pool, retry))));
        }
        let affinity = self.affinity(ask);
        let load = self.load_anywhere(load, &affinity);
        let id = self.queue.push(ask, &load, affinity, tried, expires_at, now);
        // The new head may be smaller than the one that did not fit.
        if self.queue.head(now, self.settings.promote).is_some_and(|head| head.id == id) {
            self.serve(now);
        }
        Ok((id, expires_at))
    }

    /// Returns the predicted wait if it is too long. A request that would be next is never refused
    /// for it: a freed place would then unfairly go to whichever request comes first.
    fn too_long(&self, ask: &PermitRequest, expires_at: Nanos, now: Nanos) -> Option<Duration> {
        let budget = expires_at.since(now);
        let rate = self.drain.rate(self.in_flight, now)?;
        // With fewer ahead than this, the wait is within the budget; more do not change the answer.
        let enough = (rate * budget.as_secs_f64()) as u64 + 1;
        let ahead = self.queue.ahead(ask, expires_at, enough, now)?;
        let predicted = self.drain.time_to_free(ahead, self.in_flight, now)?;
        (predicted > budget).then_some(predicted)
    }
}
