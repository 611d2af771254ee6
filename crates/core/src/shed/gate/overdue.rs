//! First tokens that are overdue while other streams flow: the worker has a queue of its own, so it
//! decodes no more sequences at once than flow meanwhile.

use std::time::Duration;

use crate::clock::Nanos;
use crate::shed::algorithm::WorkerSample;
use crate::shed::first_tokens::Suspicion;

use super::Gate;

/// Minimum time between two searches of a worker for overdue first tokens.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// An overdue first token, while other streams flow, is certain after this time: the worker decodes
/// at most the number of sequences that flowed meanwhile.
const OVERDUE_CONFIRM: Duration = Duration::from_millis(150);
/// The same if no more sequences are in flight than just flowed at once.
const OVERDUE_CONFIRM_WITHIN_SHOWN: Duration = Duration::from_millis(400);

impl Gate {
    /// Tells the limit algorithm when a first token is overdue while other streams flow.
    pub(super) fn look_for_overdue(&mut self, place: usize, now: Nanos) {
        let Self { workers, permits, settings, .. } = self;
        let Some(worker) = workers.get_mut(place).and_then(Option::as_mut) else { return };
        if now.since(worker.looked_at) < LOOK_EVERY {
            return;
        }
        let Some(dispatched) =
            worker.first_tokens.overdue(now).filter(|sent| !worker.stalls.invalidates(*sent))
        else {
            worker.suspicion = None;
            return;
        };
        worker.looked_at = now;
        let here = permits.values().filter(|permit| permit.worker == place);
        let flowing: u32 =
            here.filter(|permit| permit.flows(dispatched, now)).map(|permit| permit.load.sequences).sum();
        let suspicion = worker.suspicion.get_or_insert(Suspicion { since: now, flowing });
        suspicion.flowing = suspicion.flowing.max(flowing);
        let beyond = worker.ledger.in_flight() > worker.flow.long_peak();
        let certain = match (beyond, worker.prefill.is_spread(settings.ttft_slo)) {
            (true, false) => Duration::ZERO,
            (true, true) => OVERDUE_CONFIRM,
            (false, _) => OVERDUE_CONFIRM_WITHIN_SHOWN,
        };
        if now.since(suspicion.since) >= certain {
            let flowing = suspicion.flowing;
            worker.suspicion = None;
            worker.law.observe(WorkerSample::Overdue { dispatched, flowing }, now);
        }
    }
}
