//! Non-streamed answers whose clients have left.
//!
//! A stream ends when its client leaves: the engine notices at the next token that it writes. A
//! non-streamed answer is written only when complete, and some engines (llama.cpp) decode it to the
//! end for nobody. So its permit is held until it should be complete, or until the worker reports
//! less in flight.
//!
//! * **Failure mode.** Without a measured answer the end is a guess, at most 1 min after dispatch.
//! * **Trade-off.** If an engine stops at once and sends no reports, these places idle meanwhile.

use std::time::Duration;

use crate::clock::Nanos;
use crate::request::Ending;

use super::super::algorithm::WorkerSample;
use super::super::permit_record::PermitId;
use super::Gate;

/// Maximum time from the dispatch to the release of an abandoned permit.
const LONGEST: Duration = Duration::from_secs(60);
/// Assumed time per token without measurements: a full batch of a large model.
const TOKEN: Duration = Duration::from_millis(30);

impl Gate {
    /// Records that the client left before its answer began; `seen` output tokens have arrived.
    pub fn abandon(&mut self, id: PermitId, seen: u64, now: Nanos) {
        self.left_unanswered(id, now);
        let Some(until) = self.expected_end(id).filter(|until| *until > now) else {
            return self.release(id, Ending::ClientGone, seen, now);
        };
        // No critical request may revoke it: leaving the worker again stops nothing.
        self.keep(id);
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        worker.law.observe(WorkerSample::ClientGone, now);
        worker.known.abandon(permit.load.sequences);
        let place = permit.worker;
        self.abandoned.insert((until, id));
        self.update_sums(place, now);
        self.process_timeouts(now);
    }

    /// Returns when a non-streamed answer should be complete, if its worker was sent the request.
    fn expected_end(&self, id: PermitId) -> Option<Nanos> {
        let permit = self.permits.get(&id)?;
        let worker = self.workers.get(permit.worker)?.as_ref()?;
        let sent = permit.dispatched_at().filter(|_| !permit.stream)?;
        let (prompt, tokens) =
            (permit.load.prompt, permit.load.output / u64::from(permit.load.sequences.max(1)));
        if (prompt, tokens) == (0, 0) {
            // Not a model call, or one of unknown cost.
            return None;
        }
        let whole = worker.pace.whole(tokens).filter(|_| tokens > 0).unwrap_or_else(|| {
            let reading =
                worker.prefill.reading(0, permit.load.unread()).unwrap_or(self.settings.slo(prompt) / 2);
            let token = worker.flow.usual_token().unwrap_or(TOKEN);
            reading.saturating_add(token.saturating_mul(u32::try_from(tokens).unwrap_or(u32::MAX)))
        });
        Some(sent + whole.min(LONGEST))
    }

    /// Frees permits whose answers should be complete by now. Returns `true` if there were any.
    pub(super) fn end_abandoned(&mut self, now: Nanos) -> bool {
        let mut any = false;
        while let Some((until, id)) = self.abandoned.first().copied().filter(|(until, _)| *until <= now) {
            self.abandoned.remove(&(until, id));
            self.free_abandoned(id, now);
            any = true;
        }
        any
    }

    pub(super) fn free_abandoned(&mut self, id: PermitId, now: Nanos) {
        if let Some((permit, worker)) = self.seat_and_worker(id) {
            worker.known.end_abandoned(permit.load.sequences);
            let used = permit.load;
            self.free(id, Some(used), now);
        }
    }
}
