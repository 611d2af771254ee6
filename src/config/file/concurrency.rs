//! How much runs at once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::syntax::{Millis, Size, Text};

/// How much runs on the workers at once, and how long the rest may wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Concurrency {
    /// How many requests run on one worker at once: each worker's own `slots`, or a number, the same for each.
    pub limit: ConcurrencyLimit,
    /// The promise: the time from the last byte of a request to the first token of its answer.
    pub ttft_slo: Text<Millis>,
    /// The queue of each pool.
    pub queue: Queue,
    /// The share of the limit that is kept for a class and those above it.
    pub reserve: Reserve,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            limit: ConcurrencyLimit::Slots(TheSlots::Slots),
            ttft_slo: Text(Millis::from_secs(1)),
            queue: Queue::default(),
            reserve: Reserve::default(),
        }
    }
}

impl Concurrency {
    pub(super) fn complete(&mut self) {
        self.queue.wait.get_or_insert(Text(self.ttft_slo.0.quarter()));
    }
}

/// Where a worker's limit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ConcurrencyLimit {
    /// What each worker says it has.
    Slots(TheSlots),
    /// The same number for each worker.
    Number(#[schemars(range(min = 1, max = 1_000_000))] u32),
}

/// What each worker says it has.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(extend("x-not-yet" = ["adaptive"]))]
pub enum TheSlots {
    /// each worker's own `slots`; a number is the same for each worker
    Slots,
}

/// The queue of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// The most requests that wait; 0 refuses at once.
    #[schemars(range(max = 1_000_000))]
    pub length: u64,
    /// The longest wait for a worker; `0s` refuses at once.
    #[schemars(extend("x-default" = "a quarter of `ttft_slo`"))]
    pub wait: Option<Text<Millis>>,
    /// The most bytes of request bodies that wait.
    pub bytes: Size,
    /// The longest wait when the pool has no worker at all (scale from zero); `0s` refuses at once.
    pub wait_no_worker: Text<Millis>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { length: 256, wait: None, bytes: Size::mib(64), wait_no_worker: Text(Millis::new(0)) }
    }
}

/// Shares of the limit that are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Reserve {
    /// The share that only `critical` may take, from 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub critical: f64,
    /// The further share that only `interactive` and `critical` may take, from 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub interactive: f64,
}
