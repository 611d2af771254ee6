//! Heartbeats: what a worker reports about itself.
//!
//! A heartbeat is JSON text from anyone who may publish on a Redis channel. So its size and depth
//! are bounded, every value is checked before it becomes a metric label or an address, and errors
//! name the field. Unknown fields are ignored and the previous version is read, so that gateways
//! and workers can be upgraded in any order. `docs/fleet.md` specifies the format.

mod read;
mod signature;
#[cfg(test)]
mod tests;

pub use read::HeartbeatError;
pub(super) use read::name;
pub(crate) use signature::without_signature;
pub use signature::{SignatureError, SigningKey, TooManyKeys, sign_if_keyed, signing_keys, verify_if_keyed};

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use serde::{Deserialize, Serialize};

/// Version that is written. It and the previous one are read.
pub(crate) const VERSION: u64 = 1;

/// Largest heartbeat in bytes, including its signature: many times what a worker reports.
pub const LARGEST: usize = 16 * 1024;

/// Most slots and most tokens of a KV cache that a worker can have, whoever tells them. Larger numbers
/// are mistakes, and could overflow sums.
pub const MAX_SLOTS: u32 = 1_000_000;
/// See [`MAX_SLOTS`].
pub const MAX_KV_TOKENS: u64 = 1_000_000_000_000;
/// Longest version of a worker, in bytes.
pub const MAX_VERSION_LENGTH: usize = 64;

/// Shortest and longest time between two heartbeats.
pub const INTERVAL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// State of a worker, as it reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DesiredState {
    /// It takes work.
    Ready,
    /// It finishes its requests and takes no new ones.
    Draining,
    /// It could serve, and waits for a switch to its colour.
    Standby,
    /// It cannot serve.
    Failed,
}

impl DesiredState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Ready, Self::Draining, Self::Standby, Self::Failed];

    /// Returns the name in a heartbeat.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Standby => "standby",
            Self::Failed => "failed",
        }
    }
}

/// Result of one check of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// Healthy.
    Green,
    /// Doubtful.
    Yellow,
    /// Not fit for work.
    Red,
}

/// One check of a worker by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Name of the check.
    pub name: Arc<str>,
    /// Result.
    pub status: CheckStatus,
    /// Details, for people.
    pub message: Arc<str>,
}

/// One heartbeat. `None` fields were not reported.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// Id of the worker: `[A-Za-z0-9._-]{1,64}`.
    pub worker: Arc<str>,
    /// Id of the process that wrote it; another one after each restart.
    pub boot: Arc<str>,
    /// Increases with each heartbeat of this process.
    pub seq: u64,
    /// The worker's wall time in milliseconds since 1970, for people.
    pub at_ms: Option<u64>,
    /// Time until the next one; within [`INTERVAL`].
    pub interval: Duration,
    /// URL of the worker.
    pub url: Option<Uri>,
    /// The pool it belongs to.
    pub pool: Option<Arc<str>>,
    /// The model it serves, or a pattern.
    pub model: Option<Arc<str>>,
    /// Its blue/green colour.
    pub colour: Option<Arc<str>>,
    /// Software version, for people.
    pub version: Option<Arc<str>>,
    /// State of the worker.
    pub state: DesiredState,
    /// Requests it decodes at once.
    pub slots: Option<u32>,
    /// Requests it decodes now.
    pub running: Option<u32>,
    /// Requests it has queued.
    pub waiting: Option<u32>,
    /// Share of its KV cache in use, 0…1.
    pub kv_used: Option<f64>,
    /// Tokens its KV cache holds.
    pub kv_tokens: Option<u64>,
    /// 90th percentile of its time to first token.
    pub ttft_p90: Option<Duration>,
    /// 90th percentile of its time between tokens.
    pub itl_p90: Option<Duration>,
    /// Its own checks.
    pub checks: Vec<HealthCheck>,
}

impl Heartbeat {
    /// Formats the heartbeat as text, without a signature.
    #[must_use]
    pub fn write(&self) -> String {
        let mut text = serde_json::Map::new();
        let mut put = |name: &str, value: Option<serde_json::Value>| {
            if let Some(value) = value {
                text.insert(name.to_owned(), value);
            }
        };
        let millis = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let word = |word: &Option<Arc<str>>| word.as_deref().map(Into::into);
        put("v", Some(VERSION.into()));
        put("worker", Some((*self.worker).into()));
        put("boot", Some((*self.boot).into()));
        put("seq", Some(self.seq.into()));
        put("at_ms", self.at_ms.map(Into::into));
        put("interval_ms", Some(millis(self.interval).into()));
        put("url", self.url.as_ref().map(|url| url.to_string().trim_end_matches('/').into()));
        put("pool", word(&self.pool));
        put("model", word(&self.model));
        put("colour", word(&self.colour));
        put("version", word(&self.version));
        put("state", Some(self.state.as_str().into()));
        put("slots", self.slots.map(Into::into));
        put("running", self.running.map(Into::into));
        put("waiting", self.waiting.map(Into::into));
        put("kv_used", self.kv_used.map(Into::into));
        put("kv_tokens", self.kv_tokens.map(Into::into));
        put("ttft_p90_ms", self.ttft_p90.map(|length| millis(length).into()));
        put("itl_p90_ms", self.itl_p90.map(|length| millis(length).into()));
        let checks =
            (!self.checks.is_empty()).then(|| serde_json::to_value(&self.checks).unwrap_or_default());
        put("checks", checks);
        serde_json::Value::Object(text).to_string()
    }
}
