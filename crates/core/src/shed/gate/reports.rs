//! What the reports of workers change: limits, weights, and load that this gateway did not send.
//!
//! A reported queue cuts the limit. Load that is unknown here is from others and subtracted from the
//! slots. A weight scales the limit down. If a worker has less in flight than is known here, answers
//! whose clients have left are over.

use crate::clock::Nanos;

use super::super::algorithm::WorkerSample;
use super::super::permit_record::PermitId;
use super::super::report::{KeptReport, LoadReport};
use super::super::worker::GateWorker;
use super::Gate;

impl Gate {
    /// Applies a report of the worker `id`; ignores a worker not yet added or already removed.
    pub fn report(&mut self, id: &str, report: LoadReport, now: Nanos) {
        let Some((place, worker)) = self.worker_mut(id) else { return };
        let before = worker.reported.replace(KeptReport::new(&report, now));
        if let Some(waiting) = report.waiting {
            worker.law.observe(WorkerSample::Report { waiting }, now);
        }
        self.reconcile_report(place, &report, before.map(|before| before.at()), now);
        self.update_sums(place, now);
        self.process_timeouts(now);
        self.serve(now);
    }

    /// Compares a report of the worker at `place` with the known load; the last came at `before`.
    fn reconcile_report(&mut self, place: usize, report: &LoadReport, before: Option<Nanos>, now: Nanos) {
        let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut) else { return };
        let (size, gateways) = (worker.member.size(&self.settings), self.settings.gateways);
        let ended = worker.known.compare(report, size, gateways, worker.ledger.in_flight(), now);
        let Some(mut ended) = ended else { return };
        if let Some(until) = worker.known.room_until() {
            self.sums.until = self.sums.until.min(until);
        }
        // The report may be older than requests sent since the last one.
        let Some(before) = before else { return };
        let there = |id: &PermitId| self.permits.get(id).filter(|permit| permit.worker == place);
        let mut over = Vec::new();
        for (until, id) in &self.abandoned {
            let Some(permit) =
                there(id).filter(|permit| permit.dispatched_at().is_some_and(|sent| sent < before))
            else {
                continue;
            };
            if ended < permit.load.sequences {
                break;
            }
            ended -= permit.load.sequences;
            over.push((*until, *id));
        }
        for place in over {
            self.abandoned.remove(&place);
            self.free_abandoned(place.1, now);
        }
    }

    /// Scales the limit of the worker `id`: 1 leaves it as measured, 0 takes the worker out of
    /// service until the next call.
    pub fn weigh(&mut self, id: &str, weight: f64, now: Nanos) {
        let Some((_, worker)) = self.worker_mut(id) else { return };
        // A NaN weight is no reason to take a worker out.
        worker.weight = if weight.is_nan() { 1.0 } else { weight.clamp(0.0, 1.0) };
        self.sums.stale = true;
        self.process_timeouts(now);
        self.serve(now);
    }

    fn worker_mut(&mut self, id: &str) -> Option<(usize, &mut GateWorker)> {
        let mut workers = self.workers.iter_mut().enumerate();
        workers.find_map(|(place, worker)| {
            Some((place, worker.as_mut().filter(|worker| &*worker.member.id == id)?))
        })
    }
}
