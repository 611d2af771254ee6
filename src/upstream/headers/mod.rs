//! Which header fields pass, in both directions.
//!
//! Fields that concern the two ends pass. Removed are fields that concern one connection (RFC 9110
//! §7.6.1), carry the gateway's secrets, or are reserved to the gateway. Fields are removed in
//! place in one pass over the names; the map is not rebuilt.

use std::net::IpAddr;

use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName,
    HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Version, request};
use smallvec::SmallVec;

use crate::net::fields::{elements, elements_of};
use crate::openai::headers::WORKER;
use crate::request::{AnswerHeaders, Forwarding, Kind, Trace};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Header with the name under which a worker serves the model.
const MODEL: HeaderName = HeaderName::from_static("x-traffic-dam-model");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

type HeaderNames = SmallVec<[HeaderName; 8]>;

/// Fields that concern one connection. `trailer` is none: it announces fields that are passed on.
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

/// Fields in which a proxy names its client: believed from trusted proxies only.
fn speaks_for_another(name: &str) -> bool {
    name == "forwarded" || name == "x-real-ip" || name.starts_with("x-forwarded-")
}

/// Fields that some servers confuse with others, or that change the request after it was judged.
/// CGI and WSGI map `_` and `-` to the same variable, so `x_forwarded_for` would be trusted.
fn is_ambiguous(name: &str) -> bool {
    name.contains('_') || matches!(name, "x-http-method-override" | "x-http-method" | "x-method-override")
}

/// CORS fields of a worker: only `cors.origins` decides which other origins may read responses.
fn opens_to_pages(name: &str) -> bool {
    name.starts_with("access-control-") || name == "timing-allow-origin"
}

/// Fields about the worker's own address, which clients cannot reach.
fn is_of_the_origin(name: &str) -> bool {
    name == "alt-svc"
}

/// Adds the field names that a `Connection` field lists.
fn add_named(value: &HeaderValue, names: &mut HeaderNames) {
    for token in elements(value) {
        // These two are common values of the field, and hop-by-hop anyway.
        if token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close") {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(token) {
            names.push(name);
        }
    }
}

fn take_out(headers: &mut HeaderMap, names: HeaderNames) {
    for name in names {
        headers.remove(name);
    }
}

/// Facts about a request that decide the fields of the forwarded request.
#[derive(Debug)]
pub(crate) struct ForwardedFacts<'a> {
    pub(crate) kind: Kind,
    /// Sender of the request; with `None` nothing is trusted and nothing is added.
    pub(crate) forwarding: Option<&'a Forwarding>,
    /// `true` if the client's own credentials pass.
    pub(crate) forward_authorization: bool,
    pub(crate) id: &'a HeaderValue,
    /// Trace context, if any.
    pub(crate) trace: Option<Trace>,
}

impl ForwardedFacts<'_> {
    /// Rewrites a client's headers into those for any worker.
    pub(crate) fn apply(&self, head: &mut request::Parts) {
        let trusted = self.forwarding.is_some_and(|from| from.trusted_proxy);
        let host = head.headers.remove(HOST);
        // A host in the target, as in HTTP/2, overrides the field (RFC 9112 §3.2.2).
        let named = head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        let host = named.or(host);

        let mut out = HeaderNames::new();
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
            // The body is sent whole with its own length; no worker is asked for a `100 Continue`.
            let about_the_body = text == "content-length" || text == "expect";
            let untrue = is_ambiguous(text) || (!trusted && speaks_for_another(text));
            if ours || about_the_body || is_hop_by_hop(text) || untrue {
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
            set_forwarded(headers, from, forwarded, host);
        }
        if let Some(trace) = self.trace.filter(|trace| trace.worker_follows_gateway) {
            headers.insert(TRACEPARENT, trace.header());
        }
        headers.insert(X_REQUEST_ID, self.id.clone());
    }
}

fn accepts_trailers(value: &HeaderValue) -> bool {
    elements(value).any(|token| token.eq_ignore_ascii_case(b"trailers"))
}

/// Joins cookies: HTTP/2 may send one per field, HTTP/1.1 wants one field (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let parts: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
            headers.insert(COOKIE, joined);
        }
    }
}

/// Sets `X-Forwarded-*`; `forwarded` if a trusted proxy sent some. Untrusted ones are gone.
fn set_forwarded(headers: &mut HeaderMap, from: &Forwarding, forwarded: bool, host: Option<HeaderValue>) {
    let mut chain = Vec::new();
    if forwarded {
        // As bytes: an invalid hop made up by a stranger must not drop the hops after it.
        for value in headers.get_all(X_FORWARDED_FOR) {
            chain.extend_from_slice(value.as_bytes());
            chain.extend_from_slice(b", ");
        }
    }
    push_address(&mut chain, from.peer_ip);
    if let Ok(chain) = HeaderValue::from_bytes(&chain) {
        headers.insert(X_FORWARDED_FOR, chain);
    }
    headers
        .entry(X_FORWARDED_PROTO)
        .or_insert_with(|| HeaderValue::from_static(if from.tls { "https" } else { "http" }));
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
}

/// Writes an address; IPv4 without the formatter, which takes ten times as long.
fn push_address(text: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        return text.extend_from_slice(address.to_string().as_bytes());
    };
    for (place, part) in address.octets().into_iter().enumerate() {
        if place > 0 {
            text.push(b'.');
        }
        text.extend_from_slice(itoa::Buffer::new().format(part).as_bytes());
    }
}

/// Rewrites a worker's response headers into those for the client.
pub(crate) fn answer(headers: &mut HeaderMap, id: &HeaderValue) {
    say_one_length(headers);
    let mut out = HeaderNames::new();
    for (name, value) in headers.iter() {
        let text = name.as_str();
        if text == "connection" {
            add_named(value, &mut out);
        }
        if is_hop_by_hop(text) || is_ours(text) || opens_to_pages(text) || is_of_the_origin(text) {
            out.push(name.clone());
        }
    }
    take_out(headers, out);
    headers.insert(X_REQUEST_ID, id.clone());
}

/// Names of the model and the worker that a response shows to its client.
#[derive(Clone, Debug, Default)]
pub(crate) struct AnswerNames {
    pub(crate) model: Option<HeaderValue>,
    pub(crate) worker: Option<HeaderValue>,
}

impl AnswerNames {
    /// Returns the names that a caller may see; a name that cannot be in a header is left out.
    pub(crate) fn of(shown: AnswerHeaders, model: Option<&str>, worker: &str) -> Self {
        let value = |name: &str| HeaderValue::from_str(name).ok();
        Self {
            model: model.filter(|_| shown.model).and_then(value),
            worker: Some(worker).filter(|_| shown.worker).and_then(value),
        }
    }

    /// Adds them to the headers of the response.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        for (name, value) in [(MODEL, &self.model), (WORKER, &self.worker)] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
    }
}

/// Leaves one length of a response, and none next to `Transfer-Encoding`, which delimited the body
/// (RFC 9112 §6.3): a client might use the other.
fn say_one_length(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
        return;
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (first, more) = (lengths.next(), lengths.next().is_some());
    let Some(value) = first.filter(|value| more || value.as_bytes().contains(&b',')) else { return };
    // The HTTP client refuses lengths that differ, so they are equal.
    let one = elements(value).next().unwrap_or_default();
    match HeaderValue::from_bytes(one) {
        Ok(one) => headers.insert(CONTENT_LENGTH, one),
        Err(_) => headers.remove(CONTENT_LENGTH),
    };
}

/// Returns `true` if a response gives its length in two ways. That may be response smuggling, so
/// its connection is not reused.
pub(crate) fn says_two_lengths(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH)
}

/// Returns `true` if a response has a transfer coding other than `chunked`. The gateway asks for none
/// (`TE`), and the client, which gets the bytes without the field, could not read them (RFC 9112 §7).
pub(crate) fn is_coded(headers: &HeaderMap) -> bool {
    let plain =
        |coding: &[u8]| [&b"chunked"[..], b"identity"].iter().any(|name| coding.eq_ignore_ascii_case(name));
    elements_of(headers, &TRANSFER_ENCODING).any(|coding| !plain(coding))
}

/// Returns `true` if a response switches to WebSocket, the only protocol the gateway requests.
pub(crate) fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Sets the protocol that the connection switches to; [`answer`] and [`ForwardedFacts::apply`] remove it.
pub(crate) fn switch_to(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Fields that only the gateway may send to a client.
fn is_ours(name: &str) -> bool {
    ["x-traffic-dam-", "x-ratelimit-", "anthropic-ratelimit-"].iter().any(|prefix| name.starts_with(prefix))
}

/// Removes forbidden fields from a worker's trailers.
pub(crate) fn trailers(fields: &mut HeaderMap) {
    let barred = |name: &str| is_ours(name) || is_hop_by_hop(name) || opens_to_pages(name);
    let out: HeaderNames =
        fields.keys().filter(|name| barred(name.as_str()) || *name == CONTENT_LENGTH).cloned().collect();
    take_out(fields, out);
}

/// Removes request trailers that may not be trailers or matter in the head only (RFC 9110 §6.5.1):
/// a server may merge them into it. `strip` lists fields with the gateway's secrets.
pub(crate) fn request_trailers(fields: &mut HeaderMap, strip: &[HeaderName]) {
    let of_the_head = |name: &str| {
        matches!(
            name,
            "host"
                | "expect"
                | "authorization"
                | "cookie"
                | "trailer"
                | "x-request-id"
                | "traceparent"
                | "tracestate"
                | "range"
                | "max-forwards"
                | "cache-control"
                | "pragma"
        ) || name.starts_with("content-")
            || name.starts_with("if-")
            || name.starts_with("sec-")
            // As `authorization`: a credential is no trailer, and `identify` has not seen this one.
            || name.ends_with("api-key")
    };
    let barred = |name: &str| {
        is_ours(name)
            || is_hop_by_hop(name)
            || speaks_for_another(name)
            || is_ambiguous(name)
            || of_the_head(name)
    };
    let out: HeaderNames =
        fields.keys().filter(|name| barred(name.as_str()) || strip.contains(name)).cloned().collect();
    take_out(fields, out);
}

#[cfg(test)]
mod tests;
