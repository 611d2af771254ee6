//! Where a request came from, and what of it may reach a worker.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;

/// The other end of the connection a request came in by (set by the listener).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The address of the client, or of the proxy before us.
    pub addr: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

impl Default for Peer {
    /// A peer for requests that came in by no connection, such as those of a test.
    fn default() -> Self {
        Self { addr: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), tls: false }
    }
}

/// What the way to the worker has to know of the way in (set by `identify`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// Headers that must not reach the worker: they carried a secret that is ours.
    pub strip: SmallVec<[HeaderName; 2]>,
    /// The address at the other end of the connection.
    pub peer_ip: IpAddr,
    /// The client's own address: the peer's, or what trusted proxies say.
    pub client_ip: IpAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Whether the peer is a trusted proxy, so that its `X-Forwarded-*` are kept and added to.
    pub trusted_proxy: bool,
}

/// Set by `demand` when it added `stream_options.include_usage`: what that adds to the answer is taken out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageInjected;

/// Set by `demand` on a request that may leave HTTP for this protocol (`Upgrade`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpgradeTo(pub HeaderValue);

/// Set on what the gateway itself asks a worker beside its work: it takes no seat, and goes to some worker of this pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beside(pub Arc<str>);

/// Set by `demand` on a request whose path was sent with escapes: the path that they stand for, which is the one that
/// patterns are matched on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedPath(pub Arc<str>);

/// The timeouts of one route, where they differ from the general ones (set by `demand`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// From the dispatch to the first content of a stream.
    pub first_token: Option<std::time::Duration>,
    /// From the first dispatch until a stream without content is begun all the same.
    pub hold: Option<std::time::Duration>,
    /// The longest silence after the commit.
    pub idle: Option<std::time::Duration>,
    /// From the dispatch to the end of the answer.
    pub total: Option<std::time::Duration>,
}
