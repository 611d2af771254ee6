//! Parser of hop addresses in `X-Forwarded-For`.

use std::net::IpAddr;

/// Parses a hop's address as proxies write it: also with port, brackets, quotes or interface name.
pub(super) fn address_of_hop(hop: &[u8]) -> Option<IpAddr> {
    let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let text = std::str::from_utf8(hop).ok()?.trim_matches('"');
    let host = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            let sound = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
            sound.then_some(host)?
        }
        // More than one colon is an IPv6 address without a port.
        None => match text.split_once(':') {
            Some((host, port)) if is_port(port) && host.contains('.') => host,
            _ => text,
        },
    };
    let host = host.split_once('%').map_or(host, |(host, _)| host);
    host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}
