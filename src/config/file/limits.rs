//! The rules, as written under `limits`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OneOrMany;
use crate::config::syntax::{Glob, Rate, RuleName, Text};
use crate::limit::rule::{Algorithm, Mode, OnLoss, Per};
use crate::refusal::Unit;
use crate::request::Class;

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleSection {
    /// Name of the rule in messages, headers and metrics; unique.
    pub name: Text<RuleName>,
    /// Limit algorithm.
    pub algorithm: Algorithm,
    /// Keys with separate counts; of a list, each combination is counted separately.
    pub per: OneOrMany<Per>,
    /// Counted unit.
    #[serde(default)]
    pub unit: Unit,
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
    pub mode: Mode,
    /// Requests that the rule applies to. An omitted key matches all.
    #[serde(default, rename = "match")]
    pub matching: Matching,
    /// For rules in tokens: number of tokens reserved for the answer until its length is known.
    #[serde(default)]
    pub reserve: Reservation,
    /// With `state: redis`: how the rule acts while Redis does not answer.
    #[schemars(extend("x-default" = "`redis.on_loss`"))]
    pub on_loss: Option<OnLoss>,
}

/// Requests that a rule applies to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Matching {
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
    pub class: Option<Class>,
}

/// Number of tokens reserved for an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reservation {
    /// the usual length for the caller and the model
    #[default]
    Expected,
    /// the client's own `max_tokens`, for a strict bound
    Max,
}
