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
        // Browsers send origins in lower case and compare them byte by byte.
        (scheme_is_plain && bare && port_is_sound(&authority)).then(|| Self(text.to_ascii_lowercase()))
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
mod tests {
    use super::super::Text;
    use super::*;

    fn written<T: Syntax>(text: &str) -> Option<String> {
        T::read(text).map(|value| Text(value).to_string())
    }

    #[test]
    fn networks_and_hosts_are_read_into_one_form() {
        assert_eq!(written::<Network>("10.1.2.3/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(written::<Network>("::1").as_deref(), Some("::1/128"));
        assert_eq!(written::<Network>("10.0.0.0/33"), None);
        assert_eq!(written::<Host>("LocalHost").as_deref(), Some("localhost"));
        assert_eq!(written::<Host>("0:0::1").as_deref(), Some("::1"));
        for wrong in ["", "a..b", "host:80", "[::1]", "a b", "*"] {
            assert_eq!(written::<Host>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn worker_urls_have_a_host_and_nothing_to_hide() {
        assert_eq!(written::<WorkerUrl>("http://[::1]:8000/").as_deref(), Some("http://[::1]:8000"));
        assert_eq!(
            written::<WorkerUrl>("https://w.example/base/").as_deref(),
            Some("https://w.example/base")
        );
        for (base, form) in [
            ("http://h:8000/v1", "http://h:8000"),
            ("http://h:8000/v1/", "http://h:8000"),
            ("https://h/openai/v1", "https://h/openai"),
            ("http://h/v1/x", "http://h/v1/x"),
            ("http://h/av1", "http://h/av1"),
            ("http://v1", "http://v1"),
        ] {
            assert_eq!(written::<WorkerUrl>(base).as_deref(), Some(form), "{base}");
        }
        for wrong in [
            "",
            "127.0.0.1:8000",
            "http://",
            "http:///x",
            "ftp://h",
            "http://h:99999",
            "http://h:0",
            "http://h:",
            "http://h?a=b",
            "http://u:p@h",
            "http://h/a/../b",
            "http://h//a",
            "http://h/#x",
            "http://h\n",
        ] {
            assert_eq!(written::<WorkerUrl>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn allowed_hosts_and_redis_urls() {
        for (text, form) in
            [("10.1.2.3/8", "10.0.0.0/8"), ("127.0.0.1", "127.0.0.1/32"), ("GPU-*.Example", "gpu-*.example")]
        {
            assert_eq!(written::<AllowedHost>(text).as_deref(), Some(form));
        }
        for wrong in ["", "http://a", "10.*", "a:80", "10.0.0.0/33"] {
            assert_eq!(written::<AllowedHost>(wrong), None, "{wrong}");
        }
        for (right, form) in [
            ("redis://h", "redis://h"),
            ("rediss://u:p@h:6380/1", "rediss://…@h:6380/1"),
            ("redis://[::1]:6379", "redis://[::1]:6379"),
        ] {
            assert_eq!(written::<RedisUrl>(right).as_deref(), Some(form));
        }
        assert_eq!(format!("{:?}", RedisUrl::read("rediss://u:s3cret@h").unwrap()), "rediss://…@h");
        for wrong in
            ["", "h:6379", "http://h", "redis://", "redis://h:x", "redis+unix:///tmp/s", "redis://h/db"]
        {
            assert_eq!(written::<RedisUrl>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn origins_are_bare() {
        assert_eq!(
            written::<Origin>("https://Chat.example:8443").as_deref(),
            Some("https://chat.example:8443")
        );
        assert_eq!(written::<Origin>("*").as_deref(), Some("*"));
        for wrong in
            ["chat.example", "https://a/", "https://a/b", "https://u@a", "https://*.a", "https://a:x"]
        {
            assert_eq!(written::<Origin>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_a_url_hides_is_not_shown() {
        for (text, shown) in [
            ("http://h:1/a", "http://h:1/a"),
            ("http://u:secret@h/a", "http://…@h/a"),
            ("http://u:se@cret/x@h/a?k=secret", "http://…@h/a?…"),
            ("http://h?key=secret", "http://h?…"),
            ("http://u:se?cret@h", "http://…"),
            ("no url", "no url"),
        ] {
            assert_eq!(redacted_url(text), shown, "{text}");
        }
    }
}
