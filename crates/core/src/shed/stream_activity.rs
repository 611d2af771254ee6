//! What flows from a worker: when something last arrived, how long tokens take, how many streams flow.
//!
//! The gaps between tokens tell a stall from a worker that is slow by nature, and silence from both.
//! The number of streams that flow at once shows how many sequences the worker really decodes.

use std::time::Duration;

use crate::clock::{Nanos, saturating_nanos};

use super::quantile::Ratios;

/// Minimum time between two token reports of one stream to the gate, so that it takes the pool's
/// lock ten times per second and not once per token.
pub const REPORT_EVERY: Duration = Duration::from_millis(100);
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
    hung: u32,
}

impl StreamActivity {
    /// Records that something arrived.
    pub(super) fn arrived(&mut self, now: Nanos) {
        self.at = now;
    }

    /// Records that tokens of a stream arrived.
    pub(super) fn tokens_arrived(&mut self, now: Nanos) {
        (self.at, self.tokens_at) = (now, now);
    }

    /// Counts `length` of the time up to `now` for no silence: the gateway could not have seen what
    /// arrived. The rest stays counted, or one that is late again and again would never see a silence.
    pub(super) fn extend(&mut self, length: Duration, now: Nanos) {
        self.at = (self.at + length).min(now.max(self.at));
    }

    /// Records that `count` tokens of one stream arrived in `span`.
    pub(super) fn learn(&mut self, count: u64, span: Duration) {
        self.gaps.add(span.as_secs_f64() / count.max(1) as f64 / UNIT.as_secs_f64());
        if self.gaps.len() >= MEMORY {
            self.gaps.fade();
        }
    }

    /// Returns the longest silence that is tolerated.
    pub(super) fn silence_limit(&self) -> Duration {
        SHORTEST_SILENCE.max(self.token_time().mul_f64(TOKENS))
    }

    /// Returns `true` if nothing has arrived for longer than is tolerated.
    pub(super) fn is_silent(&self, now: Nanos) -> bool {
        now.since(self.at) >= self.silence_limit()
    }

    /// Returns the [`NEARLY_ALL`] quantile of the inter-token times; zero without samples.
    fn token_time(&self) -> Duration {
        self.gaps.quantile(NEARLY_ALL).map_or(Duration::ZERO, |gap| UNIT.mul_f64(gap))
    }

    /// Returns the median inter-token time.
    pub(super) fn usual_token(&self) -> Option<Duration> {
        self.gaps.quantile(0.5).map(|gap| UNIT.mul_f64(gap))
    }

    /// Returns the last arrival, if the gap since then is a stall. While a prompt is read, up to
    /// `read_by`, gaps are normal.
    pub(super) fn stalled_since(&self, read_by: Option<Nanos>, now: Nanos) -> Option<Nanos> {
        let since = self.at;
        let flowed = self.tokens_at > Nanos::ZERO && since.since(self.tokens_at) <= FLOWS;
        let begins = read_by.map_or(since, |read| read.max(since));
        (flowed && self.is_stall(now.since(begins))).then_some(since)
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

    /// Returns the sequences that hang since the worker fell silent.
    pub(super) fn hung(&self) -> u32 {
        self.hung
    }

    /// Begins a silence, in which `sequences` hang.
    pub(super) fn hang(&mut self, sequences: u32) {
        self.hung = sequences;
    }

    /// Ends a silence.
    pub(super) fn hang_no_more(&mut self) {
        self.hung = 0;
    }

    /// Removes `sequences` that are no longer there from the hung ones, if they were `hung`.
    pub(super) fn remove_hung(&mut self, hung: bool, sequences: u32) {
        if hung {
            self.hung = self.hung.saturating_sub(sequences);
        }
    }
}
