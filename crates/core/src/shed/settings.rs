//! What an operator configures about concurrency and waiting.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::canary_counts::CanaryShare;

/// Where a worker's limit comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitSource {
    /// Found by a limit algorithm from the worker's behaviour, up to its `slots` if known.
    #[default]
    Adaptive,
    /// The `slots` of each worker.
    Slots,
    /// The same number for each worker.
    Fixed(u32),
}

/// Limit algorithm of an adaptive limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LimitAlgorithmKind {
    /// based on the time to the first token and the time between tokens
    #[default]
    Stream,
    /// additive increase, multiplicative decrease, based on the duration of whole answers
    Aimd,
    /// Netflix's Gradient2, based on the duration of whole answers
    Gradient2,
    /// Vegas, based on the duration of whole answers
    Vegas,
}

impl LimitAlgorithmKind {
    /// All algorithms, with their names in the settings.
    pub const ALL: [(&'static str, Self); 4] = [
        ("stream", Self::Stream),
        ("aimd", Self::Aimd),
        ("gradient2", Self::Gradient2),
        ("vegas", Self::Vegas),
    ];
}

impl std::str::FromStr for LimitAlgorithmKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|(name, _)| *name == text);
        known.map(|(_, kind)| kind).ok_or_else(|| {
            format!("unknown limit algorithm `{text}`; use `stream`, `aimd`, `gradient2` or `vegas`")
        })
    }
}

/// How to treat a worker that fails requests which other workers can serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EjectionMode {
    /// it gets no requests for a while
    #[default]
    On,
    /// it is shown as failing, but keeps its requests
    Observe,
    /// failures have no effect
    Off,
}

/// When a worker is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectionSettings {
    /// What happens to workers that fail.
    pub mode: EjectionMode,
    /// Failures in a row that eject a worker. At least 1.
    pub consecutive: u32,
    /// Percentage of failures in the interval above which a worker is ejected.
    pub failure_percentage: u32,
    /// Requests in the interval from which on the percentage counts.
    pub request_volume: u32,
    /// Interval over which requests are counted.
    pub interval: Duration,
    /// Length of the first ejection.
    pub base: Duration,
    /// Length of the longest ejection.
    pub max: Duration,
    /// Maximum share of a pool that is ejected at once, in percent of its workers.
    pub max_percent: u32,
}

impl Default for EjectionSettings {
    fn default() -> Self {
        Self {
            mode: EjectionMode::On,
            consecutive: 5,
            failure_percentage: 50,
            request_volume: 20,
            interval: Duration::from_secs(10),
            base: Duration::from_secs(5),
            max: Duration::from_secs(300),
            max_percent: 50,
        }
    }
}

/// The settings of one pool's gate.
#[derive(Clone, Debug, PartialEq)]
pub struct GateSettings {
    /// Where a worker's limit comes from.
    pub limit: LimitSource,
    /// The algorithm that finds it, if it is adaptive.
    pub law: LimitAlgorithmKind,
    /// Maximum number of waiting requests; 0 refuses at once.
    pub queue_length: usize,
    /// Maximum bytes of waiting request bodies.
    pub queue_bytes: u64,
    /// The longest wait for a permit; zero refuses at once.
    pub queue_wait: Duration,
    /// The longest wait while there is no worker at all (scale from zero).
    pub wait_no_worker: Duration,
    /// A class with requests but without an admission for this long goes first once; zero: never.
    pub promote: Duration,
    /// Share of the limit kept for each class and those above it, by `Class as usize`; each 0…1.
    pub reserve: [f64; 3],
    /// TTFT SLO of an empty prompt.
    pub ttft_slo: Duration,
    /// Growth of the TTFT SLO per 1000 prompt tokens.
    pub ttft_per_1k: Duration,
    /// ITL SLO: the time from one token to the next.
    pub itl_slo: Duration,
    /// Capacity of several workers relative to the sum of each alone; above 0, at most 1.
    pub fleet_factor: f64,
    /// Number of gateways that share the workers, by which known limits are divided. At least 1.
    pub gateways: u32,
    /// Ejection of workers that fail.
    pub ejection: EjectionSettings,
    /// The choice of workers by prefixes of prompts; `None` if it is off.
    pub prefix: Option<PrefixSettings>,
    /// The share of the requests that goes to workers on trial; `None` without any.
    pub canary: Option<CanaryShare>,
}

/// The choice of workers by the prefixes of prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixSettings {
    /// Tokens of prompts that each worker keeps; `None`: the size of its KV cache, if known.
    pub capacity: Option<u64>,
}

impl GateSettings {
    /// Returns the TTFT SLO for a prompt of `prompt` tokens.
    #[must_use]
    pub fn slo(&self, prompt: u64) -> Duration {
        let longer = self.ttft_per_1k.as_secs_f64() * prompt as f64 / 1000.0;
        self.ttft_slo.saturating_add(Duration::try_from_secs_f64(longer).unwrap_or(Duration::MAX))
    }
}

impl Default for GateSettings {
    fn default() -> Self {
        Self {
            limit: LimitSource::Adaptive,
            law: LimitAlgorithmKind::Stream,
            queue_length: 256,
            queue_bytes: 64 << 20,
            queue_wait: Duration::from_millis(250),
            wait_no_worker: Duration::ZERO,
            promote: Duration::from_secs(10),
            reserve: [0.0; 3],
            ttft_slo: Duration::from_secs(1),
            ttft_per_1k: Duration::ZERO,
            itl_slo: Duration::from_millis(100),
            fleet_factor: 0.83,
            gateways: 1,
            ejection: EjectionSettings::default(),
            prefix: None,
            canary: None,
        }
    }
}
