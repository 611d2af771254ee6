//! Redis, and where rules are counted.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OneOrMany;
use crate::config::syntax::{FilePath, Id, RedisUrl, Secret, Text};
use crate::limit::rule::OnLoss;

/// Where the rules' counts are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StateSection {
    /// in each gateway separately
    #[default]
    Memory,
    /// in Redis, for all gateways together
    Redis,
}

/// Redis 6 or later, for state that gateways and workers share. Used only if another setting
/// requires it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RedisSection {
    /// URL of one server, of the sentinels, or of some nodes of a cluster. `rediss` is TLS. A
    /// password from a variable may contain any characters (`redis://:${PASSWORD}@host`); a literal
    /// one must be percent-encoded.
    pub url: OneOrMany<Text<RedisUrl>>,
    /// Name of the master; the URLs are then sentinels. User, password and database are those of
    /// the first URL.
    #[schemars(extend("x-default" = "none"))]
    pub sentinel: Option<Text<Id>>,
    /// Whether the URLs are nodes of a cluster.
    pub cluster: bool,
    /// Prefix of every key and channel. Gateways that share state have the same prefix.
    pub prefix: Text<Id>,
    /// Key with which workers and gateways sign their messages (HMAC-SHA256): heartbeats, colour
    /// switches, jobs and their answers, callers, changes of rules, tokens of callers. If it is set,
    /// unsigned messages of these kinds are ignored. `docs/fleet.md` lists what is never signed. Of up
    /// to four keys, separated by spaces, the first signs and each is accepted, so that a key can be
    /// replaced.
    #[schemars(extend("writeOnly" = true, "x-default" = "none"))]
    pub hmac_key: Option<Text<Secret>>,
    /// Timeout of a command, after which the gateway continues without its result.
    pub timeout: Text<Duration>,
    /// How rules act while Redis does not answer, unless a rule has its own `on_loss`.
    pub on_loss: OnLoss,
    /// File with additional certificate authorities, PEM, for `rediss`.
    pub ca: Option<Text<FilePath>>,
}

impl Default for RedisSection {
    fn default() -> Self {
        Self {
            url: OneOrMany::One(Text(RedisUrl("redis://127.0.0.1:6379".into()))),
            sentinel: None,
            cluster: false,
            prefix: Text(Id("dam".into())),
            hmac_key: None,
            timeout: Text(Duration::from_millis(10)),
            on_loss: OnLoss::default(),
            ca: None,
        }
    }
}
