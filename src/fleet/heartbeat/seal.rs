//! Signatures on what comes over Redis.
//!
//! A signed text is `<64 hexadecimal digits> <text>`: HMAC-SHA256, under the shared key, of the channel's name, a line
//! break and the text. The channel is part of it, so that a signed heartbeat cannot be passed off as a switch of
//! colours, nor one deployment's as another's.
//!
//! **What it does not do.** A text that was signed once stays signed. Within one life of a gateway `seq` and `boot`
//! keep old ones out; what a gateway that starts anew can be told is bounded by the life of the keys in Redis and by
//! who may write there, which is why `docs/fleet.md` comes with access rules for Redis itself.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::hex;

/// The length of a signature as text.
const DIGITS: usize = 64;

/// Why a text is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealFault {
    /// It has no signature.
    #[error("it is not signed, and `redis.hmac_key` is set")]
    Unsigned,
    /// Its signature is not of this text, channel and key.
    #[error("its signature is wrong")]
    Wrong,
}

/// The key that workers and gateways share.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// The key that is this secret.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        // HMAC takes keys of any length; the library's fault is for algorithms that do not.
        let keyed = Hmac::new_from_slice(secret.as_bytes());
        Self(keyed.unwrap_or_else(|_| Hmac::new(&hmac::digest::Key::<Hmac<Sha256>>::default())))
    }

    /// `text` with its signature for `channel`.
    #[must_use]
    pub fn seal(&self, channel: &str, text: &str) -> String {
        let mut sealed = self.sign(channel, text.as_bytes());
        sealed.reserve_exact(1 + text.len());
        sealed.push(' ');
        sealed.push_str(text);
        sealed
    }

    /// The signature of `text` for `channel`.
    #[must_use]
    pub fn sign(&self, channel: &str, text: &[u8]) -> String {
        hex::write(&self.mac(channel, text).finalize().into_bytes())
    }

    /// The text in `sealed`, if its signature for `channel` is right.
    ///
    /// # Errors
    /// When it is not signed, or wrongly.
    pub fn open<'a>(&self, channel: &str, sealed: &'a [u8]) -> Result<&'a [u8], SealFault> {
        let (digits, text) = split(sealed).ok_or(SealFault::Unsigned)?;
        let signature: [u8; DIGITS / 2] = hex::read(digits).ok_or(SealFault::Wrong)?;
        // Compares in a time that tells nothing.
        self.mac(channel, text).verify_slice(&signature).map_err(|_| SealFault::Wrong)?;
        Ok(text)
    }

    fn mac(&self, channel: &str, text: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(channel.as_bytes());
        mac.update(b"\n");
        mac.update(text);
        mac
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(<redacted>)")
    }
}

/// The text without its signature, unread: for a gateway without a key, so that workers can be told theirs first.
#[must_use]
pub fn unsealed(text: &[u8]) -> &[u8] {
    split(text).map_or(text, |(_, text)| text)
}

fn split(sealed: &[u8]) -> Option<(&[u8], &[u8])> {
    let (digits, rest) = sealed.split_at_checked(DIGITS)?;
    let text = rest.strip_prefix(b" ")?;
    digits.iter().all(u8::is_ascii_hexdigit).then_some((digits, text))
}
