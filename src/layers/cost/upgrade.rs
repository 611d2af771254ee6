//! Which offers to change the protocol of a connection are let through, and which are refused.

use http::header::{CONNECTION, HeaderMap, UPGRADE};
use http::{Method, Version, request};

use crate::net::fields::elements_of;

/// Returns `true` if `Upgrade` offers a protocol other than `h2c` (HTTP/2). Common clients offer
/// `h2c` with every first request, and HTTP lets a server ignore it.
pub(super) fn offers_another_protocol(headers: &HeaderMap) -> bool {
    elements_of(headers, &UPGRADE).any(|protocol| !protocol.eq_ignore_ascii_case(b"h2c"))
}

/// Returns `true` if a request without a body asks for a WebSocket: GET over HTTP/1.1. No other
/// protocol is tunnelled: HTTP/2 or TLS could carry further requests past the checks of path, key
/// and rules. An offer that `Connection` does not name was not made for this connection (RFC 9110
/// §7.8): some proxy forwarded it unread.
pub(super) fn asks_for_websocket(parts: &request::Parts) -> bool {
    parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && elements_of(&parts.headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
        && elements_of(&parts.headers, &UPGRADE).any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}
