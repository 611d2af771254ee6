//! Totals over the workers that take work, so that a decision need not visit all of them.
//!
//! Each change at a worker adds the difference to the totals ([`Gate::update_sums`]). If the set of
//! workers changes (one is added, ejected, paused, reweighted or due for another try), all are
//! counted again ([`Gate::refresh_sums`]). Such changes are rare beside requests.

use crate::clock::Nanos;
use crate::shed::session_map::SessionMap;
use crate::shed::worker::WorkerShare;

use super::Gate;

/// Totals over the workers that take work now.
#[derive(Debug)]
pub(super) struct PoolSums {
    /// `true` if all workers must be counted again.
    pub(super) stale: bool,
    /// Time at which a cool-down, ejection or pause of a worker ends, or a report expires, next.
    pub(super) until: Nanos,
    /// Indexes of the workers that take work now.
    pub(super) open: Vec<usize>,
    /// Keys of these workers, in the same order.
    pub(super) keys: Vec<u64>,
    /// Sequences in flight at these workers, by class number.
    pub(super) by_class: [u64; 3],
    /// Sum of the limits of these workers.
    pub(super) limit: u64,
    /// Ceiling of the pool: see [`Gate::fleet_ceiling`].
    pub(super) ceiling: Option<f64>,
    /// Largest prompt that a worker can hold, those in a cool-down, ejection or pause included; `None`
    /// without any worker.
    pub(super) largest_prompt: Option<u64>,
    pub(super) session_map: SessionMap,
    /// Number of external workers among those that take work now.
    pub(super) external: usize,
}

impl Default for PoolSums {
    fn default() -> Self {
        Self {
            stale: true,
            until: Nanos::MAX,
            open: Vec::new(),
            keys: Vec::new(),
            by_class: [0; 3],
            limit: 0,
            ceiling: None,
            largest_prompt: None,
            session_map: SessionMap::default(),
            external: 0,
        }
    }
}

impl PoolSums {
    /// Returns `true` if some of the workers are external and some are not.
    pub(super) fn is_mixed(&self) -> bool {
        self.external > 0 && self.external < self.open.len()
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.by_class.iter().sum()
    }

    fn add(&mut self, share: &WorkerShare) {
        self.limit += u64::from(share.limit);
        for (sum, count) in self.by_class.iter_mut().zip(share.by_class) {
            *sum += u64::from(count);
        }
    }

    fn take(&mut self, share: &WorkerShare) {
        self.limit = self.limit.saturating_sub(u64::from(share.limit));
        for (sum, count) in self.by_class.iter_mut().zip(share.by_class) {
            *sum = sum.saturating_sub(u64::from(count));
        }
    }
}

impl Gate {
    /// Updates the totals after a change at the worker with this `index`.
    pub(super) fn update_sums(&mut self, index: usize, now: Nanos) {
        let Some(worker) = self.workers.get_mut(index).and_then(Option::as_mut) else { return };
        worker.known.note(worker.ledger.in_flight());
        let open = worker.takes_work_now(now);
        let Some(before) = worker.counted.filter(|_| open) else {
            self.sums.stale |= open || worker.counted.is_some();
            return;
        };
        let share = worker.share();
        if share != before {
            worker.counted = Some(share);
            self.sums.take(&before);
            self.sums.add(&share);
        }
    }

    /// Counts all workers again if the totals are stale or out of date at `now`.
    pub(super) fn refresh_sums(&mut self, now: Nanos) {
        if !self.sums.stale && now < self.sums.until {
            return;
        }
        self.lift_the_last(now);
        let Self { sums, workers, .. } = self;
        let mut session_map = std::mem::take(&mut sums.session_map);
        let mut open = std::mem::take(&mut sums.open);
        let mut keys = std::mem::take(&mut sums.keys);
        open.clear();
        keys.clear();
        *sums = PoolSums { stale: false, ..PoolSums::default() };
        for (index, worker) in workers.iter_mut().enumerate() {
            let Some(worker) = worker else { continue };
            worker.counted = None;
            if worker.takes_work() {
                sums.largest_prompt = sums.largest_prompt.max(Some(worker.largest_prompt()));
            }
            worker.known.expire(now);
            if let Some(end) = worker.known.room_until() {
                sums.until = sums.until.min(end);
            }
            if let Some(end) = worker.closed_until(now) {
                sums.until = sums.until.min(end);
            }
            if !worker.takes_work_now(now) {
                continue;
            }
            let share = worker.share();
            worker.counted = Some(share);
            sums.add(&share);
            sums.external += usize::from(worker.is_external());
            open.push(index);
            keys.push(worker.key);
        }
        if open != session_map.candidates() {
            session_map.forget(&open);
        }
        (sums.session_map, sums.open, sums.keys) = (session_map, open, keys);
        self.sums.ceiling = self.fleet_ceiling(now);
    }

    /// Returns the number of sequences that the workers which take work now may have in total: the
    /// weighted sum of their sizes times the fleet factor, at least the size of the largest, divided
    /// among the gateways. `None` if the size of a worker is unknown.
    pub(super) fn fleet_ceiling(&self, now: Nanos) -> Option<f64> {
        let (mut sum, mut largest) = (0.0_f64, 0.0_f64);
        for worker in self.workers.iter().flatten().filter(|worker| worker.takes_work_now(now)) {
            let base = f64::from(worker.member.size(&self.settings)?);
            sum += base * worker.weight;
            largest = largest.max(base);
        }
        let ceiling = (sum * self.settings.fleet_factor).max(largest);
        Some(ceiling / f64::from(self.settings.gateways.max(1)))
    }
}
