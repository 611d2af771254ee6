//! Non-streamed answers whose clients have left, and load that this gateway did not send.
//!
//! A stream ends when its client leaves: the engine notices at the next token that it writes. A
//! non-streamed answer is written only when complete, and some engines (llama.cpp) decode it to the
//! end for nobody. So its permit is held until it should be complete, or until the worker reports
//! less in flight. Reported load unknown here is from others and subtracted from the slots.
//!
//! * **Failure mode.** Without a measured answer the end is a guess, at most 1 min after dispatch.
//! * **Trade-off.** If an engine stops at once and sends no reports, these places idle meanwhile.

use std::time::Duration;

use crate::clock::Nanos;
use crate::request::Ending;

use super::algorithm::WorkerSample;
use super::gate::Gate;
use super::permit_record::PermitId;
use super::report::LoadReport;
use super::sums;

/// Maximum time from the dispatch to the release of an abandoned permit.
const LONGEST: Duration = Duration::from_secs(60);
/// Assumed time per token without measurements: a full batch of a large model.
const TOKEN: Duration = Duration::from_millis(30);
/// Non-streamed answers after which older ones weigh about a third.
const MEMORY: f64 = 32.0;

/// Duration of a worker's non-streamed answers: decaying sums.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    seconds: f64,
    tokens: f64,
}

impl Pace {
    /// Records that a non-streamed answer of `tokens` took `elapsed`.
    pub(super) fn learn(&mut self, elapsed: Duration, tokens: u64) {
        if tokens > 0 {
            let keep = 1.0 - 1.0 / MEMORY;
            self.seconds = self.seconds * keep + elapsed.as_secs_f64();
            self.tokens = self.tokens * keep + tokens as f64;
        }
    }

    /// Returns how long an answer of `tokens` takes, prefill included.
    fn whole(&self, tokens: u64) -> Option<Duration> {
        let seconds = (self.tokens > 0.0).then(|| self.seconds / self.tokens * tokens as f64)?;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

/// Load of a worker that is known here, to compare with its reports. A report is late: load in it
/// may have ended, and load missing in it may have been sent since.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KnownLoad {
    /// Sequences in flight whose clients have left.
    abandoned: u32,
    /// Maximum in flight since the last report, and between the two reports before.
    most: u32,
    most_before: u32,
    /// Minimum in flight since the last report, without abandoned sequences.
    least: u32,
    /// Sequences that this gateway may have in flight beside those of others, by the last report;
    /// `None` if it shows none of others.
    pub(super) room: Option<u32>,
    /// End of the validity of that report.
    pub(super) until: Nanos,
}

impl KnownLoad {
    pub(super) fn note(&mut self, in_flight: u32) {
        self.most = self.most.max(in_flight);
        self.least = self.least.min(in_flight.saturating_sub(self.abandoned));
    }

    /// Returns how many of `running` reported sequences are not known here.
    fn others(&self, running: u32) -> u32 {
        running.saturating_sub(self.most.max(self.most_before))
    }

    /// Returns how many abandoned sequences have ended if the worker has `all` in flight.
    fn ended(&self, all: u32) -> u32 {
        self.least.saturating_add(self.abandoned).saturating_sub(all)
    }

    /// Starts the interval up to the next report, with `in_flight` sequences.
    fn turn(&mut self, in_flight: u32) {
        (self.most_before, self.most) = (self.most, in_flight);
        self.least = in_flight.saturating_sub(self.abandoned);
    }
}

impl Gate {
    /// Records that the client left before its answer began; `seen` output tokens have arrived.
    pub fn abandon(&mut self, id: PermitId, seen: u64, now: Nanos) {
        let Some(until) = self.expected_end(id).filter(|until| *until > now) else {
            return self.release(id, Ending::ClientGone, seen, now);
        };
        // No critical request may revoke it: leaving the worker again stops nothing.
        self.keep(id);
        let Some((permit, worker)) = self.seat_and_worker(id) else { return };
        worker.law.observe(WorkerSample::ClientGone, now);
        worker.known.abandoned = worker.known.abandoned.saturating_add(permit.load.sequences);
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

    fn free_abandoned(&mut self, id: PermitId, now: Nanos) {
        if let Some((permit, worker)) = self.seat_and_worker(id) {
            worker.known.abandoned = worker.known.abandoned.saturating_sub(permit.load.sequences);
            let used = permit.load;
            self.free(id, Some(used), now);
        }
    }

    /// Compares a report of the worker at `position` with the known load; the last came at `before`.
    pub(super) fn reconcile_report(
        &mut self,
        place: usize,
        report: &LoadReport,
        before: Option<Nanos>,
        now: Nanos,
    ) {
        let Some(worker) = self.workers.get_mut(place).and_then(Option::as_mut) else { return };
        worker.known.room = None;
        let Some(running) = report.running else { return };
        if let Some(size) = sums::base(&worker.member, &self.settings) {
            // Load that other gateways may have sent is their share.
            let gateways = self.settings.gateways.max(1);
            let beyond = worker.known.others(running).saturating_sub(size - size / gateways);
            worker.known.room = (beyond > 0).then(|| size.saturating_sub(beyond) / gateways);
        }
        worker.known.until = now + report.valid_for;
        if worker.known.room.is_some() {
            self.sums.until = self.sums.until.min(worker.known.until);
        }
        let mut ended = worker.known.ended(running.saturating_add(report.waiting.unwrap_or(0)));
        worker.known.turn(worker.ledger.in_flight());
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
}
