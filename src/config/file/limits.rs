//! Rules.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClassName, OnLossName, OneOrMany};
use crate::config::syntax::{Glob, Millis, Rate, RuleName, Text};
use crate::limit::rule::{Algorithm, Mode, Per};
use crate::refusal::Unit;

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// What the rule is called in messages, headers and metrics; unique.
    pub name: Text<RuleName>,
    /// How it counts.
    pub algorithm: AlgorithmName,
    /// What it counts separately; a list counts every combination separately.
    pub per: OneOrMany<PerName>,
    /// What it counts.
    #[serde(default)]
    pub unit: UnitName,
    /// The sustained rate of a token bucket.
    #[schemars(extend("x-default" = "required by `token_bucket`"))]
    pub rate: Option<Text<Rate>>,
    /// What a full token bucket holds.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-default" = "required by `token_bucket`"))]
    pub burst: Option<u64>,
    /// What fits into one window of a sliding window.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-default" = "required by the windows"))]
    pub limit: Option<u64>,
    /// The length of a sliding window.
    #[schemars(extend("x-default" = "required by the windows"))]
    pub window: Option<Text<Millis>>,
    /// Whether it refuses.
    #[serde(default)]
    pub mode: ModeName,
    /// Which requests it sees. A key that is left out matches all.
    #[serde(default, rename = "match")]
    pub matching: Matching,
    /// For rules in tokens: what is reserved for the answer until its length is known.
    #[serde(default)]
    pub reserve: Reservation,
    /// With `state: redis`: what becomes of it while Redis does not answer.
    #[schemars(extend("x-default" = "`redis.on_loss`"))]
    pub on_loss: Option<OnLossName>,
}

/// How a rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlgorithmName {
    /// a sustained `rate` and a `burst`
    TokenBucket,
    /// at most `limit` in any `window`, by a weighted count of two windows
    SlidingWindow,
    /// the same, exactly, remembering each request: for limits up to 10000
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

/// What a rule counts separately.
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
    /// each team of callers; callers without a team are not seen
    Team,
    /// nothing: one count for all that the rule matches
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

/// What a rule counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnitName {
    /// one for each request
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

/// Whether a rule refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModeName {
    /// it refuses
    #[default]
    Enforce,
    /// it only counts what it would have refused
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

/// Which requests a rule sees.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Matching {
    /// A pattern for the path.
    #[schemars(extend("x-default" = "any"))]
    pub path: Option<Text<Glob>>,
    /// A pattern for the model; requests without a model do not match it.
    #[schemars(extend("x-default" = "any"))]
    pub model: Option<Text<Glob>>,
    /// A pattern for the caller, with or without `key:`, `hdr:` or `ip:`.
    #[schemars(extend("x-default" = "any"))]
    pub caller: Option<Text<Glob>>,
    /// The class.
    #[schemars(extend("x-default" = "any"))]
    pub class: Option<ClassName>,
}

/// What is reserved for an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reservation {
    /// the length that is usual for caller and model
    #[default]
    Expected,
    /// the client's own `max_tokens`, for a strict bound
    Max,
}
