//! The workers of this part: their speed and their load.

use std::time::Duration;

use crate::arrivals::{Output, Source};
use crate::plan::WorkerSize;

/// Callers that share the load.
const CROWD: u32 = 20;

/// A worker and its load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) title: &'static str,
    pub(super) size: WorkerSize,
    /// Tokens of each answer.
    pub(super) tokens: u32,
    /// Requests per second called 1×: the slots divided by the time an answer occupies one.
    pub(super) capacity: f64,
}

impl Shape {
    /// Returns callers that together offer `rate` requests per second.
    pub(super) fn retry_spread(&self, rate: f64, until: Duration) -> Vec<Source> {
        let output = Output::Asked { median: f64::from(self.tokens), sigma: 0.0 };
        let retry_spread = Source::retry_spread(CROWD, rate, until);
        retry_spread.into_iter().map(|source| Source { output, ..source }).collect()
    }
}

const fn size(slots: u32, pace: &'static [(&'static str, &'static str)]) -> WorkerSize {
    WorkerSize { slots, kv_tokens: 4096 * slots, mean_output: 100, pace }
}

/// 64 slots, 100 ms to the first token, 100 tokens of 15 ms: an answer occupies its slot for 1.6 s.
pub(super) const STEADY: Shape = Shape {
    title: "64 slots",
    size: size(
        64,
        &[
            ("--first-token", "100ms"),
            ("--prefill-base", "0ms"),
            ("--token-time", "15ms"),
            ("--token-time-per-seq", "0us"),
        ],
    ),
    tokens: 100,
    capacity: 40.0,
};

/// Many slots and short answers: at 800 requests/s (1×), about 170 are in flight.
pub(super) const ROOMY: Shape =
    Shape { title: "4096 slots", size: size(4096, STEADY.size.pace), tokens: 8, capacity: 800.0 };

/// First tokens with jitter.
pub(super) const JITTER: Shape = Shape {
    title: "jitter, sigma 0.5",
    size: size(
        64,
        &[
            ("--first-token", "100ms"),
            ("--first-token-sigma", "0.5"),
            ("--prefill-base", "0ms"),
            ("--token-time", "15ms"),
            ("--token-time-per-seq", "0us"),
        ],
    ),
    ..STEADY
};

/// 1 % of first tokens take ten times as long.
pub(super) const SPIKES: Shape = Shape {
    title: "spikes, 1 % × 10",
    size: size(
        64,
        &[
            ("--first-token", "100ms"),
            ("--spike-share", "0.01"),
            ("--spike-factor", "10"),
            ("--prefill-base", "0ms"),
            ("--token-time", "15ms"),
            ("--token-time-per-seq", "0us"),
        ],
    ),
    ..STEADY
};

/// New prompts take 400 ms and cached ones 20 ms. At first all are cached, later half of them.
const CACHED: &[(&str, &str)] = &[
    ("--first-token", "400ms"),
    ("--cached-first-token", "20ms"),
    ("--cached-share", "1"),
    ("--prefill-base", "0ms"),
    ("--token-time", "20ms"),
    ("--token-time-per-seq", "0us"),
];
/// Makes half of the prompts new.
pub(super) const HALF_CACHED: &str = r#"{"cached_share": 0.5}"#;
pub(super) const CACHED_8: Shape =
    Shape { title: "cached and new prompts, batch 8", size: size(8, CACHED), tokens: 40, capacity: 8.0 };
pub(super) const CACHED_64: Shape =
    Shape { title: "cached and new prompts, batch 64", size: size(64, CACHED), tokens: 40, capacity: 64.0 };

/// First tokens spread as those of a vLLM with eight sequences and an empty queue.
pub(super) const SPREAD: Shape = Shape {
    title: "first tokens spread as a vLLM's, batch 8",
    size: size(
        8,
        &[
            ("--first-token", "127ms"),
            ("--first-token-sigma", "0.71"),
            ("--first-token-least", "42ms"),
            ("--first-token-most", "600ms"),
            ("--prefill-base", "0ms"),
            ("--token-time", "20ms"),
            ("--token-time-per-seq", "0us"),
        ],
    ),
    tokens: 40,
    capacity: 8.4,
};
