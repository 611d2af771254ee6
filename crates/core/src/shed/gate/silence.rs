//! Silent workers: they are up, answer their health checks, and send no more tokens.
//!
//! One stream may pause; all streams of a worker do not at once. So a request that has waited for
//! its next token for a while reports that ([`Gate::awaits`]). If the worker has sent nothing on
//! any stream for longer than its token times explain, it is treated as unreachable: it gets no new
//! requests, those without a first token move to other workers, and after a cool-down a few
//! requests try it. Streams that hang there end by their own timeout. A token on any of them ends
//! the silence at once. How long a prompt takes is learned from first tokens. Until it is known, or if
//! it never is, as at a gateway that is always late itself, only a first token that misses its
//! timeout shows that a worker which decodes nothing is silent.
//!
//! * **Failure mode.** If all its streams have stalled clients, a worker is not silent: only
//!   requests that wait for it report. While it may be reading a long prompt and decodes nothing,
//!   it is not silent either.
//! * **Trade-off.** A worker whose only stream pauses for seconds is skipped for one cool-down; the
//!   stream goes on.

use std::time::Duration;

use crate::clock::Nanos;
use crate::shed::permit_record::{Dispatch, PermitId, PermitRecord};

use super::Gate;

/// Length of a pause of the gateway after which everything may seem silent: half of the
/// shortest silence.
const LONG: Duration = Duration::from_secs(1);

impl Gate {
    /// Reports that a streamed request has got nothing from its worker for a while. Returns `true`
    /// if it should move: the worker fell silent after the dispatch, none of its answer has come,
    /// and there is another worker.
    pub fn awaits(&mut self, id: PermitId, now: Nanos) -> bool {
        let Some((permit, worker)) = self.seat_and_worker(id) else { return false };
        let Some(sent) = permit.dispatched_at().filter(|_| permit.stream) else { return false };
        let (begun, place) = (permit.has_begun(), permit.worker);
        let telling = match worker.health.silent_since() {
            // A stream that has not begun is evidence only if a first token is long overdue.
            None => begun || worker.owes_first_token(now),
            // Requests that hang since then are no new evidence; a later trial is, after a while.
            Some(since) => since < sent && now.since(sent) >= worker.flow.silence_limit(),
        };
        if telling && worker.health.reachable(now) && worker.is_silent(now) {
            self.fall_silent(place, now);
        }
        let Some((_, worker)) = self.seat_and_worker(id) else { return false };
        let abandoned = !begun && worker.health.silent_since().is_some_and(|since| sent <= since);
        abandoned && self.has_alternative(id, now)
    }

    /// Records that the gateway itself was late from `from` to `to`. It sees only afterwards what
    /// the workers did then, so no measurement of that time counts against them. Waits for them are
    /// longer by all of a pause of a second or more, and else by `credit`, which is
    /// [bounded](crate::clock::Lag::overlap): a gateway that is late again and again must find a
    /// silent worker before its requests time out, or it would send more there.
    pub fn lagged(&mut self, from: Nanos, to: Nanos, credit: Duration) {
        let length = to.since(from);
        let own = if length >= LONG { length } else { credit };
        for worker in self.workers.iter_mut().flatten() {
            if worker.ledger.in_flight() > 0 {
                worker.stalled(from, to);
            }
            worker.first_tokens.extend(own);
            worker.flow.extend(own, to);
        }
    }

    /// Records that the client of this request leaves before any of its answer has come.
    ///
    /// If the worker had time to answer, and has answered none that was sent later, this is evidence.
    /// It convicts the worker only while another can serve: where all callers are impatient, a slow
    /// worker is better than none. A convicted worker is tried again after each trial that leaves,
    /// but later, whatever the trial waited for: its client lost that time.
    pub(super) fn left_unanswered(&mut self, id: PermitId, now: Nanos) {
        let alternative = self.has_alternative(id, now);
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        let Some(Dispatch { at: sent, bound: false, .. }) = permit.last_dispatch() else { return };
        if permit.has_begun() || !worker.health.reachable(now) {
            return;
        }
        let place = permit.worker;
        let stalled = permit.stream && worker.first_tokens.is_stalled(id, sent, now);
        let certain = stalled && worker.unanswered.left(sent, now);
        let hangs = match worker.health.silent_since() {
            None => certain && alternative,
            Some(since) => since < sent && (stalled || worker.unanswered.has_convicted()),
        };
        if hangs && worker.flow.is_silent(now) {
            worker.unanswered.convict();
            self.fall_silent(place, now);
        }
    }

    pub(super) fn fall_silent(&mut self, place: usize, now: Nanos) {
        let Self { workers, permits, .. } = self;
        let Some(worker) = workers.get_mut(place).and_then(Option::as_mut) else { return };
        worker.health.fell_silent(now);
        worker.flow.hang(worker.ledger.in_flight());
        // Requests that it has not begun to answer are no evidence about those sent from now on.
        worker.first_tokens.disregard_all(now);
        permits.values_mut().filter(|permit| permit.worker == place).for_each(PermitRecord::hang);
        self.update_sums(place, now);
        self.process_timeouts(now);
        self.serve(now);
    }
}
