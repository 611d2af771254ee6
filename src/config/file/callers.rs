//! Identification of callers.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderName;
use http::header::AUTHORIZATION;
use jsonwebtoken::Algorithm;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OneOrMany;
use crate::config::syntax::{Digest, FilePath, Glob, Id, Jwks, Network, Rate, Text, Word};
use crate::request::{AnswerHeaders, Class};

/// Identification of callers, and their rights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CallersSection {
    /// Sources of a caller's identity, in order. The first one that a request provides is used.
    #[schemars(length(min = 1, max = 16))]
    pub from: Vec<SourceSection>,
    /// Proxies whose `X-Forwarded-For` and identity headers are trusted.
    #[schemars(length(max = 1024))]
    pub trusted_proxies: Vec<Text<Network>>,
    /// Header that carries the caller's key. The headers of a list are tried in order, until one has
    /// a key or token that is known. In `authorization` the key follows `Bearer`.
    pub key_header: OneOrMany<Text<HeaderName>>,
    /// How to treat a request that no key matches.
    pub anonymous: Anonymous,
    /// Default class. It is also the highest class that callers without a class may ask for.
    pub default_class: Class,
    /// Whether workers get the caller's `authorization` header. They never get a key that the
    /// gateway knows.
    #[schemars(extend("x-default" = "true without `keys`, `stored` and `jwt`, false with them"))]
    pub forward_authorization: Option<bool>,
    /// Where additional callers are stored, which the admin port manages.
    pub stored: CallerStore,
    /// Callers that send a signed token (JWT) instead of a key.
    pub jwt: Option<Jwt>,
    /// Callers known by their keys.
    #[schemars(length(max = 100_000))]
    pub keys: Vec<CallerKeySection>,
}

impl Default for CallersSection {
    fn default() -> Self {
        Self {
            from: vec![
                SourceSection::Plainly(BuiltinSource::ApiKey),
                SourceSection::Plainly(BuiltinSource::Ip),
            ],
            trusted_proxies: Vec::new(),
            key_header: OneOrMany::Many(vec![
                Text(AUTHORIZATION),
                Text(HeaderName::from_static("x-api-key")),
            ]),
            anonymous: Anonymous::default(),
            default_class: Class::default(),
            forward_authorization: None,
            stored: CallerStore::default(),
            jwt: None,
            keys: Vec::new(),
        }
    }
}

impl CallersSection {
    /// Returns `true` if no source of keys or tokens is configured.
    pub(crate) fn without_keys(&self) -> bool {
        self.keys.is_empty() && self.stored == CallerStore::None && self.jwt.is_none()
    }

    /// Returns `true` if workers get the client's credentials; default: without keys and tokens.
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

/// Source of a caller's identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum SourceSection {
    /// A source that any request may have.
    Plainly(BuiltinSource),
    /// A header set by a trusted proxy.
    Header(HeaderSource),
}

/// A source that any request may have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BuiltinSource {
    /// the caller's API key
    ApiKey,
    /// the client's address, IPv6 by /64
    Ip,
}

/// A header set by a trusted proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeaderSource {
    /// Header in which one of `trusted_proxies` names the caller.
    pub header: Text<HeaderName>,
}

/// Where additional callers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CallerStore {
    /// nowhere
    #[default]
    None,
    /// in Redis
    Redis,
}

/// How to treat a request that no key matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Anonymous {
    /// it is served
    #[default]
    Allow,
    /// it is answered 401
    Refuse,
}

/// A caller known by its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CallerKeySection {
    /// Name of the caller. Rules and logs call it `key:` and this name.
    pub id: Text<Id>,
    /// SHA-256 of the caller's key, 64 hexadecimal digits. The file contains no key itself.
    #[schemars(extend("writeOnly" = true))]
    pub sha256: Text<Digest>,
    /// Team of the caller, for rules per `team`.
    #[schemars(extend("x-default" = "none"))]
    pub team: Option<Text<Id>>,
    /// Class of the caller, and the highest class that its requests may ask for.
    #[schemars(extend("x-default" = "`callers.default_class`"))]
    pub class: Option<Class>,
    /// Share of a contended pool, relative to the weights of other callers.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
    /// Patterns for the models that the caller may ask for, aliases included; `[]` for none. Others are
    /// answered like unknown models (404).
    #[schemars(length(max = 64), extend("x-default" = "all"))]
    pub models: Option<Vec<Text<Glob>>>,
    /// Headers of this caller's answers.
    #[schemars(extend("x-default" = "`answer_headers`"))]
    pub answer_headers: Option<AnswerHeaders>,
    /// Whether requests of this caller may go to external workers, such as a paid API. Requests of
    /// class `batch` never do.
    #[serde(default)]
    pub external: bool,
    /// Limits of this caller that override a rule. The key is the name of a rule that has `caller`
    /// in `per`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, KeyLimit>,
}

/// A caller's override of a rule's limit. Omitted keys keep the rule's value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct KeyLimit {
    /// Sustained rate of a token bucket.
    #[schemars(extend("x-default" = "the rule's"))]
    pub rate: Option<Text<Rate>>,
    /// Capacity of a token bucket.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-default" = "the rule's"))]
    pub burst: Option<u64>,
    /// Maximum per window, for a sliding window.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64), extend("x-default" = "the rule's"))]
    pub limit: Option<u64>,
}

const fn one() -> u32 {
    1
}

/// Callers that send a signed token (JWT) instead of a key. Rules and logs call such a caller
/// `jwt:` and the value of the claim `claims.caller`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Jwt {
    /// JWKS document with the keys that tokens are signed with: an `https` URL, or a file.
    pub jwks: Text<Jwks>,
    /// Accepted audiences: the token's `aud` must have one of these.
    pub audience: OneOrMany<Text<Word>>,
    /// Accepted issuers: the token's `iss` must be one of these.
    pub issuer: OneOrMany<Text<Word>>,
    /// Accepted signature algorithms.
    #[serde(default = "common_algorithms")]
    #[schemars(length(min = 1, max = 16))]
    pub algorithms: Vec<JwtAlgorithm>,
    /// Names of the claims that the gateway reads.
    #[serde(default)]
    pub claims: ClaimNames,
    /// Tolerated clock difference between issuer and gateway, for `exp` and `nbf`.
    #[serde(default = "half_a_minute")]
    pub leeway: Text<Duration>,
    /// Interval between fetches of the keys from a URL. A token with an unknown key also triggers a
    /// fetch, at most thirty times per interval.
    #[serde(default = "five_minutes")]
    pub refresh: Text<Duration>,
    /// File with additional certificate authorities, PEM, for the URL.
    pub ca: Option<Text<FilePath>>,
}

fn common_algorithms() -> Vec<JwtAlgorithm> {
    vec![JwtAlgorithm::RS256, JwtAlgorithm::ES256]
}

const fn half_a_minute() -> Text<Duration> {
    Text(Duration::from_millis(30_000))
}

const fn five_minutes() -> Text<Duration> {
    Text(Duration::from_millis(300_000))
}

/// Names of the claims that the gateway reads from a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ClaimNames {
    /// Claim with the caller's name.
    pub caller: Text<Word>,
    /// Claim with the caller's class.
    #[schemars(extend("x-default" = "none: `callers.default_class` counts"))]
    pub class: Option<Text<Word>>,
    /// Claim with the caller's team.
    #[schemars(extend("x-default" = "none"))]
    pub team: Option<Text<Word>>,
    /// Claim with the patterns for models that the caller may ask for: a list, or one text with spaces
    /// between them. A token without the claim may ask for all.
    #[schemars(extend("x-default" = "none: all models"))]
    pub models: Option<Text<Word>>,
    /// Claim that is `true` if the caller's requests may go to external workers.
    #[schemars(extend("x-default" = "none: they never do"))]
    pub external: Option<Text<Word>>,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self { caller: Text(Word("sub".into())), class: None, team: None, models: None, external: None }
    }
}

/// Signature algorithm of a token. Algorithms with a shared secret (HMAC) are not supported.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) enum JwtAlgorithm {
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

impl From<JwtAlgorithm> for Algorithm {
    fn from(name: JwtAlgorithm) -> Self {
        match name {
            JwtAlgorithm::RS256 => Self::RS256,
            JwtAlgorithm::RS384 => Self::RS384,
            JwtAlgorithm::RS512 => Self::RS512,
            JwtAlgorithm::PS256 => Self::PS256,
            JwtAlgorithm::PS384 => Self::PS384,
            JwtAlgorithm::PS512 => Self::PS512,
            JwtAlgorithm::ES256 => Self::ES256,
            JwtAlgorithm::ES384 => Self::ES384,
            JwtAlgorithm::EdDSA => Self::EdDSA,
        }
    }
}
