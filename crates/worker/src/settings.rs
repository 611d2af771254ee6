//! Redis settings: address and time limits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::{ConnectionAddr, IntoConnectionInfo};

/// Returns `true` if the URL is a valid Redis URL.
#[must_use]
pub fn is_sound(url: &str) -> bool {
    url.into_connection_info().is_ok()
}

/// Redis settings: address and time limits.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// `redis(s)://` URLs of a server, sentinels, or cluster nodes. They may hold a password.
    pub urls: Urls,
    /// Kind of deployment behind the URLs.
    pub topology: Topology,
    /// Further certificate authorities for `rediss`, PEM.
    pub authorities: Option<Arc<[u8]>>,
    /// Prefix of every key and channel; holds no braces.
    pub prefix: Arc<str>,
    /// Time limit of a command; after it the gateway decides without Redis.
    pub timeout: Duration,
}

impl RedisSettings {
    /// Returns the settings of a single server, with the default timeout of 10 ms.
    #[must_use]
    pub fn single(url: Arc<str>, prefix: Arc<str>) -> Self {
        let timeout = Duration::from_millis(10);
        Self { urls: Urls::from(vec![url]), topology: Topology::Single, authorities: None, prefix, timeout }
    }
}

/// URLs with credentials. Clones share them, so that new connections use new credentials.
#[derive(Clone)]
pub struct Urls(Arc<ArcSwap<Vec<Arc<str>>>>);

impl Urls {
    /// Returns the current URLs.
    #[must_use]
    pub fn load(&self) -> Arc<Vec<Arc<str>>> {
        self.0.load_full()
    }

    /// Takes new credentials if `new` has the same servers and databases, and returns whether it
    /// has. Open connections stay.
    pub fn update_credentials(&self, new: &Self) -> bool {
        let new = new.load();
        let same = places(&self.load()).is_some_and(|ours| Some(ours) == places(&new));
        if same {
            self.0.store(new);
        }
        same
    }
}

/// Returns the servers and databases of `urls`; `None` if one is no Redis URL.
fn places(urls: &[Arc<str>]) -> Option<Vec<(ConnectionAddr, i64)>> {
    let place = |url: &Arc<str>| {
        let info = (**url).into_connection_info().ok()?;
        Some((info.addr().clone(), info.redis_settings().db()))
    };
    urls.iter().map(place).collect()
}

impl From<Vec<Arc<str>>> for Urls {
    fn from(urls: Vec<Arc<str>>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(urls)))
    }
}

// They may hold a password.
impl fmt::Debug for Urls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Urls").field("count", &self.load().len()).finish_non_exhaustive()
    }
}

impl PartialEq for Urls {
    fn eq(&self, other: &Self) -> bool {
        *self.load() == *other.load()
    }
}

impl Eq for Urls {}

/// Kind of deployment behind the URLs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    #[default]
    Single,
    /// Sentinels, with the name of the master.
    Sentinel(Arc<str>),
    /// A cluster.
    Cluster,
}

// URLs may hold a password.
impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("topology", &self.topology)
            .field("prefix", &self.prefix)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(urls: &[&str]) -> Urls {
        urls.iter().map(|url| Arc::from(*url)).collect::<Vec<_>>().into()
    }

    #[test]
    fn new_credentials_are_taken_for_the_same_servers_only_and_by_every_clone() {
        let ours = urls(&["redis://:old@a:1/2", "redis://b"]);
        let clone = ours.clone();
        for other in [
            &["redis://:new@a:1/2"][..],
            &["redis://:new@a:1/3", "redis://b"],
            &["redis://:new@a:2/2", "redis://b"],
            &["rediss://:new@a:1/2", "redis://b"],
            &["redis://b", "redis://:new@a:1/2"],
            &["no URL", "redis://b"],
        ] {
            assert!(!ours.update_credentials(&urls(other)), "{other:?}");
        }
        assert_eq!(&*clone.load()[0], "redis://:old@a:1/2");
        assert!(ours.update_credentials(&urls(&["redis://user:new@a:1/2", "redis://:x@b"])));
        assert_eq!(&*clone.load()[0], "redis://user:new@a:1/2");
        assert!(clone == ours);
    }
}
