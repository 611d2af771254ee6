//! Callers by what a signed token (JWT) says of them, instead of a key that is kept here.
//!
//! A token is believed when a key of the issuer's signed it by an algorithm that the settings name, for this audience,
//! and it is within its time. The algorithms are asymmetric ones only, and the token's own `alg` can do no more than
//! choose among those that fit its key: so neither `none` nor a public key used as a secret opens anything.
//!
//! **Failure mode.** While the issuer's keys cannot be fetched, those that were last read go on; a token that names
//! another key is refused, and makes the keys be fetched again, once in a while at most.
//!
//! **Trade-off.** A checked token is remembered until its time is over or the keys change, so a token that its issuer
//! takes back is let in for as long as it says.

mod keys;
mod provider;

pub use keys::{JwtKeys, KeySet};

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde_json::{Map, Value};

use crate::request::Class;
use crate::table::Table;

/// Tokens that are remembered, twice as many at most: some 4 MB.
const REMEMBERED: usize = 16_384;
/// The longest name of a caller or team, which ends in keys and log lines.
const LONGEST_NAME: usize = 256;

/// Which claim says what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who the caller is.
    pub caller: Arc<str>,
    /// Its class.
    pub class: Option<Arc<str>>,
    /// Its team.
    pub team: Option<Arc<str>>,
}

/// Which tokens count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// The algorithms that may have signed them.
    pub algorithms: Vec<Algorithm>,
    /// For whom they must be made: one of these.
    pub audience: Vec<Arc<str>>,
    /// Who must have made them: one of these.
    pub issuer: Vec<Arc<str>>,
    /// What they say.
    pub claims: Claims,
    /// By how much the clocks of issuer and gateway may differ.
    pub leeway: Duration,
}

/// Why a token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// It cannot be read.
    #[error("it is no token that can be read")]
    Malformed,
    /// Its algorithm is not among those of the settings.
    #[error("its algorithm is not accepted here")]
    Algorithm,
    /// Its key is not among the issuer's, as they were last read.
    #[error("the key that it names is not known")]
    UnknownKey,
    /// The signature is not of that key.
    #[error("its signature is wrong")]
    Signature,
    /// It was made for others.
    #[error("it was made for another audience")]
    Audience,
    /// It was made by others.
    #[error("it was made by another issuer")]
    Issuer,
    /// Its time is over, or it has none.
    #[error("it has expired")]
    Expired,
    /// Its time has not come.
    #[error("it is not valid yet")]
    Early,
    /// It does not say whose it is.
    #[error("its claim for the caller is missing, or is no name")]
    Nobody,
}

/// Whom a token speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The caller, without its namespace.
    pub id: Arc<str>,
    /// Its class, if the token says one.
    pub class: Option<Class>,
    /// Its team.
    pub team: Option<Arc<str>>,
}

/// A token that is known to be signed, and when it counts: seconds since 1970.
#[derive(Clone, Debug)]
struct Signed {
    bearer: Arc<Bearer>,
    from: u64,
    until: u64,
}

/// What came of a token's check, which costs 50 µs and more.
#[derive(Clone, Debug)]
struct Checked {
    digest: [u8; 32],
    /// The number of the keys that it was checked by.
    by: u64,
    outcome: Result<Signed, TokenFault>,
}

/// Checks tokens.
#[derive(Debug)]
pub struct Tokens {
    settings: TokenSettings,
    keys: Arc<JwtKeys>,
    checked: Table<Option<Checked>>,
}

impl Tokens {
    /// Tokens that are signed by one of `keys`.
    #[must_use]
    pub fn new(settings: TokenSettings, keys: Arc<JwtKeys>) -> Self {
        provider::install();
        Self { settings, keys, checked: Table::new(REMEMBERED) }
    }

    /// Whom the token with this SHA-256 speaks of, `now` seconds after 1970.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn check(&self, token: &[u8], digest: &[u8; 32], now: u64) -> Result<Arc<Bearer>, TokenFault> {
        let keys = self.keys.load();
        let [a, b, c, d, e, f, g, h, ..] = *digest;
        let place = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        // The whole digest is compared: half of it could be met on purpose.
        let known = self.checked.get(place).flatten();
        let known = known.filter(|known| known.digest == *digest && known.by == keys.number());
        let outcome = match known {
            Some(known) => known.outcome,
            None => {
                let outcome = self.verify(token, &keys);
                if !matches!(outcome, Err(TokenFault::Malformed | TokenFault::UnknownKey)) {
                    let checked = Checked { digest: *digest, by: keys.number(), outcome: outcome.clone() };
                    self.checked.update(place, |slot| *slot = Some(checked));
                }
                outcome
            }
        };
        let signed = outcome?;
        let leeway = self.settings.leeway.as_secs();
        if now >= signed.until.saturating_add(leeway) {
            return Err(TokenFault::Expired);
        }
        if now.saturating_add(leeway) < signed.from {
            return Err(TokenFault::Early);
        }
        Ok(signed.bearer)
    }

    /// Everything but the time.
    fn verify(&self, token: &[u8], keys: &KeySet) -> Result<Signed, TokenFault> {
        let header = decode_header(token).map_err(|_| TokenFault::Malformed)?;
        // What must be understood is not; compressed or nested tokens are nobody's access tokens.
        if header.crit.is_some() || header.zip.is_some() || header.enc.is_some() {
            return Err(TokenFault::Malformed);
        }
        if !self.settings.algorithms.contains(&header.alg) {
            return Err(TokenFault::Algorithm);
        }
        let Some(key) = keys.find(header.kid.as_deref(), header.alg) else {
            self.keys.want();
            return Err(TokenFault::UnknownKey);
        };
        let mut validation = Validation::new(header.alg);
        validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        validation.set_audience(&self.settings.audience);
        validation.set_issuer(&self.settings.issuer);
        // They change with time, and this is remembered.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let claims = decode::<Map<String, Value>>(token, key, &validation).map_err(fault)?.claims;
        let until = claims.get("exp").and_then(seconds).ok_or(TokenFault::Expired)?;
        let from = match claims.get("nbf") {
            Some(from) => seconds(from).ok_or(TokenFault::Early)?,
            None => 0,
        };
        let names = &self.settings.claims;
        let text = |name: &Arc<str>| claims.get(&**name).and_then(Value::as_str).filter(|text| is_name(text));
        let id = text(&names.caller).ok_or(TokenFault::Nobody)?.into();
        let class = names.class.as_ref().and_then(text).and_then(Class::parse);
        let team = names.team.as_ref().and_then(text).map(Into::into);
        Ok(Signed { bearer: Arc::new(Bearer { id, class, team }), from, until })
    }
}

/// Whether a claim can name somebody: what ends in keys and log lines is short and printable.
fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// A point in time as tokens have it, which may have a fraction.
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64))
}

fn fault(error: jsonwebtoken::errors::Error) -> TokenFault {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature => TokenFault::Signature,
        ErrorKind::InvalidAudience => TokenFault::Audience,
        ErrorKind::InvalidIssuer => TokenFault::Issuer,
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "aud" => TokenFault::Audience,
            "iss" => TokenFault::Issuer,
            _ => TokenFault::Expired,
        },
        _ => TokenFault::Malformed,
    }
}

#[cfg(test)]
mod tests;
