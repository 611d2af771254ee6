//! The keys of whoever signs tokens, as a JWKS document has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Notify;

/// Numbers sets of keys, so that what was checked by one is not believed by the next.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// One key.
#[derive(Debug)]
struct JwtKey {
    id: Option<String>,
    /// The algorithms that fit its kind, or the only one that it is for.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl JwtKey {
    /// The key in `jwk`, if signatures of it can be checked.
    fn read(jwk: &Jwk) -> Option<Self> {
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let fitting: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                &[Algorithm::ES256]
            }
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => {
                &[Algorithm::ES384]
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            // A secret that stands in a document for all is none.
            _ => return None,
        };
        let only = jwk.common.key_algorithm;
        let serves = |algorithm: &&Algorithm| only.is_none_or(|only| only == KeyAlgorithm::from(**algorithm));
        let algorithms: Vec<_> = fitting.iter().filter(serves).copied().collect();
        let key = DecodingKey::from_jwk(jwk).ok()?;
        (!algorithms.is_empty() && key.family() != AlgorithmFamily::Hmac).then(|| Self {
            id: jwk.common.key_id.clone(),
            algorithms,
            key,
        })
    }
}

/// Keys that were read together.
#[derive(Debug)]
pub struct KeySet {
    number: u64,
    keys: Vec<JwtKey>,
}

impl KeySet {
    fn of(keys: Vec<JwtKey>) -> Self {
        Self { number: NEXT.fetch_add(1, Ordering::Relaxed), keys }
    }

    /// Reads a JWKS document. Keys of kinds that are not known here are left out.
    ///
    /// # Errors
    /// When it is none, or has no key that could be used.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document =
            serde_json::from_slice(json).map_err(|error| format!("is no JWKS document: {error}"))?;
        let jwks = document.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<_> = jwks.filter_map(|jwk| JwtKey::read(&jwk)).collect();
        if keys.is_empty() {
            return Err(
                "has no key by which a signature could be checked (RSA, P-256, P-384, Ed25519)".to_owned()
            );
        }
        Ok(Self::of(keys))
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// The key of that id that may sign by `algorithm`. A token may leave the id out where there is no choice.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let mut fitting = self.keys.iter().filter(|key| key.algorithms.contains(&algorithm));
        match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)).map(|key| &key.key),
            None => {
                let only = fitting.next()?;
                fitting.next().is_none().then_some(&only.key)
            }
        }
    }
}

/// The keys as they are now, shared with who keeps them fresh.
#[derive(Debug)]
pub struct JwtKeys {
    set: ArcSwap<KeySet>,
    wanted: Notify,
}

impl Default for JwtKeys {
    /// None yet.
    fn default() -> Self {
        Self { set: ArcSwap::from_pointee(KeySet::of(Vec::new())), wanted: Notify::new() }
    }
}

impl JwtKeys {
    /// Whether there are any.
    #[must_use]
    pub fn are_read(&self) -> bool {
        !self.set.load().keys.is_empty()
    }

    /// Puts others in their place.
    pub fn replace(&self, set: KeySet) {
        self.set.store(Arc::new(set));
    }

    /// Waits until a token has named a key that is not here.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }

    pub(super) fn load(&self) -> Guard<Arc<KeySet>> {
        self.set.load()
    }
}
