//! Identifies the caller of a request and its priority.
//!
//! The sources are tried in the configured order; the first that yields an identity wins. Only
//! proofs that a client cannot invent yield one: a key that matches a configured secret, a token
//! signed by its issuer, a header set by a trusted proxy, or the address. An unknown key yields no
//! identity; otherwise a caller would get a new quota for each key that it invents.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use base64::{Engine, alphabet};
use futures_util::future::{Either, Ready, ready};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, Request};
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use subtle::ConstantTimeEq;
use tower::{Layer, Service};

use super::hop::address_of_hop;
use super::jwt::{TokenError, Tokens};
use crate::clock::unix_seconds;
use crate::net::fields::elements_of;
use crate::redis::callers::StoredCallers;
use crate::refusal::{Reason, Refusal};
use crate::request::network_of;
use crate::request::{
    Caller, CallerId, CallerNamespace, CallerRights, Class, Forwarding, KeyOwner, Peer, RequestRecord,
};

/// Request header that lowers the request's own class.
const CLASS_HEADER: HeaderName = HeaderName::from_static("x-traffic-dam-class");
const API_KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Tokens of one request whose signatures are checked. A check costs 50 µs or more, and a head has
/// room for a hundred tokens; no client sends more than two.
const TOKENS_CHECKED: usize = 8;

/// A source of identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// A known API key, or a signed token (JWT) in its place.
    ApiKey,
    /// A header that a trusted proxy sets.
    Header(HeaderName),
    /// The client's address.
    Ip,
}

/// Settings of caller identification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerSettings {
    /// Sources, in the order they are tried.
    pub from: Vec<IdentitySource>,
    /// Networks whose forwarding and identity headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Headers that may carry a key, in the order they are tried; in `authorization` it follows
    /// `Bearer`.
    pub key_headers: Vec<HeaderName>,
    /// `true` if requests without a known key or token are let in.
    pub anonymous: bool,
    /// Class of callers that have none configured; a request may lower it, not raise it.
    pub default_class: Class,
    /// `true` if the client's own credentials are forwarded to the worker.
    pub forward_authorization: bool,
    /// The configured keys.
    pub keys: Vec<KeyOwner>,
}

impl Default for CallerSettings {
    fn default() -> Self {
        Self {
            from: vec![IdentitySource::ApiKey, IdentitySource::Ip],
            trusted_proxies: Vec::new(),
            key_headers: vec![AUTHORIZATION, API_KEY_HEADER],
            anonymous: true,
            default_class: Class::default(),
            forward_authorization: true,
            keys: Vec::new(),
        }
    }
}

/// Finds the caller of a request by its key, token, headers or address.
#[derive(Debug)]
pub struct KnownCallers {
    settings: CallerSettings,
    // Indexed by the digest of the secret: the time of a lookup reveals nothing about the secret.
    by_digest: HashMap<[u8; 32], usize>,
    ids: Vec<Arc<str>>,
    stored: Option<Arc<StoredCallers>>,
    tokens: Option<Tokens>,
}

/// The owner of a request's key or token.
#[derive(Debug)]
struct Owner {
    /// The caller's id, with its namespace.
    id: Arc<str>,
    rights: CallerRights,
}

/// The credentials of a request, and their owner.
#[derive(Debug, Default)]
struct ShownCredentials {
    /// The header that carried it.
    header: Option<HeaderName>,
    owner: Option<Owner>,
    /// Why the token is not accepted, if the credential is a token.
    fault: Option<TokenError>,
}

impl KnownCallers {
    /// Indexes the configured keys.
    #[must_use]
    pub fn new(settings: CallerSettings) -> Self {
        let by_digest = settings.keys.iter().enumerate().map(|(index, key)| (key.sha256, index)).collect();
        let ids = settings.keys.iter().map(|key| caller_id(CallerNamespace::Key, &key.id)).collect();
        Self { settings, by_digest, ids, stored: None, tokens: None }
    }

    /// Adds the callers stored in Redis. Configured keys take precedence.
    #[must_use]
    pub(crate) fn with_stored(mut self, stored: Option<Arc<StoredCallers>>) -> Self {
        self.stored = stored;
        self
    }

    /// Adds callers named by signed tokens. Keys take precedence.
    #[must_use]
    pub(crate) fn with_tokens(mut self, tokens: Option<Tokens>) -> Self {
        self.tokens = tokens;
        self
    }

    /// Returns the caller of a request with these headers from `peer`, and how to forward it.
    ///
    /// # Errors
    /// `unauthorized` if no key matches and anonymous callers are refused, or if no source yields
    /// an identity. `bad_request` if the class header names no class.
    pub(crate) fn identify(&self, headers: &HeaderMap, peer: Peer) -> Result<(Caller, Forwarding), Refusal> {
        let trusted = self.trusts(peer.addr.ip());
        let client_ip = if trusted { self.client_behind(headers, peer.addr.ip()) } else { peer.addr.ip() };
        let ShownCredentials { header: carrier, owner, fault } = self.credentials(headers);
        let mut strip = match (&owner, &carrier) {
            _ if !self.settings.forward_authorization => {
                self.settings.key_headers.iter().cloned().chain([AUTHORIZATION, API_KEY_HEADER]).collect()
            }
            (Some(_), Some(carrier)) => SmallVec::from_iter([carrier.clone()]),
            _ => SmallVec::new(),
        };
        self.add_fields_with_secrets(headers, &mut strip);
        let forwarding =
            Forwarding { strip, peer_ip: peer.addr.ip(), client_ip, tls: peer.tls, trusted_proxy: trusted };

        if owner.is_none() && !self.settings.anonymous {
            let message = match (carrier, fault) {
                (Some(carrier), Some(fault)) => {
                    format!("The token in the header `{carrier}` is not accepted: {fault}.")
                }
                (Some(carrier), None) => {
                    format!("The API key in the header `{carrier}` is not known to this gateway.")
                }
                (None, _) => format!("No API key was given; send it in {}.", self.key_places()),
            };
            return Err(Refusal::new(Reason::Unauthorized, message));
        }
        let identity = self.settings.from.iter().find_map(|source| match source {
            IdentitySource::ApiKey => owner.as_ref().map(|owner| Arc::clone(&owner.id)),
            IdentitySource::Header(header) if trusted => {
                identity_header(headers, header).map(|name| caller_id(CallerNamespace::Header, name))
            }
            IdentitySource::Header(_) => None,
            IdentitySource::Ip => Some(address_id(client_ip).into()),
        });
        let Some(id) = identity else {
            return Err(Refusal::new(
                Reason::Unauthorized,
                "None of the sources in `callers.from` identifies this request.",
            ));
        };
        let rights = owner.map(|owner| owner.rights).unwrap_or_default();
        let ceiling = rights.class.unwrap_or(self.settings.default_class);
        let class = match headers.get(&CLASS_HEADER) {
            None => ceiling,
            Some(value) => {
                value.to_str().ok().and_then(Class::parse).map(|asked| asked.min(ceiling)).ok_or_else(
                    || {
                        Refusal::new(
                            Reason::BadRequest,
                            "The header `x-traffic-dam-class` must be `critical`, `interactive` or `batch`.",
                        )
                        .with_param("x-traffic-dam-class")
                    },
                )?
            }
        };
        Ok((Caller::with_rights(id, class, rights), forwarding))
    }

    /// Returns `true` if `address` is a trusted proxy.
    #[must_use]
    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.settings.trusted_proxies.iter().any(|network| network.contains(&address))
    }

    fn key_places(&self) -> String {
        let place = |header: &HeaderName| match header == AUTHORIZATION {
            true => "`authorization: Bearer …`".to_owned(),
            false => format!("`{header}`"),
        };
        self.settings.key_headers.iter().map(place).collect::<Vec<_>>().join(" or ")
    }

    /// Returns the first credential that has an owner, or else one to report as unknown or wrong.
    fn credentials(&self, headers: &HeaderMap) -> ShownCredentials {
        let mut shown = ShownCredentials::default();
        for place in &self.settings.key_headers {
            let Some(value) = headers.get(place) else { continue };
            let secret =
                if place == AUTHORIZATION { bearer(value.as_bytes()) } else { Some(value.as_bytes()) };
            // A header without a secret proves nothing, whatever the settings hold.
            if secret.unwrap_or(value.as_bytes()).is_empty() {
                continue;
            }
            shown.header.get_or_insert_with(|| place.clone());
            if !self.knows_secrets() {
                continue;
            }
            let Some(secret) = secret else { continue };
            let digest: [u8; 32] = Sha256::digest(secret).into();
            let owner =
                self.owner_of_key(&digest).or_else(|| match self.owner_of_token(secret, &digest)? {
                    Ok(owner) => Some(owner),
                    Err(fault) => {
                        (shown.header, shown.fault) = (Some(place.clone()), Some(fault));
                        None
                    }
                });
            if owner.is_some() {
                return ShownCredentials { header: Some(place.clone()), owner, fault: None };
            }
        }
        shown
    }

    /// Returns `true` if any key or token can have an owner.
    fn knows_secrets(&self) -> bool {
        !self.by_digest.is_empty() || self.stored.is_some() || self.tokens.is_some()
    }

    /// Adds the fields that hold a key or token with an owner. A client may send a second one, or the
    /// same one twice, in a line or field where this gateway looks for none and a worker would.
    fn add_fields_with_secrets(&self, headers: &HeaderMap, strip: &mut SmallVec<[HeaderName; 2]>) {
        if !self.knows_secrets() {
            return;
        }
        let mut tokens = 0;
        for (name, value) in headers {
            if is_never_secret(name.as_str()) || strip.contains(name) {
                continue;
            }
            let mut has_owner = |secret: &[u8]| {
                let digest: [u8; 32] = Sha256::digest(secret).into();
                if self.owner_of_key(&digest).is_some() {
                    return true;
                }
                if self.tokens.is_none() || !looks_like_a_token(secret) {
                    return false;
                }
                tokens += 1;
                tokens > TOKENS_CHECKED || matches!(self.owner_of_token(secret, &digest), Some(Ok(_)))
            };
            let value = value.as_bytes();
            if has_owner(value) || after_scheme(value).is_some_and(has_owner) {
                strip.push(name.clone());
            }
        }
    }

    fn owner_of_key(&self, digest: &[u8; 32]) -> Option<Owner> {
        let is_own = |key: &KeyOwner| bool::from(key.sha256.ct_eq(digest));
        let configured = self.by_digest.get(digest).and_then(|index| {
            let key = self.settings.keys.get(*index).filter(|key| is_own(key))?;
            Some(Owner { id: Arc::clone(self.ids.get(*index)?), rights: key.rights.clone() })
        });
        configured.or_else(|| {
            let key = self.stored.as_ref()?.find(digest).filter(|key| is_own(key))?;
            Some(Owner { id: caller_id(CallerNamespace::Key, &key.id), rights: key.rights.clone() })
        })
    }

    /// Returns `None` if the secret is no token, or if tokens are not configured.
    fn owner_of_token(&self, secret: &[u8], digest: &[u8; 32]) -> Option<Result<Owner, TokenError>> {
        let tokens = self.tokens.as_ref().filter(|_| looks_like_a_token(secret))?;
        Some(tokens.check(secret, digest, unix_seconds()).map(|bearer| Owner {
            id: caller_id(CallerNamespace::Token, &bearer.id),
            rights: bearer.rights.clone(),
        }))
    }

    /// Returns the client's address behind trusted proxies: the last forwarded hop that is not one
    /// of them. Untrusted senders wrote the hops before it.
    fn client_behind(&self, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
        let mut client = peer;
        for hop in elements_of(headers, &FORWARDED_FOR).rev() {
            let Some(address) = address_of_hop(hop) else { break };
            client = address;
            if !self.trusts(address) {
                break;
            }
        }
        client
    }
}

fn caller_id(namespace: CallerNamespace, name: &str) -> Arc<str> {
    CallerId { namespace, name }.to_string().into()
}

/// Returns the secret after `Bearer`, which may be empty; `None` for another scheme.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let ends = rest.first().is_none_or(|byte| *byte == b' ');
    (ends && scheme.eq_ignore_ascii_case(b"bearer")).then(|| rest.trim_ascii())
}

/// Returns the text after the first blank, as of `Bearer KEY` or `Token KEY`; `None` without a blank.
fn after_scheme(value: &[u8]) -> Option<&[u8]> {
    let blank = value.iter().position(|byte| *byte == b' ')?;
    value.get(blank..).map(<[u8]>::trim_ascii).filter(|secret| !secret.is_empty())
}

/// Returns `true` for fields that clients send with each request and that hold no secret. They are
/// most of a head, and a digest of each would cost more than all else that is done with it.
fn is_never_secret(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "accept"
            | "accept-encoding"
            | "accept-language"
            | "anthropic-version"
            | "connection"
            | "content-length"
            | "content-type"
            | "traceparent"
            | "transfer-encoding"
            | "user-agent"
            | "x-request-id"
    ) || name.starts_with("x-stainless-")
        || name.starts_with("x-forwarded-")
}

/// Base64 that ignores trailing bits, so that a truncated token is recognized and reported as one.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&alphabet::URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// Returns `true` if `secret` has three parts like a token, and the first is base64 of the
/// beginning of a JSON object. White space may come before the `{` (RFC 7519 §3).
fn looks_like_a_token(secret: &[u8]) -> bool {
    /// Whole base64 groups; longer than the white space before the first member of any JWT header.
    const LOOKED_AT: usize = 64;
    let mut parts = secret.split(|byte| *byte == b'.');
    let (Some(head), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let Ok(head) = LENIENT.decode(head.get(..LOOKED_AT).unwrap_or(head)) else { return false };
    head.trim_ascii_start().first() == Some(&b'{')
}

/// Returns an identity header's value if it is short and printable, for keys and log lines.
fn identity_header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    const LONGEST: usize = 256;
    let value = headers.get(name)?.to_str().ok()?.trim();
    (!value.is_empty() && value.len() <= LONGEST).then_some(value)
}

/// Returns the [`CallerId`] of an address; for IPv6 the /64 network, which one subscriber has.
pub(crate) fn address_id(address: IpAddr) -> String {
    match network_of(address) {
        IpAddr::V4(v4) => format!("ip:{v4}"),
        IpAddr::V6(v6) => format!("ip:{v6}/64"),
    }
}

/// Layer for [`Identify`].
#[derive(Clone, Debug)]
pub struct IdentifyLayer(Arc<KnownCallers>);

impl IdentifyLayer {
    /// Creates a layer that identifies callers by `callers`.
    #[must_use]
    pub const fn new(callers: Arc<KnownCallers>) -> Self {
        Self(callers)
    }
}

impl<S> Layer<S> for IdentifyLayer {
    type Service = Identify<S>;

    fn layer(&self, inner: S) -> Identify<S> {
        Identify { callers: Arc::clone(&self.0), inner }
    }
}

/// Service that adds [`Caller`] and [`Forwarding`] to requests. Needs the listener's [`Peer`].
#[derive(Clone, Debug)]
pub struct Identify<S> {
    callers: Arc<KnownCallers>,
    inner: S,
}

impl<S, B> Service<Request<B>> for Identify<S>
where
    S: Service<Request<B>>,
    S::Error: From<Refusal>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Peer>().copied().unwrap_or_default();
        match self.callers.identify(request.headers(), peer) {
            Ok((caller, forwarding)) => {
                if let Some(record) = request.extensions().get::<Arc<RequestRecord>>() {
                    record.set_caller(&caller);
                }
                request.extensions_mut().insert(caller);
                request.extensions_mut().insert(forwarding);
                Either::Left(self.inner.call(request))
            }
            Err(refusal) => Either::Right(ready(Err(refusal.into()))),
        }
    }
}

#[cfg(test)]
mod tests;
