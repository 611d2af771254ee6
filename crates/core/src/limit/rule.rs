//! One configured limit, as data.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::saturating_nanos;
use crate::refusal::Unit;
use crate::request::Class;

/// Limit algorithm of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// a sustained `rate` and a `burst`
    TokenBucket,
    /// at most `limit` in any `window`, by a weighted count of two windows
    SlidingWindow,
    /// the same, but exact, because each request is remembered: for limits up to 10000
    SlidingLog,
}

impl Algorithm {
    /// Returns the most units that it ever admits at once under `quota`.
    #[must_use]
    pub fn capacity(self, quota: &Quota) -> u64 {
        match self {
            Self::TokenBucket => quota.burst.max(1),
            Self::SlidingWindow | Self::SlidingLog => quota.limit.max(1),
        }
    }
}

/// One part of a rule's key. A rule counts separately for every combination of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// each caller
    Caller,
    /// each client address, IPv6 by /64
    Ip,
    /// each model
    Model,
    /// each route
    Route,
    /// each team of callers; the rule ignores callers without a team
    Team,
    /// one count for all requests that the rule matches
    All,
}

impl Per {
    /// Returns the name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Ip => "ip",
            Self::Model => "model",
            Self::Route => "route",
            Self::Team => "team",
            Self::All => "all",
        }
    }
}

/// Limit, period and burst of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quota {
    /// Units per `period`: a bucket's refill, or a window's limit. At least 1.
    pub limit: u64,
    /// The period of the rate, or the length of the window. At least 1 ms.
    pub period: Duration,
    /// Units in a full bucket; equal to `limit` for windows. At least 1.
    pub burst: u64,
}

/// Whether a rule is enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// it refuses requests over the limit
    #[default]
    Enforce,
    /// it only counts the requests that it would have refused
    Observe,
}

/// How a rule that is counted in Redis acts while Redis does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnLoss {
    /// each gateway counts its share of the quota separately
    #[default]
    Share,
    /// it admits everything
    Open,
    /// it refuses everything with 503
    Closed,
}

/// Requests that a rule applies to. `None` matches all; `*` stands for any run of characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// A pattern for the path.
    pub path: Option<Arc<str>>,
    /// A pattern for the model. A request that names none matches if a matching model may serve it.
    pub model: Option<Arc<str>>,
    /// A pattern for the caller's id, with or without its namespace.
    pub caller: Option<Arc<str>>,
    /// The class.
    pub class: Option<Class>,
}

/// One configured limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique among the rules; a metric label and a header value: `[A-Za-z0-9_-]{1,64}`.
    pub name: Arc<str>,
    /// Limit algorithm.
    pub algorithm: Algorithm,
    /// Parts of the key; never empty, `All` only alone.
    pub per: Vec<Per>,
    /// Unit that it counts.
    pub unit: Unit,
    /// Limit, period and burst.
    pub quota: Quota,
    /// Enforce or observe.
    pub mode: Mode,
    /// Requests that it applies to.
    pub matches: Match,
    /// For rules in tokens: reserve the client's own `max_tokens` instead of the expected output.
    pub reserve_max: bool,
    /// Behaviour while Redis is unreachable; unused for rules that are counted in memory.
    pub on_loss: OnLoss,
    /// The most keys this rule remembers.
    pub max_keys: usize,
}

impl Rule {
    /// Returns `true` if the rule cannot decide without the request's body.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        self.unit == Unit::Tokens || self.per.contains(&Per::Model) || self.matches.model.is_some()
    }

    /// Returns the most units that it ever admits at once.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.algorithm.capacity(&self.quota)
    }

    /// Returns the time to refill the [capacity](Self::capacity): a bucket's fill time from empty.
    #[must_use]
    pub fn window(&self) -> Duration {
        match self.algorithm {
            Algorithm::TokenBucket => {
                let nanos = u128::from(saturating_nanos(self.quota.period)) * u128::from(self.capacity())
                    / u128::from(self.quota.limit.max(1));
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
            Algorithm::SlidingWindow | Algorithm::SlidingLog => self.quota.period,
        }
    }

    /// Returns the same rule with another quota.
    #[must_use]
    pub(crate) fn with_quota(&self, quota: Quota) -> Self {
        Self { quota, ..self.clone() }
    }
}
