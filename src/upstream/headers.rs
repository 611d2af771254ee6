//! Which header fields pass, in both directions.
//!
//! The rule is to let everything through that belongs to the two ends, and to take out what belongs to one
//! connection (RFC 9110 §7.6.1), what carries our secrets, and what only the gateway may say. Fields are taken out in
//! one pass over the names, in place; the map is not rebuilt.

use std::fmt::Write as _;

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName,
    HeaderValue, TE, UPGRADE,
};
use http::{Version, request};
use smallvec::SmallVec;

use crate::request::{Forwarding, Kind, Trace};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

type Names = SmallVec<[HeaderName; 8]>;

/// Fields that speak of one connection only. `trailer` is not among them: it announces fields that are passed on.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Fields by which a proxy says whom it speaks for: believed from trusted proxies only.
fn speaks_for_another(name: &str) -> bool {
    name == "forwarded" || name == "x-real-ip" || name.starts_with("x-forwarded-")
}

/// Adds the fields that a `Connection` field names.
fn add_named(value: &HeaderValue, names: &mut Names) {
    for token in value.as_bytes().split(|byte| *byte == b',') {
        let token = token.trim_ascii();
        // These two are ordinary words there, and hop-by-hop by themselves.
        if token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close") {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(token) {
            names.push(name);
        }
    }
}

fn take_out(headers: &mut HeaderMap, names: Names) {
    for name in names {
        headers.remove(name);
    }
}

/// What the way in said about a request, for the fields of the way out.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    /// The kind of call.
    pub(crate) kind: Kind,
    /// Who sent it; without it nothing is believed and nothing is added.
    pub(crate) forwarding: Option<&'a Forwarding>,
    /// Whether the client's own credentials may pass.
    pub(crate) forward_authorization: bool,
    /// The request id.
    pub(crate) id: &'a HeaderValue,
    /// The request's place in a trace, if it has one.
    pub(crate) trace: Option<Trace>,
}

impl Outgoing<'_> {
    /// Turns the fields a client sent into those that any worker may see.
    pub(crate) fn apply(&self, head: &mut request::Parts) {
        let trusted = self.forwarding.is_some_and(|from| from.trusted_proxy);
        let host = head.headers.remove(HOST).or_else(|| {
            // HTTP/2 says it in the target.
            head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
        });

        let mut out = Names::new();
        let (mut wants_trailers, mut forwarded) = (false, false);
        for (name, value) in &head.headers {
            let text = name.as_str();
            match text {
                "connection" => add_named(value, &mut out),
                "te" => wants_trailers |= accepts_trailers(value),
                "x-forwarded-for" => forwarded = trusted,
                _ => {}
            }
            let ours = text.starts_with("x-traffic-dam-");
            // The body goes out whole and with its own length; the worker is never asked for a `100 Continue`.
            let about_the_body = text == "content-length" || text == "expect";
            if ours || about_the_body || is_hop_by_hop(text) || (!trusted && speaks_for_another(text)) {
                out.push(name.clone());
            }
        }
        if let Some(from) = self.forwarding {
            out.extend(from.strip.iter().cloned());
        }
        if !self.forward_authorization {
            out.push(AUTHORIZATION);
            out.push(X_API_KEY);
        }
        take_out(&mut head.headers, out);

        let headers = &mut head.headers;
        if head.version == Version::HTTP_2 {
            join_cookies(headers);
        }
        if wants_trailers {
            headers.insert(TE, TRAILERS);
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
        if self.kind.has_demand() {
            headers.insert(ACCEPT_ENCODING, IDENTITY);
        }
        if let Some(from) = self.forwarding {
            say_for_whom(headers, from, forwarded, host);
        }
        if let Some(trace) = self.trace.filter(|trace| trace.leads) {
            headers.insert(TRACEPARENT, trace.header());
        }
        headers.insert(X_REQUEST_ID, self.id.clone());
    }
}

fn accepts_trailers(value: &HeaderValue) -> bool {
    let mut tokens = value.as_bytes().split(|byte| *byte == b',');
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// HTTP/2 may send one cookie per field; HTTP/1.1 wants them in one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let parts: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
            headers.insert(COOKIE, joined);
        }
    }
}

/// `forwarded`: a trusted proxy says for whom it speaks. What an untrusted client said of that is already gone.
fn say_for_whom(headers: &mut HeaderMap, from: &Forwarding, forwarded: bool, host: Option<HeaderValue>) {
    let mut chain = String::new();
    if forwarded {
        for value in headers.get_all(X_FORWARDED_FOR) {
            if let Ok(value) = value.to_str() {
                chain.push_str(value);
                chain.push_str(", ");
            }
        }
    }
    // Writing into a string never fails.
    let _infallible = write!(chain, "{}", from.peer_ip);
    if let Ok(chain) = HeaderValue::from_str(&chain) {
        headers.insert(X_FORWARDED_FOR, chain);
    }
    headers
        .entry(X_FORWARDED_PROTO)
        .or_insert_with(|| HeaderValue::from_static(if from.tls { "https" } else { "http" }));
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
}

/// Turns the fields a worker sent into those the client may see.
pub(crate) fn answer(headers: &mut HeaderMap, id: &HeaderValue) {
    let mut out = Names::new();
    for (name, value) in headers.iter() {
        let text = name.as_str();
        if text == "connection" {
            add_named(value, &mut out);
        }
        if is_hop_by_hop(text) || is_ours(text) {
            out.push(name.clone());
        }
    }
    take_out(headers, out);
    headers.insert(X_REQUEST_ID, id.clone());
}

/// Says which protocol the connection changes to; [`answer`] and [`Outgoing::apply`] take that out.
pub(crate) fn switch_to(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Fields that only the gateway may say to a client.
fn is_ours(name: &str) -> bool {
    name.starts_with("x-traffic-dam-") || name.starts_with("x-ratelimit-")
}

/// Takes what a worker must not say out of its trailers.
pub(crate) fn trailers(fields: &mut HeaderMap) {
    let out: Names = fields
        .keys()
        .filter(|name| is_ours(name.as_str()) || is_hop_by_hop(name.as_str()) || *name == CONTENT_LENGTH)
        .cloned()
        .collect();
    take_out(fields, out);
}
