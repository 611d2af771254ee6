//! Signatures of records in Redis, with `redis.hmac_key`.
//!
//! A record that a gateway or operator writes for gateways is signed together with its Redis key,
//! so that it cannot be used for another caller or another deployment. Without `redis.hmac_key`,
//! nothing is signed and signatures are skipped.
//!
//! **What it does not do.** Signatures do not expire: whoever can write to Redis can restore an old
//! record, unless its text says when it ends, or delete one. Counters and the order of pending jobs are not signed.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use traffic_dam_core::fleet::heartbeat::{SignatureError, SigningKey, sign_if_keyed, verify_if_keyed};

/// Current signature key. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Signing(Arc<ArcSwapOption<SigningKey>>);

impl From<Option<SigningKey>> for Signing {
    fn from(key: Option<SigningKey>) -> Self {
        Self(Arc::new(ArcSwapOption::new(key.map(Arc::new))))
    }
}

impl Signing {
    /// Replaces the key; `None` turns signing off.
    pub fn replace(&self, key: Option<SigningKey>) {
        self.0.store(key.map(Arc::new));
    }

    /// Returns the key; `None` without `redis.hmac_key`.
    #[must_use]
    pub fn key(&self) -> Option<Arc<SigningKey>> {
        self.0.load_full()
    }

    /// Returns the text signed for the Redis key `place`.
    #[must_use]
    pub fn sign(&self, place: &str, text: String) -> String {
        sign_if_keyed(self.0.load().as_deref(), place, text)
    }

    /// Verifies the text stored under the Redis key `place`, and removes its signature.
    ///
    /// # Errors
    /// Returns an error if there is a key, and the signature is missing or wrong.
    pub fn verify<'a>(&self, place: &str, kept: &'a str) -> Result<&'a str, SignatureError> {
        let text = verify_if_keyed(self.0.load().as_deref(), place, kept.as_bytes())?;
        // The signature is ASCII, so the rest is valid UTF-8.
        Ok(std::str::from_utf8(text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signing(secret: &str) -> Signing {
        Some(SigningKey::new(secret)).into()
    }

    #[test]
    fn a_text_is_believed_under_its_own_key_only() {
        let (ours, theirs, none) = (signing("a"), signing("b"), Signing::default());
        let kept = ours.sign("dam:caller:x", "{}".into());
        assert_eq!(ours.verify("dam:caller:x", &kept), Ok("{}"));
        assert_eq!(ours.verify("dam:caller:y", &kept), Err(SignatureError::Wrong));
        assert_eq!(theirs.verify("dam:caller:x", &kept), Err(SignatureError::Wrong));
        assert_eq!(ours.verify("dam:caller:x", "{}"), Err(SignatureError::Unsigned));
        // Without a key nothing is verified, so that gateways can get the key one after another.
        assert_eq!(
            (none.verify("dam:caller:x", &kept), none.sign("p", "{}".into())),
            (Ok("{}"), "{}".to_owned())
        );
        ours.replace(None);
        assert_eq!(ours.verify("dam:caller:x", "{}"), Ok("{}"));
    }
}
