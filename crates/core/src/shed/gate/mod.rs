//! The gate of one pool: admits, queues or refuses requests.
//!
//! Every change goes through a method that takes the time and leaves the gate settled: no request
//! waits that could be served, and none longer than allowed. [`Gate::take_outcomes`] returns what
//! became of waiting requests. A head of the queue that does not fit holds up those behind it, for
//! at most its own wait: letting smaller ones pass would starve it.

mod abandoned;
mod canary;
mod displace;
mod ejection;
mod exchange;
mod grant;
mod overdue;
mod placing;
mod prefix_routing;
mod progress;
mod release;
mod reports;
mod silence;
mod sums;
#[cfg(test)]
pub(super) mod tests;
mod upkeep;
mod waiting;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use hashbrown::HashMap;

use crate::clock::Nanos;
use crate::refusal::Refusal;

pub use self::displace::Displaced;

use self::sums::PoolSums;
use super::ask::PermitRequest;
use super::callers::WaiterId;
use super::canary_counts::{CanaryCounts, MomentsByLoad};
use super::drain::DrainEstimate;
use super::ejected_memory::EjectedMemory;
use super::fair_queue::FairQueue;
use super::permit_record::{PermitId, PermitRecord};
use super::pick::{Candidate, Pick};
use super::prefix::{PrefixIndex, PrefixOption, PrefixTally};
use super::retry_spread::RetrySpread;
use super::settings::GateSettings;
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
    pool: Arc<str>,
    settings: GateSettings,
    pick: Pick,
    /// A worker keeps its index; the index of a removed one is reused.
    workers: Vec<Option<GateWorker>>,
    permits: HashMap<PermitId, PermitRecord>,
    queue: FairQueue,
    drain: DrainEstimate,
    /// Recent refusals that carried a retry time.
    retry_spread: RetrySpread,
    /// Sequences of all permits.
    in_flight: u64,
    random: Rng,
    next_permit: u64,
    settled: Vec<WaitOutcome>,
    displaced: Vec<Displaced>,
    /// Permits that a critical request may revoke, by time of grant.
    displaceable: BTreeSet<(Nanos, PermitId)>,
    /// Permits whose prompt is assumed to be read at the given time.
    reading: BTreeSet<(Nanos, PermitId)>,
    /// Permits whose clients have left while the workers may work on, by time of release.
    abandoned: BTreeSet<(Nanos, PermitId)>,
    /// Workers as the choice sees them, and their indexes. Kept to save allocations.
    candidates: Vec<Candidate>,
    places: Vec<usize>,
    options: Vec<PrefixOption>,
    /// The prompts that each worker has read.
    prefixes: PrefixIndex,
    cached: PrefixTally,
    /// Indexes of workers that failed requests which may be to blame themselves.
    suspects: Vec<usize>,
    /// Ejections of workers that were removed.
    ejected: EjectedMemory,
    /// What became of the requests since the canary began.
    canary: CanaryCounts,
    /// Times per token at each load, before any canary.
    pace_history: MomentsByLoad,
    /// Totals over the workers.
    sums: PoolSums,
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
            suspects: Vec::new(),
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
    fn serve(&mut self, now: Nanos) {
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
}
