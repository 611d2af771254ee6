//! Where Redis is and how it is asked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::{ConnectionAddr, IntoConnectionInfo};

/// Whether a URL says where a Redis server is.
#[must_use]
pub fn is_sound(url: &str) -> bool {
    url.into_connection_info().is_ok()
}

/// Where Redis is and how it is asked.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// `redis://` or `rediss://` URLs: one server, the sentinels, or some nodes of a cluster. They may hold a password.
    pub urls: Urls,
    /// What the URLs lead to.
    pub topology: Topology,
    /// Further certificate authorities for `rediss`, PEM.
    pub authorities: Option<Arc<[u8]>>,
    /// What every key and channel begins with; holds no braces.
    pub prefix: Arc<str>,
    /// How long a command may take before the gateway goes on without it.
    pub timeout: Duration,
}

impl RedisSettings {
    /// One server, and the default patience.
    #[must_use]
    pub fn single(url: Arc<str>, prefix: Arc<str>) -> Self {
        let timeout = Duration::from_millis(10);
        Self { urls: Urls::from(vec![url]), topology: Topology::Single, authorities: None, prefix, timeout }
    }
}

/// URLs that may hold credentials. Clones share them, so that every connection that is made from now on takes new ones.
#[derive(Clone)]
pub struct Urls(Arc<ArcSwap<Vec<Arc<str>>>>);

impl Urls {
    /// As they are now.
    #[must_use]
    pub fn load(&self) -> Arc<Vec<Arc<str>>> {
        self.0.load_full()
    }

    /// Takes the credentials of `new`, if it leads to the same servers and databases. Says whether it does. What is
    /// connected stays so.
    pub fn retell(&self, new: &Self) -> bool {
        let new = new.load();
        let same = places(&self.load()).is_some_and(|ours| Some(ours) == places(&new));
        if same {
            self.0.store(new);
        }
        same
    }
}

/// The servers and databases of `urls`; `None` where one is no URL of Redis.
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

/// What the URLs lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    #[default]
    Single,
    /// Sentinels that know where the master of this name is.
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
            assert!(!ours.retell(&urls(other)), "{other:?}");
        }
        assert_eq!(&*clone.load()[0], "redis://:old@a:1/2");
        assert!(ours.retell(&urls(&["redis://user:new@a:1/2", "redis://:x@b"])));
        assert_eq!(&*clone.load()[0], "redis://user:new@a:1/2");
        assert!(clone == ours);
    }
}
