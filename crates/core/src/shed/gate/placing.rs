//! The conditions for a permit, and the choice among the workers that have room.

use smallvec::SmallVec;

use crate::clock::Nanos;
use crate::refusal::Refusal;
use crate::request::Class;
use crate::shed::ask::{Affinity, PermitRequest};
use crate::shed::canary_counts::LoadSide;
use crate::shed::fair_queue::TriedWorkers;
use crate::shed::ledger::RequestLoad;
use crate::shed::pick::Candidate;
use crate::shed::refuse::{self, Fullness};
use crate::shed::worker::GateWorker;

use super::Gate;
use super::sums::PoolSums;

/// Up to this many workers are all examined: it costs no more than drawing some.
pub(super) const FEW: usize = 16;
/// Draws of a worker with room: enough to find two when one in four has room.
pub(super) const DRAWS: usize = 16;

impl Gate {
    /// Returns the worker for a request of `class` now, except those in `tried`.
    pub(super) fn place(
        &mut self,
        load: &RequestLoad,
        class: Class,
        affinity: &Affinity,
        tried: &[usize],
        now: Nanos,
    ) -> Option<usize> {
        self.refresh_sums(now);
        let allowed = self.fleet_allows() && self.reserve_allows(load, class, tried);
        if allowed { self.choose(load, affinity, tried, now) } else { None }
    }

    /// Returns a worker with room outside `tried`, for a request that already has a permit. External
    /// workers cost money: they get only what no other worker has room for.
    pub(super) fn choose(
        &mut self,
        load: &RequestLoad,
        affinity: &Affinity,
        tried: &[usize],
        now: Nanos,
    ) -> Option<usize> {
        self.refresh_sums(now);
        if load.side == LoadSide::Canary {
            // Without room on its own side it goes to the other.
            let on = |side| RequestLoad { side, ..*load };
            let on_trial = self.choose(&on(LoadSide::OnlyCanary), affinity, tried, now);
            return on_trial.or_else(|| self.choose(&on(LoadSide::Usual), affinity, tried, now));
        }
        let own = RequestLoad { external: false, ..*load };
        let cheapest = if load.external && self.sums.is_mixed() {
            self.choose_among(&own, affinity, tried, now)
        } else {
            None
        };
        cheapest.or_else(|| self.choose_among(load, affinity, tried, now))
    }

    fn choose_among(
        &mut self,
        load: &RequestLoad,
        affinity: &Affinity,
        tried: &[usize],
        now: Nanos,
    ) -> Option<usize> {
        match (affinity.prefix.as_deref(), affinity.session) {
            (Some(prefix), session) => self.by_prefix(load, session, prefix, tried, now),
            (None, Some(session)) => self.at_home(load, session, tried, now),
            (None, None) => self.anywhere(load, tried, now),
        }
    }

    /// Refuses a prompt that no worker it may go to can ever hold; one in a cool-down counts, as it will
    /// return. Otherwise it would wait at the head of the queue in vain, and all others behind it.
    pub(super) fn check_size(&mut self, load: &RequestLoad, now: Nanos) -> Result<(), Refusal> {
        self.refresh_sums(now);
        let most = if self.settings.canary.is_none() {
            self.sums.largest_prompt
        } else {
            let own =
                self.workers.iter().flatten().filter(|worker| worker.takes_work() && worker.may_take(load));
            own.map(GateWorker::largest_prompt).max()
        };
        match most {
            Some(most) if load.prompt > most => Err(refuse::too_large(&self.pool, load.prompt, most)),
            _ => Ok(()),
        }
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

    /// Returns `true` if any worker takes work now.
    pub(super) fn is_open(&mut self, now: Nanos) -> bool {
        self.refresh_sums(now);
        !self.sums.open.is_empty()
    }

    /// Returns when a provider's quota has room for `load`, if every worker that could take it is
    /// external and lacks quota.
    pub(super) fn quota_opens_at(&mut self, load: &RequestLoad, now: Nanos) -> Option<Nanos> {
        self.refresh_sums(now);
        let open = self.sums.open.iter().filter_map(|place| self.workers.get(*place)?.as_ref());
        let mut earliest: Option<Nanos> = None;
        for worker in open.filter(|worker| worker.may_take(load)) {
            let opens_at = worker.quota_opens_at(load, now)?;
            earliest = Some(earliest.map_or(opens_at, |at| at.min(opens_at)));
        }
        earliest
    }

    /// Returns the fill level of the workers that take work now.
    pub(super) fn fullness(&mut self, now: Nanos) -> Fullness<'_> {
        self.refresh_sums(now);
        Fullness { pool: &self.pool, in_flight: self.sums.in_flight(), limit: self.sums.limit }
    }

    pub(super) fn candidate(&self, place: usize, load: &RequestLoad, now: Nanos) -> Option<Candidate> {
        let worker = self.workers.get(place)?.as_ref()?;
        Some(Candidate {
            key: worker.key,
            in_flight: self.load_seen(worker, |worker| worker.ledger.in_flight().into()) as u32,
            limit: worker.limit(),
            tokens: self.load_seen(worker, |worker| worker.ledger.tokens()),
            fits: worker.fits(load, &self.settings, now),
        })
    }

    /// Lists all workers that take work as candidates, except those in `tried`.
    fn survey(&mut self, load: &RequestLoad, tried: &[usize], now: Nanos) {
        let (mut candidates, mut places) =
            (std::mem::take(&mut self.candidates), std::mem::take(&mut self.places));
        candidates.clear();
        places.clear();
        let open = self.sums.open.iter().copied().filter(|place| !tried.contains(place));
        for (place, candidate) in open.filter_map(|place| Some((place, self.candidate(place, load, now)?))) {
            candidates.push(candidate);
            places.push(place);
        }
        (self.candidates, self.places) = (candidates, places);
    }

    /// Chooses a worker with room. Of many workers a few are drawn, as the choice is between two
    /// random ones in any case. All are examined if hardly any has room.
    pub(super) fn anywhere(&mut self, load: &RequestLoad, tried: &[usize], now: Nanos) -> Option<usize> {
        if self.sums.open.len() > FEW {
            let mut drawn = SmallVec::<[(usize, Candidate); 2]>::new();
            for _ in 0..DRAWS {
                let place = *self.sums.open.get(self.random.usize(..self.sums.open.len()))?;
                let known = tried.contains(&place) || drawn.iter().any(|(other, _)| *other == place);
                let candidate = self.candidate(place, load, now).filter(|worker| worker.fits && !known);
                drawn.extend(candidate.map(|candidate| (place, candidate)));
                if let [(one, low), (other, high)] = drawn[..] {
                    let chosen = (self.pick.any)(&[low, high], &mut self.random)?;
                    return [one, other].get(chosen).copied();
                }
            }
        }
        self.survey(load, tried, now);
        let chosen = (self.pick.any)(&self.candidates, &mut self.random)?;
        self.candidates.get(chosen).filter(|candidate| candidate.fits)?;
        self.places.get(chosen).copied()
    }

    /// Chooses the session's worker if it has room and at most its share, else the next in order.
    fn at_home(&mut self, load: &RequestLoad, session: u64, tried: &[usize], now: Nanos) -> Option<usize> {
        let (rank, bounded) = (self.pick.rank, self.pick.below_session_share);
        let whole = self.whole(load);
        if tried.is_empty() && self.sums.open.len() > FEW {
            let PoolSums { session_map, open, .. } = &mut self.sums;
            let workers = &self.workers;
            let key = |place: &usize| workers.get(*place).and_then(Option::as_ref).map(|worker| worker.key);
            let home = session_map.of(session, || {
                open.iter().copied().max_by_key(|place| key(place).map(|key| rank(session, key)))
            })?;
            let candidate = self.candidate(home, load, now)?;
            if candidate.fits && bounded(&candidate, &whole) && !self.fails_at(home) {
                return Some(home);
            }
        }
        self.survey(load, tried, now);
        let fitting = self.candidates.iter().zip(&self.places).filter(|(worker, _)| worker.fits);
        let best = fitting.max_by_key(|(worker, place)| {
            (bounded(worker, &whole) && !self.fails_at(**place), rank(session, worker.key))
        });
        best.map(|(_, place)| *place)
    }

    fn fails_at(&self, place: usize) -> bool {
        self.workers.get(place).and_then(Option::as_ref).is_some_and(GateWorker::is_failing)
    }

    /// Returns `true` if all workers together may take more. Several do not carry the sum of what
    /// each carries alone: they wait for each other, and one may be lost. So with known slots as
    /// `base`, the ceiling is `base · max(1, factor · N)`; the last request may exceed it in part.
    /// If slots are unknown, only the learned limits apply.
    fn fleet_allows(&self) -> bool {
        let in_flight = self.sums.in_flight();
        self.sums.ceiling.is_none_or(|ceiling| in_flight == 0 || ceiling > in_flight as f64)
    }

    /// Returns `true` if the shares reserved for higher classes stay free. The lower classes may
    /// fill the rest together, whatever the higher ones occupy. An idle pool takes anything.
    fn reserve_allows(&self, load: &RequestLoad, class: Class, tried: &[usize]) -> bool {
        let occupied = self.sums.by_class;
        if self.settings.reserve.iter().all(|share| *share <= 0.0) || occupied == [0; 3] {
            return true;
        }
        let limit_of = |place: &usize| {
            let worker = self.workers.get(*place).and_then(Option::as_ref);
            worker.filter(|worker| worker.counted.is_some()).map_or(0, GateWorker::limit)
        };
        let elsewhere: u64 = tried.iter().map(|place| u64::from(limit_of(place))).sum();
        let limit = self.sums.limit.saturating_sub(elsewhere);
        let load = match load.sequences {
            0 | 1 => 1,
            // A request wider than any worker waits inside it.
            wide => u64::from(self.sums.open.iter().map(limit_of).max().unwrap_or(1).min(wide)),
        };
        let mut below: u64 = occupied.iter().take(class as usize).sum();
        Class::ALL.into_iter().filter(|other| *other >= class).all(|other| {
            below += occupied[other as usize];
            below + load <= limit.saturating_sub(self.kept_above(other, limit))
        })
    }

    /// Returns the sequences of `limit` reserved for classes above `class`; never the last one.
    fn kept_above(&self, class: Class, limit: u64) -> u64 {
        let share: f64 = self.settings.reserve.iter().skip(class as usize + 1).sum();
        let kept = (share.clamp(0.0, 1.0) * limit as f64).round() as u64;
        kept.min(limit.saturating_sub(1))
    }
}
