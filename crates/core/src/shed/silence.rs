//! Silent workers: they are up, answer their health checks, and send no more tokens.
//!
//! One stream may pause; all streams of a worker do not at once. So a request that has waited for
//! its next token for a while reports that ([`Gate::report_waiting`]). If the worker has sent nothing on
//! any stream for longer than its token times explain, it is treated as unreachable: it gets no new
//! requests, those without a first token move to other workers, and after a cool-down a few
//! requests try it. Streams that hang there end by their own timeout. A token on any of them ends
//! the silence at once.
//!
//! * **Failure mode.** If all its streams have stalled clients, a worker is not silent: only
//!   requests that wait for it report. While it may be reading a long prompt and decodes nothing,
//!   it is not silent either.
//! * **Trade-off.** A worker whose only stream pauses for seconds is skipped for one cool-down; the
//!   stream goes on.

use std::time::Duration;

use crate::clock::{Nanos, saturating_nanos};

use super::algorithm::WorkerSample;
use super::gate::Gate;
use super::permit::REPORT_EVERY;
use super::permit_record::PermitId;
use super::quantile::Ratios;
use super::worker::GateWorker;

/// Shortest silence that can count against a worker.
pub const SHORTEST_SILENCE: Duration = Duration::from_secs(2);
/// A silence of up to this many [`NEARLY_ALL`] inter-token times does not count against it either.
const TOKENS: f64 = 5.0;
/// Quantile of a worker's inter-token times.
const NEARLY_ALL: f64 = 0.99;
/// Unit of the histogram, which resolves 5 ms to 2.4 s.
const UNIT: Duration = Duration::from_millis(100);
/// Samples after which older ones count half: seconds at a busy worker, a minute at an idle one.
const MEMORY: u32 = 1000;

/// A stream without tokens for longer does not flow: four tokens of 100 ms and one report interval.
pub(super) const FLOWS: Duration = Duration::from_millis(500);
/// Flowing streams are counted in periods of [`FLOWS`]. The maximum of the last three is what a
/// worker decodes at once now; the maximum of all sixteen is what it has shown it can.
const PERIODS: usize = 16;
const LAST: usize = 3;
/// A gap on all streams is a stall if it exceeds [`REPORT_EVERY`] by this, and by [`GAP_TOKENS`]
/// times the [`NEARLY_ALL`] token time.
const GAP: Duration = Duration::from_millis(50);
const GAP_TOKENS: f64 = 3.0;

#[derive(Debug, Default)]
pub(super) struct StreamActivity {
    /// Last arrival on any stream.
    at: Nanos,
    /// Last arrival of tokens on a stream that had already begun.
    tokens_at: Nanos,
    /// Number of the current period, the sequences that flowed in it and are still there, and their
    /// number at the end of earlier periods.
    period: u64,
    flowing: u32,
    before: [u32; PERIODS],
    /// Inter-token times, in [`UNIT`]s.
    gaps: Ratios,
    /// Sequences in flight when the worker fell silent; 0 once the silence ends.
    pub(super) hung: u32,
}

impl StreamActivity {
    /// Records that `count` tokens of one stream arrived in `span`.
    pub(super) fn learn(&mut self, count: u64, span: Duration) {
        self.gaps.add(span.as_secs_f64() / count.max(1) as f64 / UNIT.as_secs_f64());
        if self.gaps.len() >= MEMORY {
            self.gaps.fade();
        }
    }

    /// Returns the longest silence that is tolerated.
    fn silence_limit(&self) -> Duration {
        SHORTEST_SILENCE.max(self.token_time().mul_f64(TOKENS))
    }

    /// Returns the [`NEARLY_ALL`] quantile of the inter-token times; zero without samples.
    fn token_time(&self) -> Duration {
        self.gaps.quantile(NEARLY_ALL).map_or(Duration::ZERO, |gap| UNIT.mul_f64(gap))
    }

    /// Returns the median inter-token time.
    pub(super) fn usual_token(&self) -> Option<Duration> {
        self.gaps.quantile(0.5).map(|gap| UNIT.mul_f64(gap))
    }

    /// Returns `true` if `quiet` without any arrival is a stall.
    fn is_stall(&self, quiet: Duration) -> bool {
        // The percentile is computed only if needed: this runs for each report of each stream.
        quiet >= REPORT_EVERY + GAP && quiet >= REPORT_EVERY + self.token_time().mul_f64(GAP_TOKENS)
    }

    fn roll_periods(&mut self, now: Nanos) {
        let period = now.0 / saturating_nanos(FLOWS);
        let passed = period.saturating_sub(self.period);
        for _ in 0..passed.min(PERIODS as u64) {
            self.before.rotate_right(1);
            self.before[0] = std::mem::take(&mut self.flowing);
        }
        self.period = self.period.max(period);
    }

    /// Counts `sequences` of a flowing stream; `counted` is the period that last counted them.
    pub(super) fn count(&mut self, sequences: u32, counted: &mut Option<u64>, now: Nanos) {
        self.roll_periods(now);
        if counted.replace(self.period) != Some(self.period) {
            self.flowing = self.flowing.saturating_add(sequences);
        }
    }

    /// Removes `sequences` of a stream that the period `counted` counted last.
    pub(super) fn uncount(&mut self, sequences: u32, counted: Option<u64>, now: Nanos) {
        self.roll_periods(now);
        if counted == Some(self.period) {
            self.flowing = self.flowing.saturating_sub(sequences);
        }
    }

    /// Returns the maximum of sequences that flowed at once in the last 1.5 s.
    pub(super) fn recent_peak(&self) -> u32 {
        self.before.iter().take(LAST).fold(self.flowing, |most, count| most.max(*count))
    }

    /// Returns the maximum of sequences that flowed at once in the last 8 s.
    pub(super) fn long_peak(&self) -> u32 {
        self.before.iter().fold(self.flowing, |most, count| most.max(*count))
    }

    /// Removes `sequences` that are no longer there from the hung ones, if they were `hung`.
    pub(super) fn remove_hung(&mut self, hung: bool, sequences: u32) {
        if hung {
            self.hung = self.hung.saturating_sub(sequences);
        }
    }
}

impl GateWorker {
    /// Records that the worker answered a request.
    pub(super) fn on_answer(&mut self, now: Nanos) {
        self.look_for_stall(now);
        self.health.answered(now);
        self.flow.at = now;
        self.flow.hung = 0;
    }

    /// Records tokens of a request: of a `stream` they arrive one by one, of others all at once.
    pub(super) fn on_tokens(&mut self, stream: bool, now: Nanos) {
        self.look_for_stall(now);
        self.flow.at = now;
        if stream {
            self.flow.tokens_at = now;
        }
        if self.health.silent_since().is_some() {
            self.health.flowed(now);
            self.flow.hung = 0;
        }
    }

    /// Checks on an arrival if the gap before was a stall. While a prompt is read, gaps are normal.
    fn look_for_stall(&mut self, now: Nanos) {
        let since = self.flow.at;
        let flowed = self.flow.tokens_at > Nanos::ZERO && since.since(self.flow.tokens_at) <= FLOWS;
        let begins = self.reads_until().map_or(since, |read| read.max(since));
        if flowed && self.ledger.in_flight() > 0 && self.flow.is_stall(now.since(begins)) {
            self.stalled(since, now);
        }
        self.stalls.advance(self.oldest_unread(), now);
    }

    /// Records a stall from `from` to `to`, which says nothing about the worker's capacity.
    pub(super) fn stalled(&mut self, from: Nanos, to: Nanos) {
        if self.stalls.add(from, to) {
            self.suspicion = None;
            self.law.observe(WorkerSample::Stalled { from, to }, to);
        }
    }

    /// Returns `true` if it has sent nothing for so long that it counts as silent.
    fn is_silent(&self, now: Nanos) -> bool {
        now.since(self.flow.at) >= self.flow.silence_limit() && !self.may_be_reading(now)
    }
}

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
            None => begun || worker.is_overdue_for(worker.flow.silence_limit(), now),
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
    /// the workers did then, so nothing of that time counts against them.
    pub fn lagged(&mut self, from: Nanos, to: Nanos) {
        for worker in self.workers.iter_mut().flatten() {
            if worker.ledger.in_flight() > 0 {
                worker.stalled(from, to);
            }
            worker.awaiting_first_token.values_mut().for_each(|patience| patience.extend(to.since(from)));
            worker.flow.at = worker.flow.at.max(to);
        }
    }

    fn fall_silent(&mut self, place: usize, now: Nanos) {
        let Self { workers, permits, .. } = self;
        let Some(worker) = workers.get_mut(place).and_then(Option::as_mut) else { return };
        worker.health.fell_silent(now);
        worker.flow.hung = worker.ledger.in_flight();
        // Requests that it has not begun to answer are no evidence about those sent from now on.
        worker.answered = now;
        permits.values_mut().filter(|permit| permit.worker == place).for_each(|permit| permit.hung = true);
        self.update_sums(place, now);
        self.process_timeouts(now);
        self.serve(now);
    }
}
