//! Hosts, networks and URLs.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use http::Uri;
use ipnet::IpNet;

use super::{FilePath, Syntax, meant};
use crate::fleet::address::{AllowedHosts, URL_EXPECTED, port_is_sound, worker_url};

/// A network, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Network(pub IpNet);

impl Syntax for Network {
    const NAME: &'static str = "network";
    const EXPECTED: &'static str = "a network such as `10.0.0.0/8`, or an IP address";
    const PATTERN: &'static str = "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$";

    fn read(text: &str) -> Option<Self> {
        let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
        Some(Self(network.trunc()))
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A host without a port, as compared with the `Host` header: lower case, IPv6 without brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host(pub String);

impl Syntax for Host {
    const NAME: &'static str = "host";
    const EXPECTED: &'static str = "a host name or an IP address, without a port";
    const PATTERN: &'static str = "^[0-9A-Za-z.:_-]{1,253}$";

    fn read(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Some(Self(address.to_string()));
        }
        let letters = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        let labels = text.split('.').all(|label| (1..=63).contains(&label.len()));
        (text.len() <= 253 && letters && labels).then(|| Self(text.to_ascii_lowercase()))
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A web origin as browsers send it, or `*` for all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Origin(pub String);

impl Syntax for Origin {
    const NAME: &'static str = "origin";
    const EXPECTED: &'static str =
        "an origin such as `https://chat.example` (scheme, host and port only), or `*`";
    const PATTERN: &'static str = "^(\\*|[a-z][a-z0-9+.-]*://[^/?#@]+)$";

    fn read(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self(text.into()));
        }
        let (scheme, rest) = text.split_once("://")?;
        let scheme_is_plain = scheme.starts_with(|first: char| first.is_ascii_lowercase())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+.-".contains(&byte));
        let authority: http::uri::Authority = rest.parse().ok()?;
        let bare = !authority.host().is_empty() && !rest.contains(['@', '*', '/', '?', '#']);
        let sound = scheme_is_plain && bare && port_is_sound(&authority);
        // Browsers send origins in lower case and without a default port, and compare them byte by byte.
        (sound && meant::without_default_port(text).is_none()).then(|| Self(text.to_ascii_lowercase()))
    }

    fn meant(text: &str) -> Option<String> {
        meant::origin(text)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Base URL of a worker, `http` or `https`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerUrl(pub Uri);

impl Syntax for WorkerUrl {
    const NAME: &'static str = "URL";
    const EXPECTED: &'static str = URL_EXPECTED;
    const PATTERN: &'static str = "^https?://[^/?#@]+(/[^?#]*)?$";

    fn read(text: &str) -> Option<Self> {
        worker_url(text).map(Self)
    }

    fn meant(text: &str) -> Option<String> {
        meant::worker(text)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

/// Base URL of an OTLP collector, `http` or `https`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CollectorUrl(pub Uri);

impl Syntax for CollectorUrl {
    const NAME: &'static str = "collector URL";
    const EXPECTED: &'static str = "an `http://` or `https://` URL of a collector for OTLP over HTTP, with or without \
         `/v1/traces`, such as `http://127.0.0.1:4318`; credentials belong in `headers`";
    const PATTERN: &'static str = WorkerUrl::PATTERN;

    fn read(text: &str) -> Option<Self> {
        // Collectors document the full URL, and the variables of OpenTelemetry know both.
        let text = text.trim_end_matches('/');
        worker_url(text.strip_suffix("/v1/traces").unwrap_or(text)).map(Self)
    }

    fn meant(text: &str) -> Option<String> {
        meant::collector(text)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

/// A host, network or host name pattern that a heartbeat may name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AllowedHost(pub AllowedHosts);

impl Syntax for AllowedHost {
    const NAME: &'static str = "allowed host";
    const EXPECTED: &'static str = "a network such as `10.0.0.0/8`, an IP address, or a host name, where `*` matches any \
         characters";
    const PATTERN: &'static str = "^[0-9A-Za-z.:_*/-]{1,253}$";

    fn read(text: &str) -> Option<Self> {
        AllowedHosts::read(text).map(Self)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            AllowedHosts::Network(network) => write!(f, "{network}"),
            AllowedHosts::Name(pattern) => f.write_str(pattern),
        }
    }
}

/// Source of the keys that tokens are signed with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Jwks {
    /// An `https` URL; its server is authenticated.
    Url(Arc<str>),
    /// A file.
    File(FilePath),
}

impl Syntax for Jwks {
    const NAME: &'static str = "JWKS";
    const EXPECTED: &'static str = "an `https://` URL without user and fragment, or the path of a file";
    const PATTERN: &'static str = "^.+$";

    fn read(text: &str) -> Option<Self> {
        if !text.contains("://") {
            return FilePath::read(text).map(Self::File);
        }
        let uri: Uri = text.parse().ok().filter(|_| !text.contains('#'))?;
        let authority = uri.authority()?;
        let sound = uri.scheme_str() == Some("https") && !text.contains('@') && port_is_sound(authority);
        (sound && !authority.host().is_empty()).then(|| Self::Url(text.into()))
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::File(path) => path.write(f),
        }
    }
}

/// URL of a Redis server. Its password, user and query are never shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RedisUrl(pub Arc<str>);

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted_url(&self.0))
    }
}

impl Syntax for RedisUrl {
    const NAME: &'static str = "Redis URL";
    const EXPECTED: &'static str = "a `redis://` or `rediss://` URL with a host and, if needed, a port, a user, a \
         password and a database, such as `redis://user:password@127.0.0.1:6379/0`";
    const PATTERN: &'static str = "^rediss?://.+$";

    fn read(text: &str) -> Option<Self> {
        let known = text.starts_with("redis://") || text.starts_with("rediss://");
        (known && crate::redis::settings::is_sound(text)).then(|| Self(text.into()))
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted_url(&self.0))
    }
}

/// Removes the user info and the query of every URL in a text, and leaves the rest unchanged.
#[must_use]
pub(crate) fn redacted_url(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else { return text.into() };
    // A mistyped password may contain an unescaped `/` or `@`: all before the last `@` is removed.
    let (before_query, query) =
        rest.split_once('?').map_or((rest, None), |(before, query)| (before, Some(query)));
    let host_on = before_query.rsplit_once('@').map(|(_, host)| host);
    // An `@` after the `?` means that the `?` may be part of a password.
    let doubtful = query.is_some_and(|query| query.contains('@'));
    match (host_on, query) {
        (None, None) => text.into(),
        _ if doubtful => format!("{scheme}://…").into(),
        (host, query) => {
            let user = if host.is_some() { "…@" } else { "" };
            let query = if query.is_some() { "?…" } else { "" };
            format!("{scheme}://{user}{}{query}", host.unwrap_or(before_query)).into()
        }
    }
}

#[cfg(test)]
mod tests;
