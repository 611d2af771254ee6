//! Redis, and what is counted there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OneOrMany;
use crate::config::syntax::{FilePath, Id, Millis, RedisUrl, Secret, Text};
use crate::limit::rule::OnLoss;

/// Where rules are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// in each gateway by itself
    #[default]
    Memory,
    /// in Redis, for all gateways together
    Redis,
}

/// Redis, for what gateways and workers share; version 6 or later. It is used only by settings that say so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// Where it is: one server, the sentinels, or some nodes of a cluster. `rediss` is TLS. A password from a variable may
    /// have any letters (`redis://:${PASSWORD}@host`); one that is written here is percent-encoded.
    pub url: OneOrMany<Text<RedisUrl>>,
    /// The URLs are sentinels, and this is what they call the master. User, password and database are those of the
    /// first URL.
    #[schemars(extend("x-default" = "none"))]
    pub sentinel: Option<Text<Id>>,
    /// The URLs are nodes of a cluster.
    pub cluster: bool,
    /// What every key and channel begins with; gateways that share something have the same.
    pub prefix: Text<Id>,
    /// The key by which workers and gateways sign what they say (HMAC-SHA256): heartbeats, switches, jobs and their answers,
    /// callers, changes of rules. When it is set, what is not signed of these counts for nothing; `docs/fleet.md` says what
    /// is never signed.
    #[schemars(extend("writeOnly" = true, "x-default" = "none"))]
    pub hmac_key: Option<Text<Secret>>,
    /// How long a command may take before the gateway goes on without it.
    pub timeout: Text<Millis>,
    /// What becomes of rules while Redis does not answer, unless they say otherwise.
    pub on_loss: OnLossName,
    /// A file of further certificate authorities, PEM, for `rediss`.
    pub ca: Option<Text<FilePath>>,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: OneOrMany::One(Text(RedisUrl("redis://127.0.0.1:6379".into()))),
            sentinel: None,
            cluster: false,
            prefix: Text(Id("dam".into())),
            hmac_key: None,
            timeout: Text(Millis::new(10)),
            on_loss: OnLossName::default(),
            ca: None,
        }
    }
}

/// What becomes of a rule while Redis does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLossName {
    /// each gateway counts its share of the quota by itself
    #[default]
    Share,
    /// it lets everything through
    Open,
    /// it refuses, with 503
    Closed,
}

impl From<OnLossName> for OnLoss {
    fn from(name: OnLossName) -> Self {
        match name {
            OnLossName::Share => Self::Share,
            OnLossName::Open => Self::Open,
            OnLossName::Closed => Self::Closed,
        }
    }
}
