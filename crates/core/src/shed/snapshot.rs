//! The state of a gate at one moment, for people and metrics.

use std::sync::Arc;
use std::time::Duration;

use super::prefix::PrefixFigures;
use super::provider::ProviderLevel;
use super::worker_ejection::WorkerTrouble;

/// One worker in a [`GateSnapshot`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerSnapshot {
    /// The worker's id.
    pub id: Arc<str>,
    /// I: sequences in flight.
    pub in_flight: u32,
    /// L: sequences that may be in flight now.
    pub limit: u32,
    /// P: prompt tokens of requests without a first token.
    pub prefill_tokens: u64,
    /// E: pairs of a size in prompt tokens, and the learned TTFT of prompts up to it at the idle
    /// worker; only sizes that occurred.
    pub idle_ttft: Vec<(u64, Duration)>,
    /// K: prompt and output tokens of all requests in flight.
    pub tokens: u64,
    /// KV cache size in tokens; `None` if unknown.
    pub kv_tokens: Option<u64>,
    /// Output tokens streamed in total.
    pub streamed: u64,
    /// `true` if settings let it take work: `false` on the inactive colour and after removal.
    pub eligible: bool,
    /// `true` if requests may be sent to it: `false` during a cool-down, ejection or pause.
    pub reachable: bool,
    /// Its trouble; `None` once it has answered well.
    pub trouble: Option<WorkerTrouble>,
    /// Factor on its limit, 0 to 1.
    pub weight: f64,
    /// Time since it last answered a request.
    pub answered: Option<Duration>,
    /// `true` if it was removed and only finishes its requests.
    pub leaving: bool,
    /// Level of its provider's quota, if it is external.
    pub provider: Option<ProviderLevel>,
}

/// A gate at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GateSnapshot {
    /// Every worker in the order of their configuration, those that are leaving included.
    pub workers: Vec<WorkerSnapshot>,
    /// Sequences that all workers together may have; `None` if a size is unknown.
    pub ceiling: Option<f64>,
    /// Requests waiting, by `Class as usize`.
    pub queue: [usize; 3],
    /// Bytes of request bodies waiting.
    pub queue_bytes: u64,
    /// Cached shares of prompts.
    pub cached: PrefixFigures,
}

impl GateSnapshot {
    /// Returns the sequences in flight at all workers.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.workers.iter().map(|worker| u64::from(worker.in_flight)).sum()
    }
}
