//! The public keys of a token issuer, read from a JWKS document.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Notify;

/// Number of the next key set. A cached check counts only for the key set that made it.
static NEXT: AtomicU64 = AtomicU64::new(0);

#[derive(Debug)]
struct JwtKey {
    id: Option<String>,
    /// The algorithms that fit the key's type, or the only one that its `alg` names.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl JwtKey {
    /// Reads the key in `jwk`; `None` if it cannot verify signatures.
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
            // A symmetric key in a public document is no secret.
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

/// The keys of one JWKS document.
#[derive(Debug)]
pub(crate) struct KeySet {
    number: u64,
    keys: Vec<JwtKey>,
}

impl KeySet {
    fn of(keys: Vec<JwtKey>) -> Self {
        Self { number: NEXT.fetch_add(1, Ordering::Relaxed), keys }
    }

    /// Reads a JWKS document. Keys of unknown types are left out.
    ///
    /// # Errors
    /// If it is no JWKS document, or has no usable key.
    pub(crate) fn read(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document =
            serde_json::from_slice(json).map_err(|error| format!("is not a JWKS document: {error}"))?;
        let jwks = document.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<_> = jwks.filter_map(|jwk| JwtKey::read(&jwk)).collect();
        if keys.is_empty() {
            return Err("has no key that can verify a signature (RSA, P-256, P-384, Ed25519)".to_owned());
        }
        Ok(Self::of(keys))
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Finds the key with this id for `algorithm`. `id` may be `None` if only one key fits.
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

/// The current keys, shared with the task that refreshes them.
#[derive(Debug)]
pub(crate) struct JwtKeys {
    set: ArcSwap<KeySet>,
    wanted: Notify,
}

impl Default for JwtKeys {
    /// Creates an empty key set.
    fn default() -> Self {
        Self { set: ArcSwap::from_pointee(KeySet::of(Vec::new())), wanted: Notify::new() }
    }
}

impl JwtKeys {
    /// Returns `true` if there are keys.
    #[must_use]
    pub(crate) fn is_loaded(&self) -> bool {
        !self.set.load().keys.is_empty()
    }

    /// Replaces the keys.
    pub(crate) fn replace(&self, set: KeySet) {
        self.set.store(Arc::new(set));
    }

    /// Waits until a token names an unknown key.
    pub(crate) async fn refresh_requested(&self) {
        self.wanted.notified().await;
    }

    pub(super) fn request_refresh(&self) {
        self.wanted.notify_one();
    }

    pub(super) fn load(&self) -> Guard<Arc<KeySet>> {
        self.set.load()
    }
}
