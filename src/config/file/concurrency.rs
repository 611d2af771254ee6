//! How much runs at once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::syntax::{Millis, Size, Text};

/// How much runs on the workers at once, and how long the rest may wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Concurrency {
    /// How many requests run on one worker at once: found by `law` (at most its `slots`, when told), each worker's own
    /// `slots`, or a number, the same for each.
    pub limit: ConcurrencyLimit,
    /// The law of an adaptive limit. `stream` is the one to use; the others are known from elsewhere and here to be
    /// compared with.
    pub law: Law,
    /// The promise: the time from the last byte of a request to the first token of its answer.
    pub ttft_slo: Text<Millis>,
    /// What the promise grows by for every 1000 tokens of prompt.
    pub per_1k_prompt_tokens: Text<Millis>,
    /// The promise for what follows: the time from one token to the next.
    pub itl_slo: Text<Millis>,
    /// What several workers carry together, relative to the sum of what each carries alone: the ceiling of a pool is
    /// base · max(1, factor · workers), where the base is the told `slots` or the number that `limit` is.
    #[schemars(range(min = 0.01, max = 1))]
    pub fleet_factor: f64,
    /// The queue of each pool.
    pub queue: Queue,
    /// The share of the limit that is kept for a class and those above it.
    pub reserve: Reserve,
    /// What becomes of requests for which there is no room.
    pub overflow: Overflow,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            limit: ConcurrencyLimit::Found(Found::Adaptive),
            law: Law::Stream,
            ttft_slo: Text(Millis::from_secs(1)),
            per_1k_prompt_tokens: Text(Millis::new(0)),
            itl_slo: Text(Millis::new(100)),
            fleet_factor: 0.83,
            queue: Queue::default(),
            reserve: Reserve::default(),
            overflow: Overflow::default(),
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
    /// Not one number for all.
    Found(Found),
    /// The same number for each worker.
    Number(#[schemars(range(min = 1, max = 1_000_000))] u32),
}

/// How a limit is found for each worker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// by `law`; `slots`, when told, bound it
    Adaptive,
    /// each worker's own `slots`; a number is the same for each worker
    Slots,
}

/// How an adaptive limit follows the worker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Law {
    /// watches the time to the first token and the time between tokens
    Stream,
    /// additive increase, multiplicative decrease on the time of whole answers
    Aimd,
    /// Netflix's Gradient2 on the time of whole answers
    Gradient2,
    /// Vegas on the time of whole answers
    Vegas,
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
    /// A class that asks and of which nobody was admitted for so long goes first once, so that higher classes do not
    /// shut it out for ever; `0s` never.
    pub promote: Text<Millis>,
    /// The longest wait when the pool has no worker at all (scale from zero); `0s` refuses at once.
    pub wait_no_worker: Text<Millis>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            length: 256,
            wait: None,
            bytes: Size::mib(64),
            promote: Text(Millis::from_secs(10)),
            wait_no_worker: Text(Millis::new(0)),
        }
    }
}

/// What becomes of requests for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// they are refused
    #[default]
    Refuse,
    /// those with `Prefer: respond-async` and an API key wait in Redis, and are answered later; for `workers.mode: http`
    Jobs,
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
