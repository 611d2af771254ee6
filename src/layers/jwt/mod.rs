//! Identifies callers by the claims of a signed token (JWT), instead of by an API key.
//!
//! A token is valid if a key of the issuer signed it with a configured algorithm, for this
//! audience, and it is within its lifetime. All algorithms are asymmetric, and the token's `alg`
//! only chooses among those that fit its key: neither `none` nor a public key as a secret works.
//!
//! **Failure mode.** While the issuer's keys cannot be fetched, the last ones stay in use. A token
//! that names an unknown key is refused and triggers a fetch, at a bounded rate.
//!
//! **Trade-off.** A checked token is cached until it expires or the keys change, so a token that
//! its issuer revokes is accepted until it expires.

mod keys;
mod provider;

pub(crate) use keys::{JwtKeys, KeySet};

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde_json::{Map, Value};

use crate::request::{AllowedModels, CallerRights, Class};
use crate::table::Table;

/// Cached tokens; at most twice as many, about 4 MB.
const REMEMBERED: usize = 16_384;
/// The longest name of a caller or team, in bytes: names become part of keys and log lines.
const LONGEST_NAME: usize = 256;

/// Patterns for models that one token may have.
const MOST_MODELS: usize = 64;

/// Names of the claims that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    /// The claim with the caller's id.
    pub caller: Arc<str>,
    /// The claim with the caller's class.
    pub class: Option<Arc<str>>,
    /// The claim with the caller's team.
    pub team: Option<Arc<str>>,
    /// The claim with the models that the caller may use.
    pub models: Option<Arc<str>>,
    /// The claim that is `true` for callers who may use external workers.
    pub external: Option<Arc<str>>,
}

/// Settings of token validation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenSettings {
    /// Accepted signature algorithms.
    pub algorithms: Vec<Algorithm>,
    /// Accepted audiences (`aud`); a token must have one of them.
    pub audience: Vec<Arc<str>>,
    /// Accepted issuers (`iss`).
    pub issuer: Vec<Arc<str>>,
    /// The claims to read.
    pub claims: Claims,
    /// Tolerated difference between the clocks of issuer and gateway.
    pub leeway: Duration,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// The token cannot be parsed.
    #[error("it cannot be parsed")]
    Malformed,
    /// The algorithm is not among [`TokenSettings::algorithms`].
    #[error("its algorithm is not accepted here")]
    Algorithm,
    /// The key is not among the last read keys of the issuer.
    #[error("its signing key is not known")]
    UnknownKey,
    /// The signature does not match the key.
    #[error("its signature is wrong")]
    Signature,
    /// The audience (`aud`) is missing, or is not accepted.
    #[error("its audience (`aud`) is missing or not accepted")]
    Audience,
    /// The issuer (`iss`) is missing, or is not accepted.
    #[error("its issuer (`iss`) is missing or not accepted")]
    Issuer,
    /// The token has expired, or has no valid `exp`.
    #[error("it has expired or has no valid `exp`")]
    Expired,
    /// The token is not valid yet (`nbf`), or has an invalid `nbf`.
    #[error("it is not valid yet, or its `nbf` is invalid")]
    NotYetValid,
    /// The claim for the caller is missing, or is no valid name.
    #[error("the claim that names the caller is missing or not a valid name")]
    NoCaller,
}

/// The caller that a token names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    /// The caller's id, without its namespace.
    pub id: Arc<str>,
    /// The caller's rights, as far as the token has claims for them.
    pub rights: CallerRights,
}

/// A token with a verified signature, and its lifetime in seconds since 1970.
#[derive(Clone, Debug)]
struct Signed {
    bearer: Arc<Bearer>,
    from: u64,
    until: u64,
}

/// Cached result of a token's check, which costs 50 µs or more.
#[derive(Clone, Debug)]
struct Checked {
    digest: [u8; 32],
    key_set: u64,
    outcome: Result<Signed, TokenError>,
}

/// Checks tokens, and caches the results.
#[derive(Debug)]
pub(crate) struct Tokens {
    settings: TokenSettings,
    keys: Arc<JwtKeys>,
    checked: Table<Option<Checked>>,
}

impl Tokens {
    /// Creates a checker of tokens signed by one of `keys`.
    #[must_use]
    pub(crate) fn new(settings: TokenSettings, keys: Arc<JwtKeys>) -> Self {
        provider::install();
        Self { settings, keys, checked: Table::new(REMEMBERED) }
    }

    /// Returns the caller named by a token with the SHA-256 `digest`, at `now` seconds since 1970.
    ///
    /// # Errors
    /// Why the token is not accepted.
    pub(crate) fn check(&self, token: &[u8], digest: &[u8; 32], now: u64) -> Result<Arc<Bearer>, TokenError> {
        let keys = self.keys.load();
        let [a, b, c, d, e, f, g, h, ..] = *digest;
        let place = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        // Compares the whole digest: a collision in 8 bytes of it can be computed.
        let known = self.checked.get(place).flatten();
        let known = known.filter(|known| known.digest == *digest && known.key_set == keys.number());
        let outcome = match known {
            Some(known) => known.outcome,
            None => {
                let outcome = self.verify(token, &keys);
                if !matches!(outcome, Err(TokenError::Malformed | TokenError::UnknownKey)) {
                    let checked =
                        Checked { digest: *digest, key_set: keys.number(), outcome: outcome.clone() };
                    self.checked.update(place, |slot| *slot = Some(checked));
                }
                outcome
            }
        };
        let signed = outcome?;
        let leeway = self.settings.leeway.as_secs();
        if now >= signed.until.saturating_add(leeway) {
            return Err(TokenError::Expired);
        }
        if now.saturating_add(leeway) < signed.from {
            return Err(TokenError::NotYetValid);
        }
        Ok(signed.bearer)
    }

    /// Verifies everything but the lifetime.
    fn verify(&self, token: &[u8], keys: &KeySet) -> Result<Signed, TokenError> {
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        // No `crit` extension is supported; access tokens are neither compressed nor nested.
        if header.crit.is_some() || header.zip.is_some() || header.enc.is_some() {
            return Err(TokenError::Malformed);
        }
        if !self.settings.algorithms.contains(&header.alg) {
            return Err(TokenError::Algorithm);
        }
        let Some(key) = keys.find(header.kid.as_deref(), header.alg) else {
            self.keys.request_refresh();
            return Err(TokenError::UnknownKey);
        };
        let mut validation = Validation::new(header.alg);
        validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        validation.set_audience(&self.settings.audience);
        validation.set_issuer(&self.settings.issuer);
        // The result is cached, so `check` tests the lifetime each time.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let claims = decode::<Map<String, Value>>(token, key, &validation).map_err(fault)?.claims;
        let until = claims.get("exp").and_then(seconds).ok_or(TokenError::Expired)?;
        let from = match claims.get("nbf") {
            Some(from) => seconds(from).ok_or(TokenError::NotYetValid)?,
            None => 0,
        };
        let names = &self.settings.claims;
        let text = |name: &Arc<str>| claims.get(&**name).and_then(Value::as_str).filter(|text| is_name(text));
        let id = text(&names.caller).ok_or(TokenError::NoCaller)?.into();
        let class = names.class.as_ref().and_then(text).and_then(Class::parse);
        let team = names.team.as_ref().and_then(text).map(Into::into);
        let models = names.models.as_ref().and_then(|name| claims.get(&**name)).map(allowed).map(Arc::new);
        let external =
            names.external.as_ref().and_then(|name| claims.get(&**name)) == Some(&Value::Bool(true));
        let rights = CallerRights { class, team, models, external, ..CallerRights::default() };
        Ok(Signed { bearer: Arc::new(Bearer { id, rights }), from, until })
    }
}

/// Returns `true` if a claim is a valid name: short and printable, for keys and log lines.
fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Reads the models that a token allows: a list of patterns, or one text with spaces between them as
/// in `scope`. A claim of another form allows none.
fn allowed(value: &Value) -> AllowedModels {
    let patterns: Vec<&str> = match value {
        Value::String(text) => text.split_whitespace().collect(),
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let patterns = patterns.into_iter().filter(|text| is_name(text)).take(MOST_MODELS);
    AllowedModels::new(patterns.map(Into::into))
}

/// Reads a point in time of a token in whole seconds; the token may have a fraction.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64))
}

fn fault(error: jsonwebtoken::errors::Error) -> TokenError {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "aud" => TokenError::Audience,
            "iss" => TokenError::Issuer,
            _ => TokenError::Expired,
        },
        _ => TokenError::Malformed,
    }
}

#[cfg(test)]
mod tests;
