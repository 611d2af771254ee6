//! Worker URLs, and the addresses that a heartbeat may name.
//!
//! The gateway connects and sends prompts to a heartbeat's URL. Without an allow-list, anyone who
//! can publish one could point it at a metadata service or at their own machine. The operator lists
//! where workers live. Link-local addresses, where clouds keep credentials, are never allowed.
//!
//! **Trade-off.** A host name is compared as a name: its address is up to DNS, which an operator
//! who lists names trusts. Networks are the stricter list.

use std::net::IpAddr;
use std::sync::Arc;

use http::Uri;
use http::uri::Authority;
use ipnet::IpNet;

use crate::glob::Glob;

/// Longest DNS name, in bytes.
const LONGEST_NAME: usize = 253;

/// The input that [`worker_url`] expects, to complete "must be …".
pub const URL_EXPECTED: &str = "an `http://` or `https://` URL of a host, a port and at most a path before `/v1`, such as \
     `http://127.0.0.1:8000`; credentials belong in `headers`";

/// Parses a worker's URL: scheme, host, an optional port and path prefix, and nothing else.
///
/// A trailing `/v1` is removed: base URLs of OpenAI clients have it, but the gateway itself asks
/// for `/v1/chat/completions`, and a worker would see `/v1/v1/chat/completions`. The URL of an
/// endpoint is refused for the same reason.
#[must_use]
pub fn worker_url(text: &str) -> Option<Uri> {
    if text.contains(['@', '#', '?']) || text.chars().any(|letter| letter.is_control() || letter == '\\') {
        return None;
    }
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
    if rest.contains("//") || rest.split('/').any(|segment| segment == "." || segment == "..") {
        return None;
    }
    let (bare, endpoint) = split_endpoint(rest.trim_end_matches('/'));
    if !matches!(endpoint, "" | "/v1") {
        return None;
    }
    let uri: Uri = text.get(..text.len() - rest.len() + bare.len())?.parse().ok()?;
    let authority = uri.authority()?;
    (!authority.host().is_empty() && port_is_sound(authority)).then_some(uri)
}

/// Paths of endpoints below `/v1`.
const BELOW_V1: [&str; 14] = [
    "/audio/speech",
    "/audio/transcriptions",
    "/audio/translations",
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/images/edits",
    "/images/generations",
    "/messages",
    "/messages/count_tokens",
    "/models",
    "/rerank",
    "/responses",
    "/score",
];

/// Paths of endpoints that no base URL has. A single name, such as `/rerank`, may be the prefix of a
/// service.
const WITHOUT_V1: [&str; 2] = ["/chat/completions", "/v2/rerank"];

/// Returns the base URL that the URL of an endpoint was probably meant to be, or a URL that ends with
/// `/v1`, or with several; `None` for any other text.
#[must_use]
pub fn without_endpoint(url: &str) -> Option<&str> {
    let (base, endpoint) = split_endpoint(url.trim_end_matches('/'));
    (!endpoint.is_empty()).then_some(base)
}

/// Splits a URL before the path of an endpoint, which begins with any number of `/v1`, or is one.
fn split_endpoint(url: &str) -> (&str, &str) {
    let mut slashes = url.match_indices('/').map(|(at, _)| at);
    let at = slashes.find(|at| url.get(*at..).is_some_and(is_endpoint));
    url.split_at(at.unwrap_or(url.len()))
}

fn is_endpoint(path: &str) -> bool {
    let mut below = path;
    while let Some((v1, rest)) = below.split_at_checked(3)
        && v1.eq_ignore_ascii_case("/v1")
    {
        below = rest;
    }
    let has_v1 = below.len() < path.len();
    let names = if has_v1 { &BELOW_V1[..] } else { &WITHOUT_V1 };
    (has_v1 && below.is_empty()) || names.iter().any(|name| name.eq_ignore_ascii_case(below))
}

/// Returns `true` if the port is valid or absent: `http` takes an empty or too large one as absent.
#[must_use]
pub fn port_is_sound(authority: &Authority) -> bool {
    let written = authority.as_str().len() > authority.host().len();
    !written || authority.port_u16().is_some_and(|port| port > 0)
}

/// Hosts that a heartbeat may name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AllowedHosts {
    /// Every address of a network.
    Network(IpNet),
    /// A host name in lower case, `*` standing for any run of characters.
    Name(Arc<str>),
}

impl AllowedHosts {
    /// Parses a network, an address, or a pattern of host names.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Some(Self::Network(network.trunc()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Network(address.to_canonical().into()));
        }
        let name = text.to_ascii_lowercase();
        // `10.*` is meant for addresses, but a name pattern never matches an address.
        let meant_for_addresses =
            name.contains(|letter: char| letter.is_ascii_digit()) && !is_name(&name.replace('*', "0"));
        let sound = is_name(&name.replace('*', "x")) && !meant_for_addresses && name.len() <= LONGEST_NAME;
        sound.then(|| Self::Name(name.into()))
    }

    fn covers(&self, host: &AddressHost) -> bool {
        match (self, host) {
            (Self::Network(network), AddressHost::Address(address)) => network.contains(address),
            (Self::Name(pattern), AddressHost::Name(name)) => Glob::new(Arc::clone(pattern)).matches(name),
            _ => false,
        }
    }
}

enum AddressHost {
    Address(IpAddr),
    Name(String),
}

/// Returns `true` if one of `allowed` covers the host of `url`, and it is not an address that no list
/// can allow.
#[must_use]
pub fn permits(allowed: &[AllowedHosts], url: &Uri) -> bool {
    let Some(host) = url.host().and_then(host) else { return false };
    if let AddressHost::Address(address) = host
        && is_out_of_bounds(address)
    {
        return false;
    }
    allowed.iter().any(|allowed| allowed.covers(&host))
}

/// Returns `true` if a discovery source may name `address`: a network of `allowed` covers it, and it is
/// not an address that no list can allow. A loopback address needs a network of loopback addresses,
/// and one of `excluded` an entry for that address alone.
#[must_use]
pub(crate) fn permits_address(allowed: &[AllowedHosts], excluded: &[IpAddr], address: IpAddr) -> bool {
    let address = address.to_canonical();
    if is_out_of_bounds(address) {
        return false;
    }
    let alone = excluded.iter().any(|excluded| excluded.to_canonical() == address);
    allowed.iter().any(|allowed| match allowed {
        AllowedHosts::Network(network) => {
            network.contains(&address)
                && (!address.is_loopback() || network.addr().is_loopback())
                && (!alone || network.prefix_len() == network.max_prefix_len())
        }
        AllowedHosts::Name(_) => false,
    })
}

fn host(text: &str) -> Option<AddressHost> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        // An IPv4-mapped IPv6 address is the same machine.
        return Some(AddressHost::Address(address.to_canonical()));
    }
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    is_name(&name).then_some(AddressHost::Name(name))
}

/// Returns `true` if this can only be a name: resolvers read `127.1` or `0x7f000001` as addresses.
fn is_name(text: &str) -> bool {
    let labels = text.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    });
    let last = text.rsplit('.').next().unwrap_or_default();
    let number =
        last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            || last.bytes().all(|digit| digit.is_ascii_digit());
    labels && !number
}

/// Returns `true` for addresses that no list can allow.
fn is_out_of_bounds(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    link_local || address.is_unspecified() || address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permitted(allow: &[&str], url: &str) -> bool {
        let allowed: Vec<_> = allow.iter().map(|text| AllowedHosts::read(text).unwrap()).collect();
        permits(&allowed, &worker_url(url).unwrap())
    }

    #[test]
    fn networks_cover_addresses_and_names_cover_names() {
        let allow = ["10.0.0.0/8", "127.0.0.1", "fd00::/8", "gpu-*.example", "GPU"];
        for url in [
            "http://10.1.2.3:8000",
            "https://127.0.0.1/base",
            "http://[fd00::7]:8000",
            "http://[::ffff:10.0.0.1]:8000",
            "http://gpu-7.example:8000",
            "http://GPU-7.example.:8000",
            "http://gpu",
        ] {
            assert!(permitted(&allow, url), "{url}");
        }
        for url in [
            "http://11.0.0.1:8000",
            "http://127.0.0.2",
            "http://[fe80::1]",
            "http://example",
            "http://gpu-7.example.evil",
            "http://127.1",
            "http://2130706433",
            "http://0x7f000001",
        ] {
            assert!(!permitted(&allow, url), "{url}");
        }
    }

    #[test]
    fn no_list_allows_what_is_no_workers_address() {
        let allow = ["0.0.0.0/0", "::/0", "*"];
        for url in [
            "http://169.254.169.254",
            "http://[::ffff:169.254.169.254]",
            "http://[fe80::1]:80",
            "http://0.0.0.0:8000",
            "http://[::]:8000",
            "http://224.0.0.1",
            "http://255.255.255.255",
            "http://0xa9fea9fe",
            "http://169.16689662",
        ] {
            assert!(!permitted(&allow, url), "{url}");
        }
        assert!(permitted(&allow, "http://10.0.0.1") && permitted(&allow, "http://anything"));
        assert!(!permitted(&[], "http://127.0.0.1"));
    }

    #[test]
    fn a_source_may_name_no_address_that_is_special_unless_it_is_listed() {
        let permitted = |allow: &[&str], address: &str| {
            let allowed: Vec<_> = allow.iter().map(|text| AllowedHosts::read(text).unwrap()).collect();
            permits_address(&allowed, &["10.0.0.1".parse().unwrap()], address.parse().unwrap())
        };
        for (allow, address, expected) in [
            (&["10.0.0.0/8"][..], "10.1.2.3", true),
            (&["10.0.0.0/8"], "::ffff:10.1.2.3", true),
            (&["10.0.0.0/8"], "11.1.2.3", false),
            (&["*"], "10.1.2.3", false),
            (&["0.0.0.0/0", "::/0"], "127.0.0.1", false),
            (&["0.0.0.0/0", "::/0"], "::1", false),
            (&["127.0.0.0/8"], "127.0.0.1", true),
            (&["::1"], "::1", true),
            (&["169.254.169.254"], "169.254.169.254", false),
            (&["10.0.0.0/8"], "10.0.0.1", false),
            (&["10.0.0.0/8", "10.0.0.1"], "10.0.0.1", true),
        ] {
            assert_eq!(permitted(allow, address), expected, "{allow:?} {address}");
        }
    }

    #[test]
    fn what_the_list_may_hold() {
        for wrong in
            ["", "a b", "10.0.0.0/33", "10.0.0", "http://a", "a:80", "0x7f", "10.*", "ä.example", "a..b"]
        {
            assert_eq!(AllowedHosts::read(wrong), None, "{wrong}");
        }
        assert_eq!(AllowedHosts::read("10.9.8.7/8"), AllowedHosts::read("10.0.0.0/8"));
    }
}
