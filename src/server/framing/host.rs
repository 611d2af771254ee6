//! Checks the name by which a request calls this server: its `Host`, or the authority of its target.

use std::net::Ipv6Addr;

use http::request::Parts;

/// Returns what is wrong with the authority or the `Host` of a request, as a message for its sender.
/// RFC 9112 §3.2 requires a 400 for an invalid `Host`. Both go to workers as `x-forwarded-host`,
/// from which an application may build links.
pub(super) fn fault(parts: &Parts, host: Option<&[u8]>) -> Option<&'static str> {
    if parts.uri.authority().is_some_and(|authority| !is_host(authority.as_str().as_bytes())) {
        return Some("the authority of the request's target must be a host and at most a port");
    }
    // RFC 9112 §3.2: the field is empty if the target has no authority.
    host.is_some_and(|host| !host.is_empty() && !is_host(host))
        .then_some("the Host header must be a host and at most a port")
}

/// Returns `true` for a name, an IPv4 address or an IPv6 address in brackets, maybe with a port.
///
/// RFC 3986 §3.2.2 allows escapes and ``!$&'()*+,;=`` in names as well, but no name of a host has
/// them, and `x-forwarded-host` with a comma reads as two hosts.
fn is_host(text: &[u8]) -> bool {
    let after_host = match text.strip_prefix(b"[") {
        Some(bracketed) => {
            let Some(end) = bracketed.iter().position(|byte| *byte == b']') else { return false };
            let (address, rest) = bracketed.split_at(end);
            if std::str::from_utf8(address).map_or(true, |address| address.parse::<Ipv6Addr>().is_err()) {
                return false;
            }
            rest.get(1..).unwrap_or_default()
        }
        None => {
            let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
            let end = text.iter().position(|byte| !is_of_name(byte)).unwrap_or(text.len());
            if end == 0 {
                return false;
            }
            text.get(end..).unwrap_or_default()
        }
    };
    match after_host.split_first() {
        None => true,
        Some((b':', port)) => is_port(port),
        Some(_) => false,
    }
}

/// Returns `true` for digits of at most 65535; RFC 3986 §3.2.3 allows none.
fn is_port(digits: &[u8]) -> bool {
    let mut port: u32 = 0;
    digits.iter().all(|digit| {
        port = port * 10 + u32::from(digit.wrapping_sub(b'0'));
        digit.is_ascii_digit() && port <= u32::from(u16::MAX)
    })
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const HOSTS: [&str; 12] = [
        "x",
        "gpu_1.example",
        "Gateway.Example.",
        "a-b.c~d",
        "127.0.0.1",
        "127.0.0.1:8080",
        "x:",
        "x:0",
        "x:65535",
        "x:0080",
        "[::1]",
        "[2001:db8::7]:443",
    ];
    const NO_HOSTS: [&str; 26] = [
        "a b",
        "a/b",
        "a, b",
        "a,b",
        "u:p@x",
        "u@x",
        "@x",
        "x:99999",
        "x:65536",
        "x:4294967376",
        "x:18446744073709551696",
        "x:80:80",
        "x:-1",
        "x:+1",
        "x:http",
        ":80",
        "<script>",
        "a\"b",
        "a?b",
        "a#b",
        "a\\b",
        "a%20b",
        "::1",
        "[::1",
        "[x]",
        "[::1]80",
    ];

    #[test]
    fn a_host_is_a_name_or_an_address_and_at_most_a_port() {
        let of = |host: &str| {
            let (parts, ()) = Request::get("/").body(()).unwrap().into_parts();
            fault(&parts, Some(host.as_bytes()))
        };
        for host in HOSTS.iter().chain(&[""]) {
            assert_eq!(of(host), None, "{host}");
        }
        for host in NO_HOSTS {
            assert!(of(host).is_some_and(|fault| fault.contains("Host")), "{host}");
        }
        assert!(fault(&Request::get("/").body(()).unwrap().into_parts().0, Some(b"\xe4")).is_some());
    }

    #[test]
    fn the_authority_of_a_target_is_checked_too() {
        let of = |target: &str| {
            let (parts, ()) = Request::get(target).body(()).unwrap().into_parts();
            fault(&parts, Some(b"x"))
        };
        for host in HOSTS {
            assert_eq!(of(&format!("http://{host}/a")), None, "{host}");
        }
        for authority in ["u:p@other", "u@other", "@other", "a,b", "other:99999", "a%20b"] {
            let target = format!("http://{authority}/a");
            // The parser refuses some of them itself.
            if target.parse::<http::Uri>().is_ok() {
                assert!(of(&target).is_some_and(|fault| fault.contains("authority")), "{authority}");
            }
        }
        assert!(of("http://u:p@other/a").is_some());
    }
}
