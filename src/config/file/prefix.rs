//! The choice of workers by the prefixes of prompts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::syntax::{Secret, Text};
use crate::layers::prefixes::PrefixShare;

/// Whether workers are chosen by what they have cached of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PrefixChoice {
    /// where several workers could serve a prompt of 1 KiB or more
    #[default]
    Auto,
    /// never
    Off,
}

/// What is known of the workers' prefix caches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PrefixSection {
    /// Secret with which prompts are hashed. Gateways with the same secret send equal prompts to the
    /// same workers without asking each other.
    #[schemars(extend("writeOnly" = true, "x-default" = "`redis.hmac_key`, else a random one"))]
    pub key: Option<Text<Secret>>,
    /// Whose prompts may share what a worker has cached. No other caller can learn from the choice
    /// of a worker what was sent before.
    pub share: PrefixShare,
    /// Tokens of prompts that a worker is assumed to keep.
    #[schemars(range(min = 64, max = 4_194_304), extend("x-default" = "its `kv_tokens`, else 131072"))]
    pub capacity: Option<u64>,
}
