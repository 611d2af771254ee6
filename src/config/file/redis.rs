//! What gateways share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::syntax::{Id, RedisUrl, Secret, Text};

/// Redis, through which gateways and workers know of each other. Version 6 or later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// Where it is.
    pub url: Text<RedisUrl>,
    /// What every key and channel begins with, a colon following. Deployments that share a Redis each have their own.
    #[serde(default = "default_prefix")]
    pub prefix: Text<Id>,
    /// The key by which workers sign what they say (HMAC-SHA256). When it is set, unsigned heartbeats count for nothing.
    #[schemars(extend("writeOnly" = true))]
    pub hmac_key: Option<Text<Secret>>,
}

fn default_prefix() -> Text<Id> {
    Text(Id("dam".into()))
}
