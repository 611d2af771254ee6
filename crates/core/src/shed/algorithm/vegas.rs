//! Vegas of Netflix's `concurrency-limits`, with its constants.

use super::{LimitAlgorithm, WorkerHints, WorkerSample};
use crate::clock::Nanos;

const START: f64 = 20.0;
const LEAST: f64 = 1.0;
const MOST: f64 = 1000.0;
/// The minimum is measured anew after 0.5 to 1 times this many samples per unit of the limit.
const PROBE: f64 = 30.0;

/// Estimates the queue from the ratio of the minimum to the current time that answers take.
#[derive(Clone, Debug)]
pub struct Vegas {
    limit: f64,
    least: f64,
    samples: f64,
    /// Share of [`PROBE`] at which the next probe comes.
    jitter: f64,
    random: fastrand::Rng,
}

impl Default for Vegas {
    fn default() -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let jitter = 0.5 + random.f64() / 2.0;
        Self { limit: START, least: f64::INFINITY, samples: 0.0, jitter, random }
    }
}

impl Vegas {
    fn update(&mut self, time: f64, in_flight: u32, dropped: bool) {
        self.samples += 1.0;
        if self.samples >= self.jitter * PROBE * self.limit {
            (self.samples, self.jitter) = (0.0, 0.5 + self.random.f64() / 2.0);
            self.least = time;
            return;
        }
        if time < self.least {
            self.least = time;
            return;
        }
        let step = self.limit.log10().floor().max(1.0);
        let queue = (self.limit * (1.0 - self.least / time)).ceil();
        let limit = if dropped {
            self.limit - step
        } else if f64::from(in_flight) * 2.0 < self.limit {
            return;
        } else if queue <= step {
            self.limit + 6.0 * step
        } else if queue < 3.0 * step {
            self.limit + step
        } else if queue > 6.0 * step {
            self.limit - step
        } else {
            return;
        };
        self.limit = limit.clamp(LEAST, MOST);
    }
}

impl LimitAlgorithm for Vegas {
    fn limit(&self) -> u32 {
        self.limit as u32
    }

    fn observe(&mut self, sample: WorkerSample, _now: Nanos) {
        match sample {
            WorkerSample::End { elapsed, in_flight } => {
                self.update(elapsed.as_secs_f64().max(1e-6), in_flight, false)
            }
            WorkerSample::WorkerFailed { in_flight } if self.least.is_finite() => {
                self.update(self.least, in_flight, true);
            }
            _ => {}
        }
    }

    fn reconfigure(&mut self, _told: &WorkerHints) {}
}
