//! The reports of discovery sources: the workers that a name or a service has now.
//!
//! A source (DNS, Kubernetes) follows one or more *targets*, each an entry of the settings. For each
//! it reports the whole set of workers whenever that changes, and a sign of life in between. The
//! worker registry merges the sets (`registry::discovered`); sources decide nothing.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;

/// Longest id of a discovered worker, in bytes: a DNS name, a slash and an address.
pub const LONGEST_ID: usize = 320;

/// Most workers that are discovered: as many as the settings can name.
pub const MOST_DISCOVERED: usize = 1024;

/// A kind of discovery source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiscoverySource {
    /// Heartbeats over Redis.
    Redis,
    /// Addresses of DNS names.
    Dns,
    /// Endpoints in a Kubernetes cluster.
    Kubernetes,
}

impl DiscoverySource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Redis, Self::Dns, Self::Kubernetes];

    /// Returns its name in settings and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Dns => "dns",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// What a source follows: one entry of the settings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetId {
    /// The kind of source.
    pub source: DiscoverySource,
    /// Unique within its source; shown to people.
    pub name: Arc<str>,
}

/// Settings of a target that hold for all of its workers.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetSettings {
    /// The target.
    pub id: TargetId,
    /// Pool of its workers.
    pub pool: Arc<str>,
    /// Pattern for the models that they serve; `None` to use the first name that each lists.
    pub model: Option<Arc<str>>,
    /// Blue/green colour of its workers.
    pub colour: Arc<str>,
    /// Time without a sign of life after which the source counts as away.
    pub silence: Duration,
    /// `true` if the gateway reads the health and metrics of its workers.
    pub scrape: bool,
}

/// State of a worker, as its source reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It serves.
    Ready,
    /// It does not serve now.
    NotReady,
    /// It ends: it finishes its requests and takes no new ones.
    Draining,
}

/// One worker, as a source sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct DiscoveredWorker {
    /// Unique among all targets, such as `name/address`; at most [`LONGEST_ID`] bytes.
    pub id: Arc<str>,
    /// Its URL. The host is used for TLS and for the `Host` header.
    pub url: Uri,
    /// The address that is connected to.
    pub address: IpAddr,
    /// Its pool, if the source knows another than the target's.
    pub pool: Option<Arc<str>>,
    /// The models it serves, if the source knows other ones than the target's.
    pub model: Option<Arc<str>>,
    /// Its colour, if the source knows another than the target's.
    pub colour: Option<Arc<str>>,
    /// Its software version.
    pub version: Option<Arc<str>>,
    /// Requests it decodes at once.
    pub slots: Option<u32>,
    /// Tokens its KV cache holds.
    pub kv_tokens: Option<u64>,
    /// Its state.
    pub presence: Presence,
}

/// Why a discovered worker is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum DiscoveryRefusal {
    /// Its address is not among those allowed.
    #[error(
        "its address is not in `workers.allow`; a loopback address, or one such as the API server's, needs an entry of its \
         own there, and a link-local one is never allowed"
    )]
    NotAllowed,
    /// Its pool serves another model.
    #[error("its model differs from that of the pool's other workers")]
    OtherModel,
    /// There are too many workers.
    #[error("there are too many workers: at most {MOST_DISCOVERED} can be discovered")]
    Full,
}
