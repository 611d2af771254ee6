//! Which offers to change the protocol of a connection are let through, and which are refused.

use http::header::{CONNECTION, HeaderMap, UPGRADE};
use http::{Method, Version, request};

use crate::net::fields::elements_of;

/// Returns `true` if `Upgrade` offers a protocol without which the request makes no sense, such as
/// `websocket`. HTTP lets a server ignore an offer (RFC 9110 §7.8), and clients offer another version
/// of HTTP, or TLS, with plain requests: `h2c` by the client of Java, `TLS/1.2` by Apache HttpClient.
pub(super) fn offers_another_protocol(headers: &HeaderMap) -> bool {
    elements_of(headers, &UPGRADE).any(|protocol| !is_of_the_connection(protocol))
}

/// Returns `true` for a protocol that would carry the same request: encrypted, or in another version.
fn is_of_the_connection(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
    [&b"h2c"[..], b"http", b"tls"].iter().any(|known| name.eq_ignore_ascii_case(known))
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_an_offer_that_the_request_depends_on_is_refused() {
        for (lines, refused) in [
            (&[][..], false),
            (&["h2c"], false),
            (&["H2C, HTTP/2.0"], false),
            (&["TLS/1.2"], false),
            (&["TLS/1.0, HTTP/1.1"], false),
            (&["tls/1.3", "h2c"], false),
            (&["websocket"], true),
            (&["TLS/1.2", "websocket"], true),
            (&["h2c, IRC/6.9"], true),
            (&["tlsx/1"], true),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(UPGRADE, HeaderValue::from_static(line));
            }
            assert_eq!(offers_another_protocol(&headers), refused, "{lines:?}");
        }
    }
}
