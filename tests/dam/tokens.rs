//! Callers that send a signed token instead of a key.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair as CertificateKey};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use traffic_dam::clock::unix_seconds;

use super::client::{ask, get, request};
use super::rig::{Dam, Worker, before, eventually};

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A signer with a key of this name.
struct Signer {
    kid: &'static str,
    pair: EcdsaKeyPair,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        let (scheme, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let made = EcdsaKeyPair::generate_pkcs8(scheme, &random).unwrap();
        Self { kid, pair: EcdsaKeyPair::from_pkcs8(scheme, made.as_ref(), &random).unwrap() }
    }

    fn document(&self) -> String {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": self.kid, "x": base64(x), "y": base64(y) }] })
            .to_string()
    }

    fn token(&self, claims: Value) -> String {
        let mut all = json!({ "iss": "https://id.example/", "aud": "dam", "exp": unix_seconds() + 60 });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let head = json!({ "alg": "ES256", "kid": self.kid });
        let message = format!("{}.{}", base64(head.to_string()), base64(all.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", base64(signature))
    }
}

fn settings(worker: &Worker, jwks: &str) -> String {
    let rest = format!(
        "callers:
  anonymous: refuse
  jwt:
    audience: dam
    issuer: https://id.example/
    claims: {{ team: org, class: tier }}
    {jwks}
  keys: [{{ id: old, sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae }}]
limits:
  - {{ name: each, algorithm: token_bucket, per: caller, rate: 1/h, burst: 3 }}
  - {{ name: reds, algorithm: token_bucket, per: team, rate: 1/h, burst: 4 }}
log: {{ sample: 0 }}\n"
    );
    before(&[worker.entry("w1", 8)], &rest)
}

async fn call(dam: &Dam, token: &str) -> (u16, String) {
    let answer = dam.ask(request("GET /v1/models", &[&format!("authorization: Bearer {token}")], "")).await;
    (answer.status, answer.text().to_owned())
}

#[tokio::test]
async fn a_token_is_as_good_as_a_key() {
    let (folder, worker, signer) = (tempfile::tempdir().unwrap(), Worker::start(8), Signer::new("a"));
    let file = folder.path().join("keys.json");
    std::fs::write(&file, signer.document()).unwrap();
    let dam = Dam::start(&settings(&worker, &format!("jwks: \"{}\"", file.display())));
    assert_eq!(call(&dam, "foo").await.0, 200, "the key of old");
    // All tokens of a caller identify it, and callers of a team share the team's quota.
    let ada = |nonce: u32| signer.token(json!({ "sub": "ada", "org": "red", "nonce": nonce }));
    for nonce in 0..3 {
        assert_eq!(call(&dam, &ada(nonce)).await.0, 200);
    }
    let (status, text) = call(&dam, &ada(4)).await;
    assert!(status == 429 && text.contains("Rule 'each'"), "{text}");
    let bob = signer.token(json!({ "sub": "bob", "org": "red" }));
    assert_eq!(call(&dam, &bob).await.0, 200);
    let (status, text) = call(&dam, &bob).await;
    assert!(status == 429 && text.contains("Rule 'reds'"), "{text}");
    assert!(!worker.last().await["headers"].to_string().contains("Bearer"), "no token reaches a worker");

    let late = signer.token(json!({ "sub": "ada", "exp": unix_seconds() - 60 }));
    for (token, words) in [
        (late.as_str(), "`authorization` is not accepted: it has expired"),
        (&Signer::new("a").token(json!({ "sub": "ada" })), "its signature is wrong"),
        ("eyJ.a.b", "it cannot be parsed"),
        ("bar", "The API key in the header `authorization` is not known"),
    ] {
        let (status, text) = call(&dam, token).await;
        assert!(status == 401 && text.contains(words), "{status} {text}");
        assert!(!text.contains(token), "{text}");
    }
}

/// An issuer's server, which serves one document at a time.
struct Shop {
    url: String,
    document: Arc<Mutex<String>>,
    visits: Arc<AtomicUsize>,
    folder: TempDir,
}

impl Shop {
    async fn open(document: String) -> Self {
        let authority_key = CertificateKey::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(params, authority_key);
        let key = CertificateKey::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = traffic_dam::net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (document, visits) = (Arc::new(Mutex::new(document)), Arc::new(AtomicUsize::new(0)));
        let (shown, counted) = (Arc::clone(&document), Arc::clone(&visits));
        tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let Ok(mut socket) = acceptor.accept(socket).await else { continue };
                counted.fetch_add(1, Ordering::Relaxed);
                let mut head = [0; 4096];
                socket.read(&mut head).await.unwrap_or_default();
                let text = shown.lock().clone();
                let (status, length) = if text.is_empty() { (500, 0) } else { (200, text.len()) };
                let answer = format!(
                    "HTTP/1.1 {status} .\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
                );
                socket.write_all(answer.as_bytes()).await.unwrap_or_default();
                socket.shutdown().await.unwrap_or_default();
            }
        });
        Self { url: format!("https://localhost:{port}/keys?v=1"), document, visits, folder }
    }

    fn show(&self, document: String) {
        *self.document.lock() = document;
    }

    fn visits(&self) -> usize {
        self.visits.load(Ordering::Relaxed)
    }

    fn setting(&self, more: &str) -> String {
        format!(
            "jwks: \"{}\"\n    ca: \"{}\"\n    {more}",
            self.url,
            self.folder.path().join("ca.pem").display()
        )
    }
}

async fn ready(dam: &Dam) -> bool {
    ask(dam.admin, get("/readyz")).await.status == 200
}

#[tokio::test]
async fn keys_are_fetched_and_the_last_good_ones_stay() {
    let (worker, old, new) = (Worker::start(8), Signer::new("a"), Signer::new("b"));
    let shop = Shop::open(String::new()).await;
    let dam = Dam::start(&settings(&worker, &shop.setting("refresh: 1s")));
    eventually("it has asked", async || shop.visits() > 1).await;
    assert!(!ready(&dam).await, "nobody would be known");
    shop.show(old.document());
    eventually("the keys are there", async || ready(&dam).await).await;
    let (of_old, of_new) = (old.token(json!({ "sub": "ada" })), new.token(json!({ "sub": "bob" })));
    assert_eq!(call(&dam, &of_old).await.0, 200);

    shop.show(String::new());
    let visits = shop.visits();
    eventually("it has asked in vain", async || shop.visits() > visits + 2).await;
    assert_eq!(call(&dam, &of_old).await.0, 200, "what was read last goes on");

    shop.show(new.document());
    eventually("the keys changed", async || call(&dam, &of_old).await.0 == 401).await;
    assert_eq!(call(&dam, &of_new).await.0, 200);
}

#[tokio::test]
async fn an_unknown_key_has_the_keys_fetched_once_in_a_while() {
    let (worker, old, new) = (Worker::start(8), Signer::new("a"), Signer::new("b"));
    let shop = Shop::open(old.document()).await;
    // It fetches them every hour; on demand, at most every two minutes.
    let dam = Dam::start(&settings(&worker, &shop.setting("refresh: 1h")));
    eventually("the keys are there", async || ready(&dam).await).await;
    shop.show(new.document());
    for count in 0..50 {
        let strange = new.token(json!({ "sub": "bob", "count": count }));
        let (status, text) = call(&dam, &strange).await;
        assert!(status == 401 && text.contains("its signing key is not known"), "{text}");
    }
    assert_eq!(shop.visits(), 1);

    // Here it may fetch again after a fifth of a second.
    let dam = Dam::start(&settings(&worker, &shop.setting("refresh: 6s")));
    eventually("the keys are there", async || ready(&dam).await).await;
    shop.show(old.document());
    let strange = old.token(json!({ "sub": "ada" }));
    eventually("a key that was asked for", async || call(&dam, &strange).await.0 == 200).await;
}
