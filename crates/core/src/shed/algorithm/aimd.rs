//! AIMD (`AIMDLimit`) of Netflix's `concurrency-limits`, with its constants.

use std::time::Duration;

use super::{LimitAlgorithm, WorkerHints, WorkerSample};
use crate::clock::Nanos;

const START: f64 = 20.0;
const LEAST: f64 = 20.0;
const MOST: f64 = 200.0;
const BACKOFF: f64 = 0.9;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Additive increase, multiplicative decrease: adds 1 after an answer within 5 s if half the limit
/// was used, takes a tenth off after a slower answer or a failure.
#[derive(Clone, Copy, Debug)]
pub struct Aimd {
    limit: f64,
}

impl Default for Aimd {
    fn default() -> Self {
        Self { limit: START }
    }
}

impl LimitAlgorithm for Aimd {
    fn limit(&self) -> u32 {
        self.limit as u32
    }

    fn observe(&mut self, sample: WorkerSample, _now: Nanos) {
        let limit = match sample {
            WorkerSample::End { elapsed, .. } if elapsed > TIMEOUT => self.limit * BACKOFF,
            WorkerSample::WorkerFailed { .. } => self.limit * BACKOFF,
            WorkerSample::End { in_flight, .. } if f64::from(in_flight) * 2.0 >= self.limit => {
                self.limit + 1.0
            }
            _ => self.limit,
        };
        self.limit = limit.floor().clamp(LEAST, MOST);
    }

    fn reconfigure(&mut self, _told: &WorkerHints) {}
}
