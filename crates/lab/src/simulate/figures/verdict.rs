//! Judges a request by the SLOs.

use std::time::Duration;

use crate::simulate::driver::{Call, CallFate, Stage};
use crate::simulate::scenario::Scenario;

#[derive(Clone, Copy, Debug)]
pub(super) struct RequestVerdict {
    pub(super) good: bool,
    /// TTFT from arrival, of streamed answers only.
    pub(super) ttft: Option<Duration>,
}

impl RequestVerdict {
    pub(super) fn of(scenario: &Scenario, call: &Call) -> Self {
        let ttft = call.first.map(|first| first.since(call.arrived));
        let slo = scenario.promise.slo(call.wish.prompt);
        let answered = call.stage == Stage::Over(CallFate::Answered);
        let in_time = if call.wish.stream {
            ttft.is_some_and(|ttft| ttft <= slo)
        } else {
            // No client sees its first token: it must end when a stream within the SLOs would.
            let longest = call.wish.outputs.iter().max().copied().unwrap_or(1);
            call.ended.since(call.arrived) <= slo + scenario.promise.itl_slo.0 * longest
        };
        Self { good: answered && in_time, ttft: ttft.filter(|_| call.wish.stream) }
    }
}
