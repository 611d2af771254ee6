use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::*;

const NOW: u64 = 1_700_000_000;

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn random<T>(make: impl FnOnce(&SystemRandom) -> T) -> T {
    make(&SystemRandom::new())
}

struct Curve(EcdsaKeyPair);

impl Curve {
    fn new() -> Self {
        let scheme = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = random(|random| {
            let made = EcdsaKeyPair::generate_pkcs8(scheme, random).unwrap();
            EcdsaKeyPair::from_pkcs8(scheme, made.as_ref(), random).unwrap()
        });
        Self(pair)
    }

    fn point(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn jwk(&self, kid: &str) -> Value {
        let (x, y) = self.point()[1..].split_at(32);
        json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": base64(x), "y": base64(y) })
    }

    fn token(&self, head: &Value, claims: &Value) -> String {
        signed(head, claims, |message| {
            random(|random| self.0.sign(random, message).unwrap().as_ref().to_vec())
        })
    }
}

fn signed(head: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", base64(head.to_string()), base64(claims.to_string()));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", base64(signature))
}

fn head() -> Value {
    json!({ "alg": "ES256", "kid": "a", "typ": "JWT" })
}

fn claims() -> Value {
    json!({ "iss": "https://id.example/", "aud": "dam", "sub": "ada", "tier": "batch", "org": "red", "exp": NOW + 60 })
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

fn without(mut object: Value, name: &str) -> Value {
    object.as_object_mut().unwrap().remove(name);
    object
}

fn tokens(jwks: &[Value]) -> Tokens {
    let keys = JwtKeys::default();
    keys.replace(KeySet::read(json!({ "keys": jwks }).to_string().as_bytes()).unwrap());
    let settings = TokenSettings {
        algorithms: vec![Algorithm::ES256, Algorithm::RS256, Algorithm::PS256, Algorithm::EdDSA],
        audience: vec!["dam".into(), "both".into()],
        issuer: vec!["https://id.example/".into()],
        claims: Claims {
            caller: "sub".into(),
            class: Some("tier".into()),
            team: Some("org".into()),
            models: Some("models".into()),
            external: Some("paid".into()),
        },
        leeway: Duration::from_secs(30),
    };
    Tokens::new(settings, Arc::new(keys))
}

fn check(tokens: &Tokens, token: &str, now: u64) -> Result<String, TokenError> {
    let digest = Sha256::digest(token).into();
    tokens.check(token.as_bytes(), &digest, now).map(|bearer| bearer.id.to_string())
}

#[test]
fn a_token_says_who_asks() {
    let curve = Curve::new();
    let tokens = tokens(&[curve.jwk("a")]);
    let token = curve.token(&head(), &claims());
    for _ in 0..2 {
        let bearer = tokens.check(token.as_bytes(), &Sha256::digest(&token).into(), NOW).unwrap();
        let rights =
            CallerRights { class: Some(Class::Batch), team: Some("red".into()), ..CallerRights::default() };
        assert_eq!(*bearer, Bearer { id: "ada".into(), rights });
    }
    for (models, patterns) in [
        (json!(["qwen*", "assistant", 7]), &["qwen*", "assistant"][..]),
        (json!("qwen*  assistant"), &["qwen*", "assistant"]),
        (json!([]), &[]),
        (json!(null), &[]),
        (json!(7), &[]),
    ] {
        let token = curve.token(&head(), &with(claims(), "models", models));
        let bearer = tokens.check(token.as_bytes(), &Sha256::digest(&token).into(), NOW).unwrap();
        let models: Vec<_> = bearer.rights.models.as_ref().unwrap().patterns().map(|text| &**text).collect();
        assert_eq!(models, patterns);
    }
    for (claim, external) in [(json!(true), true), (json!("true"), false), (json!(1), false)] {
        let token = curve.token(&head(), &with(claims(), "paid", claim));
        let bearer = tokens.check(token.as_bytes(), &Sha256::digest(&token).into(), NOW).unwrap();
        assert_eq!(bearer.rights.external, external);
    }
    let plain = without(without(claims(), "tier"), "org");
    let bare = curve.token(&without(head(), "kid"), &with(plain, "aud", json!(["x", "both"])));
    assert_eq!(check(&tokens, &bare, NOW).as_deref(), Ok("ada"), "the one key there is");
}

#[test]
fn what_is_wrong_with_a_token_is_said() {
    use TokenError::*;
    let (curve, stranger) = (Curve::new(), Curve::new());
    let tokens = tokens(&[curve.jwk("a")]);
    let made = |claims: Value| curve.token(&head(), &claims);
    let headed = |head: Value| curve.token(&head, &claims());
    let right = made(claims());
    let (message, _) = right.rsplit_once('.').unwrap();
    for (token, fault) in [
        (stranger.token(&head(), &claims()), Signature),
        (format!("{message}."), Signature),
        (message.to_owned(), Malformed),
        ("eyJ.eyJ.x".to_owned(), Malformed),
        (headed(with(head(), "alg", json!("none"))), Malformed),
        (headed(with(head(), "alg", json!("ES384"))), Algorithm),
        (headed(with(head(), "crit", json!(["exp"]))), Malformed),
        (headed(with(head(), "kid", json!("b"))), UnknownKey),
        // An algorithm that is accepted, but not by this key.
        (headed(with(head(), "alg", json!("RS256"))), UnknownKey),
        (made(with(claims(), "aud", json!("another"))), Audience),
        (made(without(claims(), "aud")), Audience),
        (made(with(claims(), "iss", json!("https://evil.example/"))), Issuer),
        (made(without(claims(), "iss")), Issuer),
        (made(without(claims(), "exp")), Expired),
        (made(with(claims(), "exp", json!("tomorrow"))), Expired),
        (made(with(claims(), "nbf", json!("tomorrow"))), NotYetValid),
        (made(without(claims(), "sub")), NoCaller),
        (made(with(claims(), "sub", json!(""))), NoCaller),
        (made(with(claims(), "sub", json!("a\nb"))), NoCaller),
        (made(with(claims(), "sub", json!("x".repeat(257)))), NoCaller),
        (made(with(claims(), "sub", json!(7))), NoCaller),
    ] {
        for _ in 0..2 {
            assert_eq!(check(&tokens, &token, NOW), Err(fault), "{token}");
        }
    }
    assert_eq!(check(&tokens, &right, NOW).as_deref(), Ok("ada"));
}

#[test]
fn a_public_key_is_no_secret() {
    let curve = Curve::new();
    let secret = hmac::Key::new(hmac::HMAC_SHA256, curve.point());
    let oct = json!({ "kty": "oct", "kid": "h", "k": base64(curve.point()) });
    let tokens = tokens(&[curve.jwk("a"), oct]);
    for kid in ["a", "h"] {
        let head = json!({ "alg": "HS256", "kid": kid });
        let forged = signed(&head, &claims(), |message| hmac::sign(&secret, message).as_ref().to_vec());
        assert_eq!(check(&tokens, &forged, NOW), Err(TokenError::Algorithm));
    }
}

#[test]
fn a_token_counts_in_its_time_and_a_little_more() {
    let curve = Curve::new();
    let tokens = tokens(&[curve.jwk("a")]);
    let token = curve.token(&head(), &with(claims(), "nbf", json!(NOW as f64 + 0.5)));
    let at = |now| check(&tokens, &token, now).map(|_| ());
    assert_eq!((at(NOW - 31), at(NOW - 30)), (Err(TokenError::NotYetValid), Ok(())));
    assert_eq!((at(NOW + 89), at(NOW + 90)), (Ok(()), Err(TokenError::Expired)));
    assert_eq!(at(NOW), Ok(()), "remembered with its times");
}

#[test]
fn new_keys_end_what_the_old_ones_signed() {
    let (old, new) = (Curve::new(), Curve::new());
    let tokens = tokens(&[old.jwk("a")]);
    let token = old.token(&head(), &claims());
    assert!(check(&tokens, &token, NOW).is_ok());
    let document = json!({ "keys": [new.jwk("a")] }).to_string();
    tokens.keys.replace(KeySet::read(document.as_bytes()).unwrap());
    assert_eq!(check(&tokens, &token, NOW), Err(TokenError::Signature));
    assert!(check(&tokens, &new.token(&head(), &claims()), NOW).is_ok());
}

#[tokio::test]
async fn a_key_that_is_not_here_is_asked_for() {
    let curve = Curve::new();
    let tokens = tokens(&[curve.jwk("a")]);
    let strange = curve.token(&with(head(), "kid", json!("b")), &claims());
    assert_eq!(check(&tokens, &strange, NOW), Err(TokenError::UnknownKey));
    tokens.keys.refresh_requested().await;
    let document = json!({ "keys": [curve.jwk("b")] }).to_string();
    tokens.keys.replace(KeySet::read(document.as_bytes()).unwrap());
    assert!(check(&tokens, &strange, NOW).is_ok());
}

/// Tokens signed by a deleted key. They expire in 2100.
const RSA: [&str; 2] = [
    "eyJhbGciOiJSUzI1NiIsImtpZCI6InIxIiwidHlwIjoiSldUIn0.eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUvIiwiYXVkIjpb\
     Im90aGVyIiwiZGFtIl0sInN1YiI6ImFkYSIsImV4cCI6NDEwMjQ0NDgwMH0.cqPWqFRZVqUnmh-DNGH7LO73XJ6sTcKKS4_N60E-\
     CTLsSGpM9Jowtjn1NVpbgWfKkCPniQr793KS54hFdSHQ3t3gnwLHL58HWcz0WP30BhFS2PCg5v-fHIuZTL1bajZHniAL6bWZsLe6\
     yJPxL-kwkUtnGPuAOhX01T9vsI61FpxSoer1-zu_RPIRy4K_YSw2jrs_n_JcIizZ14oFcHlyVkoWvK3-RLuyu_rJfrEejdtkaGLc\
     0ZIkDLEDfRLl-p6rwUZje94fo_ZQbndpg7luYodfIB7DVXmiOKQXTtFrSODUcr9Nkj94wHWfbuT-zeeOJWTfPQjllEeMtKWb0B6C\
     xw",
    "eyJhbGciOiJQUzI1NiIsImtpZCI6InIxIiwidHlwIjoiSldUIn0.eyJpc3MiOiJodHRwczovL2lkLmV4YW1wbGUvIiwiYXVkIjpb\
     Im90aGVyIiwiZGFtIl0sInN1YiI6ImFkYSIsImV4cCI6NDEwMjQ0NDgwMH0.b6vO2sOZT5Waz952mwI0uo93DrXydhLCogFP2Eck\
     BTSFHFnvY7EeJcKTyoQPpxErr3xrTPKmumk14K2BRZ7y_bPE5_eYhfEKsbo-iBhdqzY3fLeErMzeUbtQTZX1z3VtU9uSOqQKtyAY\
     1S84lPS07etAtIEV0KSuUZHKhn4FQPIExECo7w_moe6ZqpyGYbZyGq2pDQKXSmzdCF_O9URDlaZBL3MP3zVQFPKxLy_jpsB5ta0L\
     _0Hqt0bdVv6Q38Q3HHMhSyg76iQF8-NOefUwuCd5UkA8wBYEpm9QciE-zpHpwJUJbTkuxU9n62tD8DG8GC9qkgXn-zuDdyojQTsn\
     tg",
];
const MODULUS: &str = "pRzp65u5zurfE4qP4hyhgd3jZyrklR1rcBSDY5695O_ZiVdCmM-Z4wbhIVauS-9TXt_nd5IwR7Qg1jvFNdQXLWwVbQdD_a2xsCzs\
     clybGYaoY7QHZlMW1dcgr4-IVLRhMUYYoVoLpp7XXom4KZJ61vAf88c3luHzSeWDBSTyg9V1X5YsVXa_zJjbE0XKcnBA23uC8FVG\
     2UNOS_jjkwRSpkPbR13BNA8OwHtIkJTTub3hAOWgdQBBrGSlbRyOUVCLs1sLQP42asdXh-z_041_oMTEIwTKPUpzOUiqboOmlOpR\
     1WmrYxV_8oSQClTnL_wkI0kWFj2LS4nYzMDXl_DgdQ";

#[test]
fn rsa_and_ed25519_sign_too() {
    let key = json!({ "kty": "RSA", "kid": "r1", "use": "sig", "n": MODULUS, "e": "AQAB" });
    let tokens_of_both = tokens(std::slice::from_ref(&key));
    for token in RSA {
        assert_eq!(check(&tokens_of_both, token, NOW).as_deref(), Ok("ada"));
        let (message, signature) = token.rsplit_once('.').unwrap();
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        bytes[9] ^= 1;
        assert_eq!(
            check(&tokens_of_both, &format!("{message}.{}", base64(bytes)), NOW),
            Err(TokenError::Signature)
        );
    }
    let only_one = tokens(&[with(key, "alg", json!("RS256"))]);
    assert!(check(&only_one, RSA[0], NOW).is_ok());
    assert_eq!(check(&only_one, RSA[1], NOW), Err(TokenError::UnknownKey));

    let pair = random(|random| {
        Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(random).unwrap().as_ref()).unwrap()
    });
    let key = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "e", "x": base64(pair.public_key()) });
    let head = json!({ "alg": "EdDSA", "kid": "e" });
    let token = signed(&head, &claims(), |message| pair.sign(message).as_ref().to_vec());
    assert_eq!(check(&tokens(&[key]), &token, NOW).as_deref(), Ok("ada"));
}

#[test]
fn a_document_without_a_usable_key_is_refused() {
    let encrypting = with(Curve::new().jwk("a"), "use", json!("enc"));
    for (document, words) in [
        (json!("keys"), "is not a JWKS document"),
        (json!({ "keys": [] }), "has no key"),
        (json!({ "keys": [encrypting, { "kty": "new" }, 7] }), "has no key"),
    ] {
        let fault = KeySet::read(document.to_string().as_bytes()).unwrap_err();
        assert!(fault.contains(words), "{fault}");
    }
    let mixed = json!({ "keys": [{ "kty": "new" }, 7, Curve::new().jwk("a")] });
    assert!(KeySet::read(mixed.to_string().as_bytes()).is_ok(), "one that is known is enough");
}
