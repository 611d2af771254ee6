//! Concurrency limits and the queue.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PrefixChoice;
use crate::config::syntax::{Size, Text, quarter};
use crate::shed::settings::LimitAlgorithmKind;

/// Concurrency limits of the workers, and the queue in front of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Concurrency {
    /// Maximum number of requests running on one worker: found by `law` (at most its `slots`, if
    /// configured or reported), each worker's own `slots`, or one number for every worker.
    pub limit: ConcurrencyLimit,
    /// Limit algorithm of an adaptive limit. `stream` is the one to use; the others are known from
    /// other systems and serve for comparison.
    pub law: LimitAlgorithmKind,
    /// TTFT SLO: time from the last byte of a request to the first token of its answer.
    pub ttft_slo: Text<Duration>,
    /// Increase of `ttft_slo` per 1000 prompt tokens.
    pub per_1k_prompt_tokens: Text<Duration>,
    /// SLO of the inter-token latency: time from one token to the next.
    pub itl_slo: Text<Duration>,
    /// Capacity of several workers together, relative to the sum of their capacities alone. The
    /// ceiling of a pool is base · max(1, factor · workers), where base is the configured or
    /// reported `slots`, or the number in `limit`.
    #[schemars(range(min = 0.01, max = 1))]
    pub fleet_factor: f64,
    /// Queue of each pool.
    pub queue: Queue,
    /// Shares of the limit reserved for a class and those above it.
    pub reserve: Reserve,
    /// How to treat requests for which there is no capacity.
    pub overflow: Overflow,
    /// Whether a prompt goes to the worker that has most of it in its prefix cache, as far as that
    /// brings its first token earlier.
    pub prefix: PrefixChoice,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            limit: ConcurrencyLimit::LimitFinder(LimitFinder::Adaptive),
            law: LimitAlgorithmKind::Stream,
            ttft_slo: Text(Duration::from_secs(1)),
            per_1k_prompt_tokens: Text(Duration::from_millis(0)),
            itl_slo: Text(Duration::from_millis(100)),
            fleet_factor: 0.83,
            queue: Queue::default(),
            reserve: Reserve::default(),
            overflow: Overflow::default(),
            prefix: PrefixChoice::default(),
        }
    }
}

impl Concurrency {
    pub(super) fn complete(&mut self) {
        let quarter = Text(quarter(self.ttft_slo.0));
        self.queue.wait.get_or_insert(quarter.clone());
        self.queue.sticky_wait.get_or_insert(quarter);
    }
}

/// Source of a worker's limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum ConcurrencyLimit {
    /// One limit per worker.
    LimitFinder(LimitFinder),
    /// The same number for every worker.
    Number(#[schemars(range(min = 1, max = 1_000_000))] u32),
}

/// How the limit of each worker is found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LimitFinder {
    /// by `law`, and at most `slots`, if configured or reported
    Adaptive,
    /// each worker's own `slots`; a number applies to every worker
    Slots,
}

/// Queue of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Queue {
    /// Maximum number of waiting requests; 0 refuses at once.
    #[schemars(range(max = 1_000_000))]
    pub length: u64,
    /// Maximum wait for a worker; `0s` refuses at once.
    #[schemars(extend("x-default" = "a quarter of `ttft_slo`"))]
    pub wait: Option<Text<Duration>>,
    /// Maximum total size of the waiting request bodies.
    pub bytes: Size,
    /// Time after which a class with requests but no admission goes first once, so that higher
    /// classes cannot starve it; `0s` disables this.
    pub promote: Text<Duration>,
    /// Maximum wait if the pool has no worker at all (scale from zero); `0s` refuses at once.
    pub wait_no_worker: Text<Duration>,
    /// With `workers.mode: queue` and no active colour set: time without a ready worker of the
    /// active side after which the newest side that has some takes over.
    pub version_wait: Text<Duration>,
    /// With `workers.mode: queue`: time that the next request of a session waits for the worker that
    /// answered the one before; then any worker may take it.
    #[schemars(extend("x-default" = "a quarter of `ttft_slo`"))]
    pub sticky_wait: Option<Text<Duration>>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            length: 256,
            wait: None,
            bytes: Size::mib(64),
            promote: Text(Duration::from_secs(10)),
            wait_no_worker: Text(Duration::from_millis(0)),
            version_wait: Text(Duration::from_secs(10)),
            sticky_wait: None,
        }
    }
}

/// How to treat requests for which there is no capacity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Overflow {
    /// they are refused
    #[default]
    Refuse,
    /// those with `Prefer: respond-async` and an API key are queued in Redis and answered later;
    /// for `workers.mode: http`
    Jobs,
}

/// Shares of the limit that are reserved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Reserve {
    /// Share reserved for `critical`, from 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub critical: f64,
    /// Additional share reserved for `interactive` and `critical`, from 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub interactive: f64,
}
