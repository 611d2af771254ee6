//! What a worker's answers were like for a while.

use crate::clock::Nanos;
use crate::shed::quantile::Ratios;

/// What is measured of a worker, and may be late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    FirstToken,
    Token,
    Whole,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    pub(super) start: Nanos,
    /// Time to the first token, time from token to token, and time of what was not streamed; each relative to what it
    /// may take.
    measured: [Ratios; 3],
    /// The most sequences in flight.
    pub(super) peak: u32,
    /// The longest queue that the worker reported.
    pub(super) waiting: u32,
    /// The worker failed a request.
    pub(super) failed: bool,
}

impl Window {
    /// Begins at `start`, with nothing in it.
    pub(super) fn from(start: Nanos) -> Self {
        Self { start, ..Self::default() }
    }

    /// What came of that measure.
    pub(super) fn of(&self, measure: Measure) -> &Ratios {
        &self.measured[measure as usize]
    }

    /// Something came.
    pub(super) fn add(&mut self, measure: Measure, ratio: f64) {
        self.measured[measure as usize].add(ratio);
    }

    /// Answers, streamed or not.
    pub(super) fn answers(&self) -> u32 {
        self.of(Measure::FirstToken).len() + self.of(Measure::Whole).len()
    }
}
