//! A momentary picture of a gate, for people and metrics.

use std::sync::Arc;
use std::time::Duration;

use super::aside::WorkerTrouble;

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
    /// K: prompt and output tokens of all requests in flight.
    pub tokens: u64,
    /// Tokens its KV cache holds, when told.
    pub kv_tokens: Option<u64>,
    /// Tokens that it has streamed in all.
    pub streamed: u64,
    /// Whether the settings let it take work: false on the colour that is not active, and when it was removed.
    pub eligible: bool,
    /// Whether it may be sent anything: false while it cools down or is put aside.
    pub reachable: bool,
    /// What is wrong with it, until it has answered well.
    pub trouble: Option<WorkerTrouble>,
    /// How much of it counts, as the gate was told.
    pub weight: f64,
    /// How long ago it last answered a request.
    pub answered: Option<Duration>,
    /// Whether it was removed and only finishes what it has.
    pub leaving: bool,
}

/// A gate at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GateSnapshot {
    /// Every worker, those that are leaving too, in the order of their configuration.
    pub workers: Vec<WorkerSnapshot>,
    /// Sequences that all workers together may have, where their size was told.
    pub ceiling: Option<f64>,
    /// Requests waiting, by `Class as usize`.
    pub queue: [usize; 3],
    /// Bytes of request bodies waiting.
    pub queue_bytes: u64,
}

impl GateSnapshot {
    /// Sequences in flight at all workers.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.workers.iter().map(|worker| u64::from(worker.in_flight)).sum()
    }
}
