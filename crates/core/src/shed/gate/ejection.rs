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
//!   failing. Each gateway counts what it sees itself; several see the same workers fail.
//! * **Trade-off.** A worker on trial serves one request at a time, until that is complete or has
//!   flowed for as long as the shortest ejection.

use crate::clock::Nanos;
use crate::shed::ask::WorkerFailure;
use crate::shed::outcomes::{FailureEvidence, OutcomeCounts};
use crate::shed::permit_record::PermitId;
use crate::shed::settings::EjectionMode;
use crate::shed::worker::GateWorker;
use crate::shed::worker_ejection::WorkerTrouble;

use super::Gate;

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
        let Some(caller) = self.permits.get(&id).map(|permit| permit.caller()) else { return };
        if let Some(place) = self.place_of(worker).filter(|_| failure.counts()) {
            self.count_failure(place, FailureEvidence::Caller(caller), now);
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
    pub(super) fn count_success(&mut self, place: usize, sent: Nanos, now: Nanos) {
        let settings = self.settings.ejection;
        let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut) else { return };
        worker.outcomes.succeeded(settings.interval, now);
        worker.rejects = false;
        if worker.aside.trouble() == Some(WorkerTrouble::Failing) {
            let others = self.others(place, now);
            let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut) else { return };
            if worker.outcomes.should_eject(&settings, others, false, now) {
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
        let others = self.others(place, now);
        let may = settings.mode == EjectionMode::On && self.may_eject(place, now);
        let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut) else { return };
        if worker.aside.is_ejected(now) {
            // Nothing is sent there now; a request from before the ejection adds nothing new.
            return;
        }
        let ejected = worker.aside.trouble() == Some(WorkerTrouble::Ejected);
        worker.outcomes.failed(evidence, settings.interval, now);
        if !worker.outcomes.should_eject(&settings, others, ejected, now) {
            return;
        }
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

    /// Pauses a worker that said it is busy, unless no other takes work.
    pub(super) fn pause(&mut self, place: usize, now: Nanos) {
        if self.settings.ejection.mode != EjectionMode::On {
            return;
        }
        let mut others = self.workers.iter().enumerate().filter(|(other, _)| *other != place);
        if !others.any(|(_, worker)| worker.as_ref().is_some_and(|worker| worker.takes_work_now(now))) {
            return;
        }
        let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut) else { return };
        worker.aside.pause(now);
        self.update_sums(place, now);
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

    /// Returns the outcomes of the other workers in the interval.
    fn others(&mut self, place: usize, now: Nanos) -> OutcomeCounts {
        let interval = self.settings.ejection.interval;
        let mut sum = OutcomeCounts::default();
        for (other, worker) in self.workers.iter_mut().enumerate() {
            if let Some(worker) = worker.as_mut().filter(|_| other != place) {
                sum.add(worker.outcomes.tally(interval, now));
            }
        }
        sum
    }
}
