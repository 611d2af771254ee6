//! Totals over the workers that take work, so that a decision need not visit all of them.
//!
//! Each change at a worker adds the difference to the totals ([`Gate::update_sums`]). If the workers
//! themselves change (one is added, ejected, paused, reweighted or due for another try), all are
//! counted anew ([`Gate::refresh_sums`]). That is as frequent as workers come and go.

use crate::clock::Nanos;

use super::gate::Gate;
use super::session_map::SessionMap;
use super::settings::{GateSettings, LimitSource};
use super::worker::{GateWorker, PoolMember};

/// Totals over the workers that take work now.
#[derive(Debug)]
pub(super) struct PoolSums {
    /// `true` if something changed that differences cannot express.
    pub(super) stale: bool,
    /// When the next cool-down or report ends.
    pub(super) until: Nanos,
    pub(super) open: Vec<usize>,
    /// Their keys, in the same order.
    pub(super) keys: Vec<u64>,
    /// Sequences in flight there, by class number.
    pub(super) by_class: [u64; 3],
    /// Sequences that may be in flight there.
    pub(super) limit: u64,
    /// Sequences that they may have in total; `None` if the size of one is unknown.
    pub(super) together: Option<f64>,
    /// Largest prompt that a worker can hold, cooling ones included; `None` without any worker.
    pub(super) largest_prompt: Option<u64>,
    pub(super) session_map: SessionMap,
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
            together: None,
            largest_prompt: None,
            session_map: SessionMap::default(),
            external: 0,
        }
    }
}

impl PoolSums {
    /// Returns `true` if some of them are external and some are not.
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

/// One worker's part of the totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WorkerShare {
    by_class: [u32; 3],
    limit: u32,
}

impl GateWorker {
    fn share(&self) -> WorkerShare {
        WorkerShare { by_class: self.ledger.by_class(), limit: self.limit() }
    }
}

impl Gate {
    /// Updates the totals after a change at the worker at `position`.
    pub(super) fn update_sums(&mut self, place: usize, now: Nanos) {
        let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut) else { return };
        worker.known.note(worker.ledger.in_flight());
        let open = worker.takes_work_now(now);
        let Some(before) = worker.counted.filter(|_| open) else {
            self.roll.stale |= open || worker.counted.is_some();
            return;
        };
        let share = worker.share();
        if share != before {
            worker.counted = Some(share);
            self.roll.take(&before);
            self.roll.add(&share);
        }
    }

    /// Recounts the totals, if differences do not cover all changes.
    pub(super) fn refresh_sums(&mut self, now: Nanos) {
        if !self.roll.stale && now < self.roll.until {
            return;
        }
        self.lift_the_last(now);
        let Self { roll, workers, .. } = self;
        let mut session_map = std::mem::take(&mut roll.session_map);
        let mut open = std::mem::take(&mut roll.open);
        let mut keys = std::mem::take(&mut roll.keys);
        open.clear();
        keys.clear();
        *roll = PoolSums { stale: false, ..PoolSums::default() };
        for (place, worker) in workers.iter_mut().enumerate() {
            let Some(worker) = worker else { continue };
            worker.counted = None;
            if worker.takes_work() {
                roll.largest_prompt = roll.largest_prompt.max(Some(worker.largest_prompt()));
            }
            if worker.known.until <= now {
                worker.known.room = None;
            } else if worker.known.room.is_some() {
                roll.until = roll.until.min(worker.known.until);
            }
            if let Some(end) = worker.closed_until(now) {
                roll.until = roll.until.min(end);
            }
            if !worker.takes_work_now(now) {
                continue;
            }
            let share = worker.share();
            worker.counted = Some(share);
            roll.add(&share);
            roll.external += usize::from(worker.is_external());
            open.push(place);
            keys.push(worker.key);
        }
        if open != session_map.candidates() {
            session_map.forget(&open);
        }
        (roll.session_map, roll.open, roll.keys) = (session_map, open, keys);
        self.roll.together = self.fleet_ceiling(now);
    }

    /// Returns the sequences that all workers which take work may have in total, by the rule for
    /// several; `None` if the size of one is unknown.
    pub(super) fn fleet_ceiling(&self, now: Nanos) -> Option<f64> {
        let (mut sum, mut largest) = (0.0_f64, 0.0_f64);
        for worker in self.workers.iter().flatten().filter(|worker| worker.takes_work_now(now)) {
            let base = f64::from(base(&worker.member, &self.settings)?);
            sum += base * worker.weight;
            largest = largest.max(base);
        }
        let together = (sum * self.settings.fleet_factor).max(largest);
        Some(together / f64::from(self.settings.gateways.max(1)))
    }
}

/// Returns the sequences that a worker takes alone; `None` if unknown.
pub(super) fn base(member: &PoolMember, settings: &GateSettings) -> Option<u32> {
    match settings.limit {
        LimitSource::Fixed(limit) => Some(limit),
        LimitSource::Slots | LimitSource::Adaptive => member.slots,
    }
}
