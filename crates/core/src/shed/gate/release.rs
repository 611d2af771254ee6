//! The ends of a request at its worker: it fails there, moves to another, or releases its permit.

use std::sync::Arc;

use crate::clock::Nanos;
use crate::request::Ending;
use crate::shed::algorithm::WorkerSample;
use crate::shed::ask::{Affinity, WorkerFailure};
use crate::shed::outcomes::FailureEvidence;
use crate::shed::permit_record::PermitId;

use super::Gate;

impl Gate {
    /// Records that the worker failed the request, which keeps its permit.
    pub fn worker_failed(&mut self, id: PermitId, kind: WorkerFailure, now: Nanos) {
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        permit.fail_at(worker.member.canary);
        let place = permit.worker;
        let quota = worker.member.external.clone();
        let of_the_quota = quota.is_some() && matches!(kind, WorkerFailure::Busy(_));
        worker.rejects |= kind == WorkerFailure::Rejected;
        if !matches!(kind, WorkerFailure::Error | WorkerFailure::Rejected) && !of_the_quota {
            // A request that fails by itself says nothing about the worker's capacity.
            worker.law.observe(WorkerSample::WorkerFailed { in_flight: permit.in_flight_at_dispatch() }, now);
        }
        match kind {
            WorkerFailure::Connect => worker.health.failed(now),
            WorkerFailure::Busy(_)
            | WorkerFailure::Refused
            | WorkerFailure::Rejected
            | WorkerFailure::Error => worker.on_answer(now),
            WorkerFailure::Broke | WorkerFailure::Timeout => {}
        }
        if kind.counts() && worker.aside.is_trial(id) {
            worker.aside.wait(now);
        }
        // It had all the time that a first token may take, and sent nothing on any stream.
        let silent =
            kind == WorkerFailure::Timeout && worker.health.silent_since().is_none() && worker.is_silent(now);
        if kind == WorkerFailure::Connect {
            // A worker that is not there will have been restarted when it is back.
            self.prefixes.forget(place);
        }
        match (kind, quota) {
            (WorkerFailure::Busy(wait), Some(quota)) => quota.0.refused(wait, now),
            (WorkerFailure::Busy(asks), None) => self.pause(place, asks, now),
            _ => {}
        }
        if silent {
            self.fall_silent(place, now);
        }
        self.shorten_absences(place, now);
        self.update_sums(place, now);
        self.process_timeouts(now);
        self.serve(now);
    }

    /// Moves a permit to a worker with room that has not had the request. Returns the worker's id;
    /// `None` if there is none, and the permit stays.
    pub fn reassign(&mut self, id: PermitId, now: Nanos) -> Option<Arc<str>> {
        let mut permit = self.permits.remove(&id)?;
        permit.tried.push(permit.worker);
        let affinity = Affinity { session: None, prefix: permit.prefix.clone() };
        if permit.has_failed_by_side() {
            permit.load.side = permit.load.side.elsewhere();
        }
        let moved = self.choose(&permit.load, &affinity, &permit.tried, now);
        let worker = moved.map(|place| {
            self.detach(id, &mut permit, now);
            permit.move_to(place, self.load_at(place, permit.load, &affinity));
            if permit.ask.is_some() {
                self.displaceable.insert((permit.granted, id));
            }
            self.attach(id, &mut permit, now)
        });
        if worker.is_none() {
            permit.tried.pop();
        }
        self.permits.insert(id, permit);
        self.serve(now);
        worker
    }

    /// Releases a permit, unless it is free; `seen` output tokens have arrived in total.
    pub fn release(&mut self, id: PermitId, ending: Ending, seen: u64, now: Nanos) {
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        worker.count_output(permit, seen);
        self.count_ended(id, ending, now);
        let Self { permits, workers, settings, .. } = self;
        let Some(permit) = permits.get_mut(&id) else { return };
        let Some(worker) = workers.get_mut(permit.worker).and_then(Option::as_mut) else { return };
        let in_flight = permit.in_flight_at_dispatch();
        let sample = permit.last_dispatch().and_then(|dispatch| match ending {
            Ending::Complete if !permit.has_failed() => {
                let elapsed = now.since(dispatch.at);
                if !permit.stream && !dispatch.bound && !worker.stalls.invalidates(dispatch.at) {
                    let sequences = u64::from(permit.granted_sequences().max(1));
                    let whole = WorkerSample::Whole {
                        dispatched: dispatch.at,
                        elapsed,
                        tokens: permit.seen_tokens() / sequences,
                        expected: worker.prefill.idle(permit.load.unread()).unwrap_or_default(),
                        slo: settings.slo(permit.load.prompt),
                    };
                    worker.law.observe(whole, now);
                    let seen = permit.seen_tokens();
                    let written = if seen > 0 { seen } else { permit.load.output };
                    worker.pace.learn(elapsed, written / sequences);
                }
                Some(WorkerSample::End { elapsed, in_flight })
            }
            Ending::ClientGone => Some(WorkerSample::ClientGone),
            Ending::WorkerFailed | Ending::TimedOut if !permit.has_failed() => {
                Some(WorkerSample::WorkerFailed { in_flight })
            }
            Ending::Complete | Ending::WorkerFailed | Ending::TimedOut | Ending::Refused => None,
        });
        if let Some(sample) = sample {
            worker.law.observe(sample, now);
        }
        if ending == Ending::Complete {
            worker.on_answer(now);
        }
        let (place, sent, source) = (permit.worker, permit.dispatched_at(), permit.source());
        match ending {
            Ending::Complete if !permit.has_failed() => {
                self.count_success(place, source, sent.unwrap_or(now), now);
            }
            Ending::WorkerFailed if !permit.has_failed() => {
                self.count_failure(place, FailureEvidence::Request(source), now);
            }
            _ => {}
        }
        let Some(permit) = self.permits.get(&id) else { return };
        let used = permit.used_load();
        self.free(id, used, now);
    }
}
