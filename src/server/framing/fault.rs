//! Checks the parsed head of a request for framing and targets that two servers could read differently.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderValue, Method, Version};

use super::{Finding, host};

/// Methods of RFC 9110 and RFC 5789. Names are case-sensitive, but some servers ignore case.
const METHODS: [Method; 9] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::HEAD,
    Method::OPTIONS,
    Method::PATCH,
    Method::CONNECT,
    Method::TRACE,
];

/// Returns `true` for a known method in other case: workers may accept it, rules do not match.
fn is_known_in_other_case(method: &Method) -> bool {
    METHODS.iter().any(|known| known != method && known.as_str().eq_ignore_ascii_case(method.as_str()))
}

/// Returns what is wrong with the framing or target of a parsed request, as a message for its
/// sender. `found` is what the [`FramingScanner`](super::FramingScanner) saw on this connection.
pub(in crate::server) fn fault(parts: &Parts, found: Finding) -> Option<&'static str> {
    if is_known_in_other_case(&parts.method) {
        return Some("the method is a known method in wrong case; use capitals");
    }
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        match found {
            Finding::None => {}
            Finding::BothLengths => {
                return Some("the request has both Transfer-Encoding and Content-Length; send one of them");
            }
            Finding::Untracked => {
                // Of this request or of an earlier one: the connection has read ahead.
                return Some(
                    "the length of a body on this connection, or the size of a chunk, is malformed; use a new connection",
                );
            }
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Some("Transfer-Encoding must be a single `chunked`");
        }
    }
    if parts.headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Some("the request has more than one Content-Length; send one");
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Some("the request has more than one Host header; send one");
    }
    if host.is_none() && parts.version == Version::HTTP_11 {
        return Some("an HTTP/1.1 request needs a Host header");
    }
    if let Some(fault) = host::fault(parts, host.map(HeaderValue::as_bytes)) {
        return Some(fault);
    }
    // CONNECT would tunnel the connection; this gateway is no forward proxy.
    (parts.method == Method::CONNECT).then_some("CONNECT is not served here")
}
