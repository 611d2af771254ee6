//! What the workers that take work come to together, kept along so that a decision need not visit all of them.
//!
//! Each change at a worker writes the difference into the sums ([`Gate::recount`]). When the workers themselves change,
//! because one is added, put aside, weighed anew or due to be tried again, everything is counted once from the
//! beginning ([`Gate::call_roll`]); that costs a visit of each, and happens as often as workers come and go.

use crate::clock::Nanos;

use super::gate::Gate;
use super::homes::Homes;
use super::member::{Member, Worker};
use super::settings::{GateSettings, LimitSource};

/// The sums over the workers that take work now.
#[derive(Debug)]
pub(super) struct Roll {
    /// Something changed that differences cannot express.
    pub(super) stale: bool,
    /// When the next cool-down ends.
    pub(super) until: Nanos,
    /// Their places.
    pub(super) open: Vec<usize>,
    /// Sequences in flight there, by class number.
    pub(super) by_class: [u64; 3],
    /// Sequences that may be in flight there.
    pub(super) limit: u64,
    /// What they may have together; `None` where a size was not told.
    pub(super) together: Option<f64>,
    /// The largest prompt that some worker can hold, also one that cools down; `None` while nobody is there to refuse it.
    pub(super) largest_prompt: Option<u64>,
    /// Where sessions belong.
    pub(super) homes: Homes,
}

impl Default for Roll {
    fn default() -> Self {
        Self {
            stale: true,
            until: Nanos::MAX,
            open: Vec::new(),
            by_class: [0; 3],
            limit: 0,
            together: None,
            largest_prompt: None,
            homes: Homes::default(),
        }
    }
}

impl Roll {
    /// Sequences in flight at all of them.
    pub(super) fn in_flight(&self) -> u64 {
        self.by_class.iter().sum()
    }

    fn add(&mut self, share: &Share) {
        self.limit += u64::from(share.limit);
        for (sum, count) in self.by_class.iter_mut().zip(share.by_class) {
            *sum += u64::from(count);
        }
    }

    fn take(&mut self, share: &Share) {
        self.limit = self.limit.saturating_sub(u64::from(share.limit));
        for (sum, count) in self.by_class.iter_mut().zip(share.by_class) {
            *sum = sum.saturating_sub(u64::from(count));
        }
    }
}

/// What one worker has in the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    by_class: [u32; 3],
    limit: u32,
}

impl Worker {
    fn share(&self) -> Share {
        Share { by_class: self.ledger.by_class(), limit: self.limit() }
    }
}

impl Gate {
    /// Something happened at the worker at `place`.
    pub(super) fn recount(&mut self, place: usize, now: Nanos) {
        let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut) else { return };
        worker.known.note(worker.ledger.in_flight());
        let open = worker.open(now);
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

    /// Brings the sums up to date, if there is anything that differences did not.
    pub(super) fn call_roll(&mut self, now: Nanos) {
        if !self.roll.stale && now < self.roll.until {
            return;
        }
        self.lift_the_last(now);
        let Self { roll, workers, .. } = self;
        let mut homes = std::mem::take(&mut roll.homes);
        let mut open = std::mem::take(&mut roll.open);
        open.clear();
        *roll = Roll { stale: false, ..Roll::default() };
        for (place, worker) in workers.iter_mut().enumerate() {
            let Some(worker) = worker else { continue };
            worker.counted = None;
            if worker.takes_work() {
                let most = worker.member.kv_tokens.unwrap_or(u64::MAX);
                roll.largest_prompt = Some(roll.largest_prompt.unwrap_or(0).max(most));
            }
            if worker.known.until <= now {
                worker.known.room = None;
            } else if worker.known.room.is_some() {
                roll.until = roll.until.min(worker.known.until);
            }
            if let Some(end) = worker.closed_until(now) {
                roll.until = roll.until.min(end);
            }
            if !worker.open(now) {
                continue;
            }
            let share = worker.share();
            worker.counted = Some(share);
            roll.add(&share);
            open.push(place);
        }
        if open != homes.among() {
            homes.forget(&open);
        }
        (roll.homes, roll.open) = (homes, open);
        self.roll.together = self.together(now);
    }

    /// What all workers that take work may have together, by the rule for several; nothing where the size of one was
    /// not told.
    pub(super) fn together(&self, now: Nanos) -> Option<f64> {
        let (mut sum, mut largest) = (0.0_f64, 0.0_f64);
        for worker in self.workers.iter().flatten().filter(|worker| worker.open(now)) {
            let base = f64::from(base(&worker.member, &self.settings)?);
            sum += base * worker.weight;
            largest = largest.max(base);
        }
        let together = (sum * self.settings.fleet_factor).max(largest);
        Some(together / f64::from(self.settings.dams.max(1)))
    }
}

/// What a worker carries alone, when it was told.
pub(super) fn base(member: &Member, settings: &GateSettings) -> Option<u32> {
    match settings.limit {
        LimitSource::Fixed(limit) => Some(limit),
        LimitSource::Slots | LimitSource::Adaptive => member.slots,
    }
}
