//! Requests that are stored in Redis.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::syntax::{Size, Text};

/// Jobs: requests that are stored in Redis, with `workers.mode: queue` or `concurrency.overflow:
/// jobs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct JobsSection {
    /// Number of runs of a job before it becomes a dead letter.
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
    /// Maximum number of asynchronous jobs of a pool that wait for their turn. They may also hold at
    /// most 256 MiB, and those of one caller 32 MiB.
    #[schemars(range(min = 1, max = 100_000))]
    pub waiting: u32,
    /// Maximum number of waiting jobs of one caller and pool.
    #[schemars(range(min = 1, max = 100_000))]
    pub per_caller: u32,
    /// Maximum time of an asynchronous job, from its acceptance to the end of its answer.
    pub ttl: Text<Duration>,
    /// Time for which asynchronous jobs, requests with an `Idempotency-Key` and dead letters are
    /// kept after their end.
    pub keep: Text<Duration>,
    /// Time for which an answer is kept after its last byte.
    pub answers: Text<Duration>,
    /// Whether a client may delay a job.
    pub not_before: NotBefore,
    /// Size of the answers over HTTP that all gateways together store within `keep` for repeats of
    /// their requests, if they use Redis. `0` leaves `Idempotency-Key` to the workers. With `workers.mode:
    /// queue` it does not apply.
    pub idempotency: Size,
}

impl Default for JobsSection {
    fn default() -> Self {
        let seconds = |seconds| Text(Duration::from_secs(seconds));
        Self {
            attempts: 3,
            waiting: 4096,
            per_caller: 256,
            ttl: seconds(3600),
            keep: seconds(24 * 3600),
            answers: seconds(600),
            not_before: NotBefore::default(),
            idempotency: Size::mib(64),
        }
    }
}

/// Whether a client may delay a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NotBefore {
    /// the header `x-traffic-dam-not-before` names the time, as in RFC 3339
    #[default]
    Header,
    /// the header is ignored
    Ignore,
}
