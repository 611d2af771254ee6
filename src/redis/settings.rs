//! Where Redis is and how it is asked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::IntoConnectionInfo;

/// Whether a URL says where a Redis server is.
#[must_use]
pub fn is_sound(url: &str) -> bool {
    url.into_connection_info().is_ok()
}

/// Where Redis is and how it is asked.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// `redis://` or `rediss://` URLs: one server, the sentinels, or some nodes of a cluster. They may hold a password.
    pub urls: Vec<Arc<str>>,
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
        Self { urls: vec![url], topology: Topology::Single, authorities: None, prefix, timeout }
    }
}

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
