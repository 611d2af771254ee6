//! Signatures on what is kept in Redis, under `redis.hmac_key`.
//!
//! What a gateway or an operator writes for other gateways is signed together with the name of its key, so that a record
//! of one caller cannot be passed off as another's, nor one deployment's as another's. Without a key nothing is signed,
//! and signatures are read over.
//!
//! **What it does not do.** What was signed once stays signed: whoever can write to Redis can put back what stood there
//! before, or take it away. Counters, and who waits in which order, are not signed.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::fleet::heartbeat::{Key, SealFault, unsealed};

/// The key of the moment. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Sealing(Arc<ArcSwapOption<Key>>);

impl From<Option<Key>> for Sealing {
    fn from(key: Option<Key>) -> Self {
        Self(Arc::new(ArcSwapOption::new(key.map(Arc::new))))
    }
}

impl Sealing {
    /// Takes another key, or none, from now on.
    pub fn replace(&self, key: Option<Key>) {
        self.0.store(key.map(Arc::new));
    }

    /// The key, if there is one.
    #[must_use]
    pub fn key(&self) -> Option<Arc<Key>> {
        self.0.load_full()
    }

    /// The text as it is to be kept under the key `place`.
    #[must_use]
    pub fn seal(&self, place: &str, text: String) -> String {
        match &*self.0.load() {
            Some(key) => key.seal(place, &text),
            None => text,
        }
    }

    /// The text that was kept under the key `place`.
    ///
    /// # Errors
    /// When it is not signed, or wrongly, though there is a key.
    pub fn open<'a>(&self, place: &str, kept: &'a str) -> Result<&'a str, SealFault> {
        let text = match &*self.0.load() {
            Some(key) => key.open(place, kept.as_bytes())?,
            None => unsealed(kept.as_bytes()),
        };
        // What is cut off before it is ASCII.
        Ok(std::str::from_utf8(text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealing(secret: &str) -> Sealing {
        Some(Key::new(secret)).into()
    }

    #[test]
    fn a_text_is_believed_under_its_own_key_only() {
        let (ours, theirs, none) = (sealing("a"), sealing("b"), Sealing::default());
        let kept = ours.seal("dam:caller:x", "{}".into());
        assert_eq!(ours.open("dam:caller:x", &kept), Ok("{}"));
        assert_eq!(ours.open("dam:caller:y", &kept), Err(SealFault::Wrong));
        assert_eq!(theirs.open("dam:caller:x", &kept), Err(SealFault::Wrong));
        assert_eq!(ours.open("dam:caller:x", "{}"), Err(SealFault::Unsigned));
        // Without a key nothing is looked at, so that one gateway can have it before the others.
        assert_eq!(
            (none.open("dam:caller:x", &kept), none.seal("p", "{}".into())),
            (Ok("{}"), "{}".to_owned())
        );
        ours.replace(None);
        assert_eq!(ours.open("dam:caller:x", "{}"), Ok("{}"));
    }
}
