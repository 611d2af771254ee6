//! The limit algorithm without measurements: uses the configured or reported limit.

use super::{LimitAlgorithm, WorkerHints, WorkerSample};
use crate::clock::Nanos;
use crate::shed::settings::{GateSettings, LimitSource};

/// Limit of a worker without known `slots`, if limits are taken from slots.
const UNTOLD: u32 = 32;

/// A constant limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed(u32);

impl Fixed {
    /// Creates the limit of a worker with `slots`, divided among the gateways; at least 1.
    #[must_use]
    pub fn new(settings: &GateSettings, slots: Option<u32>) -> Self {
        let limit = match settings.limit {
            LimitSource::Fixed(limit) => limit,
            LimitSource::Slots | LimitSource::Adaptive => slots.unwrap_or(UNTOLD),
        };
        Self((limit / settings.gateways.max(1)).max(1))
    }
}

impl LimitAlgorithm for Fixed {
    fn limit(&self) -> u32 {
        self.0
    }

    fn observe(&mut self, _sample: WorkerSample, _now: Nanos) {}

    fn reconfigure(&mut self, hints: &WorkerHints) {
        self.0 = hints.slots.unwrap_or(self.0);
    }
}
