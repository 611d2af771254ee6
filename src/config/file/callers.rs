//! Who asks.

use std::collections::BTreeMap;

use http::HeaderName;
use http::header::AUTHORIZATION;
use jsonwebtoken::Algorithm;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OneOrMany;
use crate::config::syntax::{Digest, FilePath, Id, Jwks, Millis, Network, Rate, Text, Word};
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
    #[schemars(extend("x-default" = "true without `keys`, `stored` and `jwt`, false with them"))]
    pub forward_authorization: Option<bool>,
    /// Where further callers are kept, to be changed through the admin port.
    pub stored: Stored,
    /// Callers that show a signed token in place of a key.
    pub jwt: Option<Jwt>,
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
            jwt: None,
            keys: Vec::new(),
        }
    }
}

impl Callers {
    /// Whether nobody has a key or a token of ours.
    pub(crate) fn without_keys(&self) -> bool {
        self.keys.is_empty() && self.stored == Stored::None && self.jwt.is_none()
    }

    /// Whether workers see the client's credentials. Without an own word on it: if nobody has a key or a token of ours.
    pub(crate) fn forwards_authorization(&self) -> bool {
        self.forward_authorization.unwrap_or_else(|| self.without_keys())
    }

    pub(super) fn complete(&mut self) {
        self.forward_authorization = Some(self.forwards_authorization());
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
    /// The caller's own limits, by the names of rules that count each caller by itself: what they say goes before the rule.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, KeyLimit>,
}

/// A caller's own limit under a rule. What is left out stays as the rule has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeyLimit {
    /// The sustained rate of a token bucket.
    #[schemars(extend("x-default" = "the rule's"))]
    pub rate: Option<Text<Rate>>,
    /// What a full token bucket holds.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-default" = "the rule's"))]
    pub burst: Option<u64>,
    /// What fits into one window of a sliding window.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-default" = "the rule's"))]
    pub limit: Option<u64>,
}

const fn one() -> u32 {
    1
}

/// Callers that show a signed token (JWT) in place of a key. A rule and the log call them `jwt:` and what the token says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// The keys by which tokens are signed, a JWKS document: an `https` URL, or a file.
    pub jwks: Text<Jwks>,
    /// For whom a token must be made (`aud`): one of these.
    pub audience: OneOrMany<Text<Word>>,
    /// Who must have made it (`iss`): one of these.
    pub issuer: OneOrMany<Text<Word>>,
    /// The algorithms by which it may be signed.
    #[serde(default = "common_algorithms")]
    #[schemars(length(min = 1, max = 16))]
    pub algorithms: Vec<AlgorithmOfTokens>,
    /// Which of its claims say what.
    #[serde(default)]
    pub claims: ClaimNames,
    /// By how much the clocks of issuer and gateway may differ, for `exp` and `nbf`.
    #[serde(default = "half_a_minute")]
    pub leeway: Text<Millis>,
    /// How often keys are fetched from a URL. They are fetched too when a token names another key, thirty times as often
    /// at most.
    #[serde(default = "five_minutes")]
    pub refresh: Text<Millis>,
    /// A file of further certificate authorities, PEM, for the URL.
    pub ca: Option<Text<FilePath>>,
}

fn common_algorithms() -> Vec<AlgorithmOfTokens> {
    vec![AlgorithmOfTokens::RS256, AlgorithmOfTokens::ES256]
}

const fn half_a_minute() -> Text<Millis> {
    Text(Millis::new(30_000))
}

const fn five_minutes() -> Text<Millis> {
    Text(Millis::new(300_000))
}

/// Which claims of a token say what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimNames {
    /// Who the caller is.
    pub caller: Text<Word>,
    /// Its class.
    #[schemars(extend("x-default" = "none: `callers.default_class` counts"))]
    pub class: Option<Text<Word>>,
    /// Its team.
    #[schemars(extend("x-default" = "none"))]
    pub team: Option<Text<Word>>,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self { caller: Text(Word("sub".into())), class: None, team: None }
    }
}

/// How a token is signed: never by a secret that both sides know.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum AlgorithmOfTokens {
    /// RSA, PKCS #1, SHA-256
    RS256,
    /// RSA, PKCS #1, SHA-384
    RS384,
    /// RSA, PKCS #1, SHA-512
    RS512,
    /// RSA, PSS, SHA-256
    PS256,
    /// RSA, PSS, SHA-384
    PS384,
    /// RSA, PSS, SHA-512
    PS512,
    /// P-256
    ES256,
    /// P-384
    ES384,
    /// Ed25519
    EdDSA,
}

impl From<AlgorithmOfTokens> for Algorithm {
    fn from(name: AlgorithmOfTokens) -> Self {
        match name {
            AlgorithmOfTokens::RS256 => Self::RS256,
            AlgorithmOfTokens::RS384 => Self::RS384,
            AlgorithmOfTokens::RS512 => Self::RS512,
            AlgorithmOfTokens::PS256 => Self::PS256,
            AlgorithmOfTokens::PS384 => Self::PS384,
            AlgorithmOfTokens::PS512 => Self::PS512,
            AlgorithmOfTokens::ES256 => Self::ES256,
            AlgorithmOfTokens::ES384 => Self::ES384,
            AlgorithmOfTokens::EdDSA => Self::EdDSA,
        }
    }
}
