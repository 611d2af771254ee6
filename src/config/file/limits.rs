//! Rules.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClassName, OnLossName, OneOrMany};
use crate::config::syntax::{Glob, Rate, RuleName, Text};
use crate::limit::rule::{Algorithm, Mode, Per};
use crate::refusal::Unit;

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleSection {
    /// Name of the rule in messages, headers and metrics; unique.
    pub name: Text<RuleName>,
    /// Limit algorithm.
    pub algorithm: AlgorithmName,
    /// Keys with separate counts; of a list, each combination is counted separately.
    pub per: OneOrMany<PerName>,
    /// Counted unit.
    #[serde(default)]
    pub unit: UnitName,
    /// Sustained rate of a token bucket.
    #[schemars(extend("x-default" = "required by `token_bucket`"))]
    pub rate: Option<Text<Rate>>,
    /// Capacity of a token bucket.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-default" = "required by `token_bucket`"))]
    pub burst: Option<u64>,
    /// Maximum per window, for a sliding window.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-default" = "required by the windows"))]
    pub limit: Option<u64>,
    /// Length of a sliding window.
    #[schemars(extend("x-default" = "required by the windows"))]
    pub window: Option<Text<Duration>>,
    /// Whether the rule is enforced.
    #[serde(default)]
    pub mode: ModeName,
    /// Requests that the rule applies to. An omitted key matches all.
    #[serde(default, rename = "match")]
    pub matching: Matching,
    /// For rules in tokens: number of tokens reserved for the answer until its length is known.
    #[serde(default)]
    pub reserve: Reservation,
    /// With `state: redis`: how the rule acts while Redis does not answer.
    #[schemars(extend("x-default" = "`redis.on_loss`"))]
    pub on_loss: Option<OnLossName>,
}

/// Limit algorithm of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlgorithmName {
    /// a sustained `rate` and a `burst`
    TokenBucket,
    /// at most `limit` in any `window`, by a weighted count of two windows
    SlidingWindow,
    /// the same, but exact, because each request is remembered: for limits up to 10000
    SlidingLog,
}

impl From<AlgorithmName> for Algorithm {
    fn from(name: AlgorithmName) -> Self {
        match name {
            AlgorithmName::TokenBucket => Self::TokenBucket,
            AlgorithmName::SlidingWindow => Self::SlidingWindow,
            AlgorithmName::SlidingLog => Self::SlidingLog,
        }
    }
}

/// Key with separate counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PerName {
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

impl From<PerName> for Per {
    fn from(name: PerName) -> Self {
        match name {
            PerName::Caller => Self::Caller,
            PerName::Ip => Self::Ip,
            PerName::Model => Self::Model,
            PerName::Route => Self::Route,
            PerName::Team => Self::Team,
            PerName::All => Self::All,
        }
    }
}

/// Counted unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnitName {
    /// one per request
    #[default]
    Requests,
    /// tokens of prompt and answer
    Tokens,
}

impl From<UnitName> for Unit {
    fn from(name: UnitName) -> Self {
        match name {
            UnitName::Requests => Self::Requests,
            UnitName::Tokens => Self::Tokens,
        }
    }
}

/// Whether a rule is enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModeName {
    /// it refuses requests over the limit
    #[default]
    Enforce,
    /// it only counts the requests that it would have refused
    Observe,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Enforce => Self::Enforce,
            ModeName::Observe => Self::Observe,
        }
    }
}

/// Requests that a rule applies to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Matching {
    /// Pattern for the path.
    #[schemars(extend("x-default" = "any"))]
    pub path: Option<Text<Glob>>,
    /// Pattern for the model; requests without a model do not match it.
    #[schemars(extend("x-default" = "any"))]
    pub model: Option<Text<Glob>>,
    /// Pattern for the caller, with or without `key:`, `hdr:` or `ip:`.
    #[schemars(extend("x-default" = "any"))]
    pub caller: Option<Text<Glob>>,
    /// Class of the request.
    #[schemars(extend("x-default" = "any"))]
    pub class: Option<ClassName>,
}

/// Number of tokens reserved for an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reservation {
    /// the usual length for the caller and the model
    #[default]
    Expected,
    /// the client's own `max_tokens`, for a strict bound
    Max,
}
