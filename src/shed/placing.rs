//! Who has room: the conditions under which a request gets a seat, and the choice among the workers that have one.

use crate::clock::Nanos;
use crate::refusal::Refusal;
use crate::request::Class;

use super::gate::Gate;
use super::ledger::Load;
use super::pick::Candidate;
use super::refuse::{self, Fullness};
use super::settings::LimitSource;

impl Gate {
    /// Where a request of `class` may sit down now; not at the places in `tried`.
    pub(super) fn place(
        &mut self,
        load: &Load,
        class: Class,
        session: Option<u64>,
        tried: &[usize],
        now: Nanos,
    ) -> Option<usize> {
        self.survey(load, tried, now);
        let allowed = self.fleet_allows(now) && self.reserve_allows(load, class, now);
        if allowed { self.chosen(session) } else { None }
    }

    /// Where a request that holds a seat already may move to: a worker with room that is not among `tried`.
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

    /// Refuses a prompt that no worker of this pool can ever hold. A worker that cools down will be back.
    pub(super) fn check_size(&self, load: &Load) -> Result<(), Refusal> {
        let hopeful = || self.workers.iter().flatten().filter(|worker| worker.takes_work());
        if hopeful().next().is_none() || hopeful().any(|worker| worker.can_hold(load)) {
            return Ok(());
        }
        let most = hopeful().filter_map(|worker| worker.member.kv_tokens).max().unwrap_or(0);
        Err(refuse::too_large(&self.pool, load.prompt, most))
    }

    /// Whether any worker takes work now.
    pub(super) fn is_open(&self, now: Nanos) -> bool {
        self.workers.iter().flatten().any(|worker| worker.open(now))
    }

    /// How full the workers are that take work now.
    pub(super) fn fullness(&self, now: Nanos) -> Fullness<'_> {
        let open = || self.workers.iter().flatten().filter(|worker| worker.open(now));
        Fullness {
            pool: &self.pool,
            in_flight: open().map(|worker| u64::from(worker.ledger.in_flight())).sum(),
            limit: open().map(|worker| u64::from(worker.limit())).sum(),
        }
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
                fits: worker.fits(load, &self.settings, now),
            });
            self.places.push(place);
        }
    }

    fn chosen(&mut self, session: Option<u64>) -> Option<usize> {
        let chosen = (self.pick)(&self.candidates, session, &mut self.random)?;
        self.candidates.get(chosen).filter(|candidate| candidate.fits)?;
        self.places.get(chosen).copied()
    }

    /// Whether all workers together may take more. Several do not carry the sum of what each carries alone (they wait
    /// for each other, and one of them may be lost), so the ceiling is `base · max(1, factor · N)`, with the slots
    /// that were told as base, and the last of them may go over it in part. Where they were not told, the limits that were learned are the only ones.
    fn fleet_allows(&self, now: Nanos) -> bool {
        self.together(now).is_none_or(|(ceiling, in_flight)| in_flight == 0 || ceiling > in_flight as f64)
    }

    /// What all workers together may have, and what they have; nothing where the size of one was not told.
    pub(super) fn together(&self, now: Nanos) -> Option<(f64, u64)> {
        let (mut in_flight, mut sum, mut largest) = (0_u64, 0.0_f64, 0.0_f64);
        for worker in self.workers.iter().flatten().filter(|worker| worker.open(now)) {
            let base = match self.settings.limit {
                LimitSource::Fixed(limit) => Some(limit),
                LimitSource::Slots | LimitSource::Adaptive => worker.member.slots,
            };
            let base = f64::from(base?);
            in_flight += u64::from(worker.ledger.in_flight());
            sum += base * worker.weight;
            largest = largest.max(base);
        }
        let together = (sum * self.settings.fleet_factor).max(largest);
        Some((together / f64::from(self.settings.dams.max(1)), in_flight))
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
}
