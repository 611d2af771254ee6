//! Gradient2 of Netflix's `concurrency-limits`, with its constants and `WindowedLimit` windows.

use std::time::Duration;

use super::{LimitAlgorithm, WorkerHints, WorkerSample};
use crate::clock::Nanos;

const START: f64 = 20.0;
const LEAST: f64 = 20.0;
const MOST: f64 = 200.0;
const QUEUE: f64 = 4.0;
const SMOOTHING: f64 = 0.2;
const TOLERANCE: f64 = 1.5;
/// Windows in the long mean, and first windows for which the plain mean is used.
const LONG: f64 = 600.0;
const WARM_UP: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);
const SAMPLES: u32 = 10;

/// Follows the ratio of the long to the short mean of the time that answers take.
#[derive(Clone, Copy, Debug)]
pub struct Gradient2 {
    limit: f64,
    long: f64,
    windows: u32,
    start: Nanos,
    sum: f64,
    samples: u32,
    in_flight: u32,
}

impl Default for Gradient2 {
    fn default() -> Self {
        Self { limit: START, long: 0.0, windows: 0, start: Nanos::ZERO, sum: 0.0, samples: 0, in_flight: 0 }
    }
}

impl Gradient2 {
    fn update(&mut self, short: f64) {
        self.windows = self.windows.saturating_add(1);
        let weight = if self.windows <= WARM_UP { 1.0 / f64::from(self.windows) } else { 2.0 / (LONG + 1.0) };
        self.long += weight * (short - self.long);
        if self.long / short > 2.0 {
            self.long *= 0.95;
        }
        if f64::from(self.in_flight) < self.limit / 2.0 {
            return;
        }
        let gradient = (TOLERANCE * self.long / short).clamp(0.5, 1.0);
        let target = self.limit * gradient + QUEUE;
        self.limit = (self.limit * (1.0 - SMOOTHING) + target * SMOOTHING).clamp(LEAST, MOST);
    }
}

impl LimitAlgorithm for Gradient2 {
    fn limit(&self) -> u32 {
        self.limit as u32
    }

    fn observe(&mut self, sample: WorkerSample, now: Nanos) {
        let WorkerSample::End { elapsed, in_flight } = sample else { return };
        self.sum += elapsed.as_secs_f64();
        self.samples = self.samples.saturating_add(1);
        self.in_flight = self.in_flight.max(in_flight);
        if now.since(self.start) < WINDOW || self.samples < SAMPLES {
            return;
        }
        let short = (self.sum / f64::from(self.samples)).max(1e-6);
        self.update(short);
        (self.start, self.sum, self.samples, self.in_flight) = (now, 0.0, 0, 0);
    }

    fn reconfigure(&mut self, _told: &WorkerHints) {}
}
