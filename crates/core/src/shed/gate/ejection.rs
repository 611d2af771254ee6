//! Outlier ejection: a worker that fails requests which others can serve gets none for a while.
//!
//! A worker that fails at once is always the least loaded, so without ejection it gets the more
//! requests the faster it fails. Failed connections are handled by `health`: they cost no request
//! anything, so such a worker is tried again within seconds.
//!
//! * **What counts** (`outcomes`): 500, 502, 504, an answer of the wrong type, a connection or
//!   stream that breaks. 429 and 503 pause the worker for as long as it asks (`worker_ejection`) and never
//!   eject it; other 4xx say nothing about it.
//! * **Bounds.** At most `max_percent` of a pool's workers that may take work are ejected, rounded
//!   down; unreachable workers count as ejected. A pool of one keeps its worker and shows it as
//!   failing. Each gateway counts what it sees itself; several see the same workers fail. One that
//!   fails and is not ejected counts as loaded as the others, so that it gets no more than its share;
//!   sessions and prompts that are bound to it go to others that have room.
//! * **Trade-off.** A worker on trial serves one request at a time, until that is complete or has
//!   flowed for as long as the shortest ejection. While the only worker that takes requests fails
//!   them, those set aside are tried within 10 s, or callers would wait for the end of a long pause
//!   of a worker that is well again.

use std::time::Duration;

use crate::clock::Nanos;
use crate::shed::ask::WorkerFailure;
use crate::shed::outcomes::{FailureEvidence, RequestSource};
use crate::shed::permit_record::{PermitId, PermitRecord};
use crate::shed::settings::EjectionMode;
use crate::shed::worker::GateWorker;
use crate::shed::worker_ejection::WorkerTrouble;

use super::Gate;
use super::placing::FEW;

impl Gate {
    /// Records that a request which failed at `worker` succeeded at another.
    pub fn convict(&mut self, worker: &str, failure: WorkerFailure, now: Nanos) {
        let Some(place) = self.place_of(worker) else { return };
        if let WorkerFailure::Busy(Some(asks)) = failure
            && let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut)
        {
            worker.aside.lengthen(asks);
            self.update_sums(place, now);
        } else if failure.counts() {
            self.count_failure(place, FailureEvidence::Elsewhere, now);
        }
    }

    /// Records that the request of this permit failed only at `worker` and will not be sent again.
    pub fn suspect(&mut self, id: PermitId, worker: &str, failure: WorkerFailure, now: Nanos) {
        let Some(source) = self.permits.get(&id).map(PermitRecord::source) else { return };
        if let Some(place) = self.place_of(worker).filter(|_| failure.counts()) {
            self.count_failure(place, FailureEvidence::Request(source), now);
        }
    }

    /// Records an error answer, of worker or caller: its speed says nothing about the worker.
    pub fn answered_with_error(&mut self, id: PermitId) {
        if let Some(permit) = self.permits.get_mut(&id) {
            permit.fail();
        }
    }

    fn place_of(&self, worker: &str) -> Option<usize> {
        let is_it =
            |place: &Option<GateWorker>| place.as_ref().is_some_and(|known| &*known.member.id == worker);
        self.workers.iter().position(is_it)
    }

    /// Records the success of a request that was sent there at `sent`.
    pub(super) fn count_success(&mut self, place: usize, source: RequestSource, sent: Nanos, now: Nanos) {
        let settings = self.settings.ejection;
        self.tell_suspects(place, source, true, now);
        let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut) else { return };
        worker.outcomes.succeeded(settings.interval, now);
        worker.rejects = false;
        if worker.aside.trouble() == Some(WorkerTrouble::Failing) {
            let alone = self.is_alone(place);
            let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut) else { return };
            if worker.outcomes.should_eject(&settings, alone, false, now) {
                return;
            }
            worker.aside.succeeded(now, now);
        } else {
            worker.aside.succeeded(sent, now);
        }
    }

    /// Records a failed request at the worker at `position`.
    pub(super) fn count_failure(&mut self, place: usize, evidence: FailureEvidence, now: Nanos) {
        let settings = self.settings.ejection;
        let worker = self.workers.get(place).and_then(Option::as_ref);
        // The canary judges the side on trial: if its failing workers got no requests, it would pass.
        if settings.mode == EjectionMode::Off || worker.is_some_and(|worker| worker.member.canary) {
            return;
        }
        let alone = self.is_alone(place);
        let may = settings.mode == EjectionMode::On && self.may_eject(place, now);
        let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut) else { return };
        if worker.aside.is_ejected(now) {
            // Nothing is sent there now; a request from before the ejection adds nothing new.
            return;
        }
        let ejected = worker.aside.trouble() == Some(WorkerTrouble::Ejected);
        let news = !worker.outcomes.fails_all(&settings);
        worker.outcomes.failed(evidence, settings.interval, now);
        let should = worker.outcomes.should_eject(&settings, alone, ejected, now);
        if let FailureEvidence::Request(source) = evidence {
            if !self.suspects.contains(&place) {
                self.suspects.push(place);
            }
            if news {
                self.tell_suspects(place, source, false, now);
            }
        }
        let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut).filter(|_| should) else {
            return;
        };
        if may || ejected {
            worker.outcomes.forget();
            worker.aside.eject(&settings, now);
        } else {
            worker.aside.mark_failing(now);
        }
        self.update_sums(place, now);
        self.process_timeouts(now);
        self.serve(now);
    }

    /// Pauses a worker that said it is busy, unless no other takes work. `asks` is the time that it
    /// wants to be left alone.
    pub(super) fn pause(&mut self, place: usize, asks: Option<Duration>, now: Nanos) {
        if self.settings.ejection.mode != EjectionMode::On || !self.others_take_work(place, now) {
            return;
        }
        let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut) else { return };
        worker.aside.pause(asks, now);
        self.update_sums(place, now);
    }

    /// Lets ejected and paused workers be tried soon, because the only worker that takes work has
    /// failed a request. Nothing says that it does better than they would by now.
    pub(super) fn shorten_absences(&mut self, place: usize, now: Nanos) {
        if self.others_take_work(place, now) {
            return;
        }
        for worker in self.workers.iter_mut().flatten() {
            self.sums.stale |= worker.aside.shorten();
        }
    }

    fn others_take_work(&self, place: usize, now: Nanos) -> bool {
        let mut others = self.workers.iter().enumerate().filter(|(other, _)| *other != place);
        others.any(|(_, worker)| worker.as_ref().is_some_and(|worker| worker.takes_work_now(now)))
    }

    /// Reopens ejected and paused workers if no others are left: a bad worker is better than none.
    pub(super) fn lift_the_last(&mut self, now: Nanos) {
        let serves = |worker: &GateWorker| worker.takes_work_now(now) && !worker.aside.is_aside();
        if !self.workers.iter().flatten().any(serves) {
            let aside = self.workers.iter_mut().flatten().filter(|worker| worker.aside.is_aside());
            aside.for_each(|worker| worker.aside.reopen(now));
        }
    }

    /// Returns `true` if one more worker may be ejected.
    fn may_eject(&self, place: usize, now: Nanos) -> bool {
        let members =
            || self.workers.iter().enumerate().filter_map(|(at, worker)| Some((at, worker.as_ref()?)));
        let working = || members().filter(|(_, worker)| worker.takes_work());
        let gone = working().filter(|(at, worker)| {
            *at != place && (worker.aside.is_aside() || !worker.health.reachable(now))
        });
        let most = working().count() * self.settings.ejection.max_percent as usize / 100;
        gone.count() < most
    }

    /// Tells workers that failed requests how one fared at the worker at `place`.
    fn tell_suspects(&mut self, place: usize, source: RequestSource, well: bool, now: Nanos) {
        let interval = self.settings.ejection.interval;
        let Self { suspects, workers, .. } = self;
        suspects.retain(|suspect| {
            let Some(worker) = workers.get_mut(*suspect).and_then(Option::as_mut) else { return false };
            if *suspect != place {
                worker.outcomes.elsewhere(source, well, now);
            }
            worker.outcomes.is_suspected(interval, now)
        });
    }

    /// Returns `true` if no other worker of the pool may take work.
    fn is_alone(&self, place: usize) -> bool {
        let mut others = self.workers.iter().enumerate().filter(|(at, _)| *at != place);
        !others.any(|(_, worker)| worker.as_ref().is_some_and(GateWorker::takes_work))
    }

    /// Returns a measure of the load at a worker, of one that fails and is not ejected at least that of an
    /// average other one, by their limits: else it is always the least loaded, and draws what the others
    /// could serve.
    pub(super) fn load_seen(&self, own: &GateWorker, of: impl Fn(&GateWorker) -> u64) -> u64 {
        if !own.is_failing() {
            return of(own);
        }
        let worker = |place: &usize| self.workers.get(*place).and_then(Option::as_ref);
        let others =
            || self.sums.open.iter().take(FEW).filter_map(worker).filter(|worker| !worker.is_failing());
        let here = u64::from(own.limit());
        let sum: u64 = others()
            .map(|other| of(other).saturating_mul(here).div_ceil(u64::from(other.limit().max(1))))
            .fold(0, u64::saturating_add);
        of(own).max(sum.div_ceil(others().count().max(1) as u64))
    }
}
