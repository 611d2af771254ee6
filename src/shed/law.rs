//! Where a worker's limit comes from.
//!
//! A law answers one question, how many sequences the worker may decode at once, and is told everything that could
//! change its mind. [`Fixed`] is told too and does not listen: it believes the operator.

use std::fmt;
use std::time::Duration;

use crate::clock::Nanos;

use super::settings::{GateSettings, LimitSource};

/// What happened at one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// A request was sent; `in_flight` counts it.
    Dispatch {
        /// Sequences in flight at this worker.
        in_flight: u32,
    },
    /// The first content arrived.
    FirstToken {
        /// Since the dispatch: the gateway's own queueing is not in it.
        ttft: Duration,
        /// Prompt tokens of the request.
        prompt_tokens: u64,
    },
    /// More tokens of one stream arrived.
    Tokens {
        /// How many.
        count: u64,
        /// In how much time; the inter-token latency is `span / count`.
        span: Duration,
    },
    /// The answer was handed over completely.
    End,
    /// The client went away before the end.
    ClientGone,
    /// The worker failed the request.
    WorkerFailed,
}

/// A rule that finds the limit of one worker.
pub trait Law: fmt::Debug + Send {
    /// Sequences that may be in flight now; at least 1.
    fn limit(&self) -> u32;

    /// Takes note of what happened at `now`.
    fn observe(&mut self, sample: Sample, now: Nanos);
}

/// The limit of a worker that told no `slots` while limits are taken from slots.
const UNTOLD: u32 = 32;

/// The law that does as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed(u32);

impl Fixed {
    /// The limit that `settings` give a worker with `slots`, shared with the other gateways; at least 1.
    #[must_use]
    pub fn new(settings: &GateSettings, slots: Option<u32>) -> Self {
        let told = match settings.limit {
            LimitSource::Slots => slots.unwrap_or(UNTOLD),
            LimitSource::Fixed(limit) => limit,
        };
        Self((told / settings.dams.max(1)).max(1))
    }
}

impl Law for Fixed {
    fn limit(&self) -> u32 {
        self.0
    }

    fn observe(&mut self, _sample: Sample, _now: Nanos) {}
}
