//! Who asks.

use http::HeaderName;
use http::header::AUTHORIZATION;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OneOrMany;
use crate::config::syntax::{Digest, Id, Network, Text};
use crate::request::Class;

/// How callers are told apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Callers {
    /// What tells callers apart: the first of these that a request yields.
    #[schemars(length(min = 1, max = 16))]
    pub from: Vec<Source>,
    /// The proxies whose `X-Forwarded-For` and identity headers count.
    #[schemars(length(max = 1024))]
    pub trusted_proxies: Vec<Text<Network>>,
    /// The header that carries a caller's key, or several, the first that is there. In `authorization` the key
    /// follows `Bearer`.
    pub key_header: OneOrMany<Text<HeaderName>>,
    /// What becomes of a request that no key matches.
    pub anonymous: Anonymous,
    /// The class of callers to whom none is given, which is the highest that they may ask for.
    pub default_class: ClassName,
    /// Whether workers see the caller's `authorization` header. A key of ours never reaches a worker.
    #[schemars(extend("x-default" = "true without `keys` and `stored`, false with them"))]
    pub forward_authorization: Option<bool>,
    /// Where further callers are kept, to be changed through the admin port.
    pub stored: Stored,
    /// Known callers.
    #[schemars(length(max = 100_000))]
    pub keys: Vec<CallerKey>,
}

impl Default for Callers {
    fn default() -> Self {
        Self {
            from: vec![Source::Plainly(Plainly::ApiKey), Source::Plainly(Plainly::Ip)],
            trusted_proxies: Vec::new(),
            key_header: OneOrMany::Many(vec![
                Text(AUTHORIZATION),
                Text(HeaderName::from_static("x-api-key")),
            ]),
            anonymous: Anonymous::default(),
            default_class: ClassName::default(),
            forward_authorization: None,
            stored: Stored::default(),
            keys: Vec::new(),
        }
    }
}

impl Callers {
    pub(super) fn complete(&mut self) {
        let without_keys = self.keys.is_empty() && self.stored == Stored::None;
        self.forward_authorization.get_or_insert(without_keys);
        for key in &mut self.keys {
            key.class.get_or_insert(self.default_class);
        }
    }
}

/// What tells callers apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Source {
    /// What every request may carry.
    Plainly(Plainly),
    /// A header that a trusted proxy sets.
    Header(HeaderSource),
}

/// What every request may carry.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Plainly {
    /// the caller's API key
    ApiKey,
    /// the client's address, IPv6 by /64
    Ip,
}

/// A header that a trusted proxy sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderSource {
    /// A header by which one of `trusted_proxies` names the caller.
    pub header: Text<HeaderName>,
}

/// Where further callers are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stored {
    /// nowhere
    #[default]
    None,
    /// in Redis
    Redis,
}

/// What becomes of a request that no key matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Anonymous {
    /// it is served
    #[default]
    Allow,
    /// it is answered 401
    Refuse,
}

/// The priority of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassName {
    /// must be served before all else
    Critical,
    /// a person waits
    #[default]
    Interactive,
    /// nobody waits
    Batch,
}

impl From<ClassName> for Class {
    fn from(name: ClassName) -> Self {
        match name {
            ClassName::Critical => Self::Critical,
            ClassName::Interactive => Self::Interactive,
            ClassName::Batch => Self::Batch,
        }
    }
}

/// A known caller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallerKey {
    /// What the caller is called in rules and logs (`key:` precedes it).
    pub id: Text<Id>,
    /// The SHA-256 of the caller's key, 64 hexadecimal digits: the file holds no key itself.
    #[schemars(extend("writeOnly" = true))]
    pub sha256: Text<Digest>,
    /// The team that it belongs to, for rules per `team`.
    #[schemars(extend("x-default" = "none"))]
    pub team: Option<Text<Id>>,
    /// The caller's class, which is the highest that it may ask for.
    #[schemars(extend("x-default" = "`callers.default_class`"))]
    pub class: Option<ClassName>,
    /// The caller's share of a contended pool, relative to others'.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
}

const fn one() -> u32 {
    1
}
