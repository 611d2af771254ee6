//! Signatures of Redis messages.
//!
//! A signed text is `<64 hexadecimal digits> <text>`. The digits are the HMAC-SHA256, with the
//! shared key, of the channel's name, a line break and the text. The channel is included, so that a
//! signed heartbeat cannot be passed off as a colour switch, nor one deployment's as another's.
//!
//! **Limits.** A signature never expires. While a gateway runs, `seq` and `boot` reject old texts.
//! After its start, replay is limited by the lifetime of the keys in Redis and by who may write
//! there, which is why `docs/fleet.md` has access rules for Redis itself.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::hex;

/// The length of a signature as text.
const DIGITS: usize = 64;

/// Why a text is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It has no signature.
    #[error("signature missing, but `redis.hmac_key` requires one")]
    Unsigned,
    /// Its signature does not match this text, channel and key.
    #[error("its signature is wrong")]
    Wrong,
}

/// Maximum number of keys in a secret: each costs a failed verification, and two replace each other.
const MAX_KEYS: usize = 4;

/// A secret has more keys than are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("has {0} keys, separated by spaces; at most {MAX_KEYS} are possible")]
pub struct TooManyKeys(usize);

/// The key that workers and gateways share: the one that signs, and others that still verify.
#[derive(Clone)]
pub struct SigningKey {
    signs: Hmac<Sha256>,
    others: Arc<[Hmac<Sha256>]>,
}

impl SigningKey {
    /// Creates the key from a secret, of which [`signing_keys`] are the parts: the first signs, and
    /// each verifies. So a key can be replaced while texts with the old one are about.
    ///
    /// # Errors
    /// If there are more than four.
    pub fn read(secret: &str) -> Result<Self, TooManyKeys> {
        match signing_keys(secret).count() {
            number if number > MAX_KEYS => Err(TooManyKeys(number)),
            _ => Ok(Self::new(secret)),
        }
    }

    /// As [`SigningKey::read`], for any number of keys.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        let mut keys = signing_keys(secret).map(keyed);
        let signs = keys.next().unwrap_or_else(|| keyed(secret));
        Self { signs, others: keys.collect() }
    }

    /// Returns `text` with its signature for `channel`.
    #[must_use]
    pub fn signed_text(&self, channel: &str, text: &str) -> String {
        let mut signed = self.sign(channel, text.as_bytes());
        signed.reserve_exact(1 + text.len());
        signed.push(' ');
        signed.push_str(text);
        signed
    }

    /// Returns the signature of `text` for `channel`.
    #[must_use]
    pub fn sign(&self, channel: &str, text: &[u8]) -> String {
        hex::write(&mac(&self.signs, channel, text).finalize().into_bytes())
    }

    /// Returns the text in `signed` if its signature for `channel` is valid.
    ///
    /// # Errors
    /// If the signature is missing or wrong.
    pub fn verify<'a>(&self, channel: &str, signed: &'a [u8]) -> Result<&'a [u8], SignatureError> {
        let (digits, text) = split(signed).ok_or(SignatureError::Unsigned)?;
        let signature: [u8; DIGITS / 2] = hex::read(digits).ok_or(SignatureError::Wrong)?;
        // Compares in constant time.
        let is_by = |key: &Hmac<Sha256>| mac(key, channel, text).verify_slice(&signature).is_ok();
        let valid = is_by(&self.signs) || self.others.iter().any(is_by);
        if valid { Ok(text) } else { Err(SignatureError::Wrong) }
    }
}

fn keyed(key: &str) -> Hmac<Sha256> {
    // HMAC takes keys of any length; the library's error is for algorithms that do not.
    Hmac::new_from_slice(key.as_bytes())
        .unwrap_or_else(|_| Hmac::new(&hmac::digest::Key::<Hmac<Sha256>>::default()))
}

fn mac(key: &Hmac<Sha256>, channel: &str, text: &[u8]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(channel.as_bytes());
    mac.update(b"\n");
    mac.update(text);
    mac
}

/// Returns the keys in a secret, which spaces separate.
pub fn signing_keys(secret: &str) -> impl Iterator<Item = &str> {
    secret.split_ascii_whitespace()
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(<redacted>)")
    }
}

/// Returns `text` with its signature for `channel`, or as it is without a key.
#[must_use]
pub fn sign_if_keyed(key: Option<&SigningKey>, channel: &str, text: String) -> String {
    match key {
        Some(key) => key.signed_text(channel, &text),
        None => text,
    }
}

/// Returns the text in `signed` if its signature for `channel` is valid; without a key, unchecked.
///
/// # Errors
/// If there is a key, and the signature is missing or wrong.
pub fn verify_if_keyed<'a>(
    key: Option<&SigningKey>,
    channel: &str,
    signed: &'a [u8],
) -> Result<&'a [u8], SignatureError> {
    match key {
        Some(key) => key.verify(channel, signed),
        None => Ok(without_signature(signed)),
    }
}

/// Returns the text without its signature, unchecked: workers can get a key before gateways do.
#[must_use]
pub(crate) fn without_signature(text: &[u8]) -> &[u8] {
    split(text).map_or(text, |(_, text)| text)
}

fn split(signed: &[u8]) -> Option<(&[u8], &[u8])> {
    let (digits, rest) = signed.split_at_checked(DIGITS)?;
    let text = rest.strip_prefix(b" ")?;
    digits.iter().all(u8::is_ascii_hexdigit).then_some((digits, text))
}
