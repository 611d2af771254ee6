//! Measurements of a worker's answers in one window.

use crate::clock::Nanos;
use crate::shed::quantile::Ratios;

/// Share of the answers that may be late.
const MAY_BE_LATE: f64 = 0.1;
/// Standard deviations beyond that which exclude chance: one window in ten has more by luck.
const CHANCE: f64 = 1.3;

/// A quantity that is measured and may be late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MeasureKind {
    FirstToken,
    Token,
    Whole,
}

/// Measured times, relative to the allowed time.
#[derive(Clone, Debug, Default)]
pub(super) struct MeasuredRatios {
    pub(super) ratios: Ratios,
    /// Tokens, and the sum of their ratios.
    tokens: u64,
    sum: f64,
}

impl MeasuredRatios {
    pub(super) fn add(&mut self, ratio: f64) {
        self.ratios.add(ratio);
    }

    fn add_tokens(&mut self, count: u64, ratio: f64) {
        self.ratios.add(ratio);
        self.tokens = self.tokens.saturating_add(count);
        self.sum += count as f64 * ratio;
    }

    /// Returns how late most are: the 90th percentile, or the mean for tokens. One prefill delays
    /// the tokens of all streams for a moment, which a percentile of few tokens takes for normal.
    pub(super) fn late(&self) -> f64 {
        self.mean().or_else(|| self.ratios.p90()).unwrap_or(0.0)
    }

    /// Returns the same beyond chance: where one in ten may be late, two of ten can be by luck.
    pub(super) fn surely_late(&self) -> f64 {
        let deviation = (MAY_BE_LATE * (1.0 - MAY_BE_LATE) / f64::from(self.ratios.len().max(1))).sqrt();
        let share = (1.0 - MAY_BE_LATE - CHANCE * deviation).max(0.5);
        self.mean().or_else(|| self.ratios.quantile(share)).unwrap_or(0.0)
    }

    fn mean(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.sum / self.tokens as f64)
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct MeasureWindow {
    pub(super) start: Nanos,
    /// First tokens, inter-token times, and non-streamed answers.
    measured: [MeasuredRatios; 3],
    /// Maximum of sequences in flight.
    pub(super) peak: u32,
    /// Longest queue that the worker reported.
    pub(super) waiting: u32,
    pub(super) failed: bool,
}

impl MeasureWindow {
    /// Starts an empty window at `start`.
    pub(super) fn from(start: Nanos) -> Self {
        Self { start, ..Self::default() }
    }

    pub(super) fn of(&self, measure: MeasureKind) -> &MeasuredRatios {
        &self.measured[measure as usize]
    }

    /// Adds an answer or its first token.
    pub(super) fn add(&mut self, measure: MeasureKind, ratio: f64) {
        self.measured[measure as usize].add(ratio);
    }

    pub(super) fn add_tokens(&mut self, count: u64, ratio: f64) {
        self.measured[MeasureKind::Token as usize].add_tokens(count, ratio);
    }

    /// Returns the number of answers, streamed or not.
    pub(super) fn answers(&self) -> u32 {
        self.of(MeasureKind::FirstToken).ratios.len() + self.of(MeasureKind::Whole).ratios.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_late_ones_of_ten_may_be_chance_and_three_are_not() {
        for (late, of, surely) in [(2, 10, false), (3, 10, true), (13, 100, false), (14, 100, true)] {
            let mut measured = MeasuredRatios::default();
            (0..of).for_each(|number| measured.add(if number < late { 2.0 } else { 0.5 }));
            assert_eq!(measured.surely_late() > 1.0, surely, "{late} of {of}");
            assert!(measured.late() > 1.0, "{late} of {of}");
        }
    }

    #[test]
    fn tokens_are_as_late_as_their_mean() {
        let mut measured = MeasuredRatios::default();
        // A stream is held up once while a prompt is read.
        measured.add_tokens(1, 4.0);
        (0..9).for_each(|_| measured.add_tokens(4, 0.4));
        assert!((measured.late() - 18.4 / 37.0).abs() < 1e-9);
        assert!((measured.late() - measured.surely_late()).abs() < f64::EPSILON);
    }
}
