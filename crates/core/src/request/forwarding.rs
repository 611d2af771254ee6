//! Where a request came from, and how it may be forwarded to a worker.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;

/// The other end of the connection that a request came from (set by the listener).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Address of the client, or of the proxy before the gateway.
    pub addr: SocketAddr,
    /// `true` if the connection is encrypted.
    pub tls: bool,
}

impl Default for Peer {
    /// Returns a peer for requests without a connection, such as in tests.
    fn default() -> Self {
        Self { addr: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), tls: false }
    }
}

/// What forwarding to a worker needs to know about the incoming connection (set by `identify`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// Headers that must not reach the worker: they carry credentials for the gateway.
    pub strip: SmallVec<[HeaderName; 2]>,
    /// The address at the other end of the connection.
    pub peer_ip: IpAddr,
    /// The client's address: the peer's, or the one that trusted proxies report.
    pub client_ip: IpAddr,
    /// `true` if the connection is encrypted.
    pub tls: bool,
    /// `true` if the peer is a trusted proxy, so that its `X-Forwarded-*` are kept and extended.
    pub trusted_proxy: bool,
}

/// Set by `request_cost` if it added `stream_options.include_usage`: the answer's extra event is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageInjected;

/// Set by `request_cost` on a request that may be sent to another model: the piece of the body that names
/// the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelPart {
    /// Index of the piece.
    pub index: usize,
    /// `true` if it is a JSON string, `false` if it is the plain value of a form's part.
    pub json: bool,
}

impl ModelPart {
    /// Writes `model` as the body has it.
    #[must_use]
    pub fn write(self, model: &str) -> Bytes {
        if self.json { serde_json::Value::from(model).to_string().into() } else { model.to_owned().into() }
    }
}

/// Set by `request_cost` on a request that may switch to this protocol (`Upgrade`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpgradeTo(pub HeaderValue);

/// Set on requests by the gateway itself: they take no permit and go to any worker of this pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayRequest(pub Arc<str>);

/// Set by `request_cost` on a request that continues an earlier response: its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousResponse(pub Arc<str>);

/// Set by `responses` on a request that only this worker can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToWorker(pub Arc<str>);

/// Set by `request_cost` on a request whose path has escapes: the decoded path, which patterns match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedPath(pub Arc<str>);

/// Timeouts of one route; `None` for the general timeout (set by `request_cost`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// To connect to a worker.
    pub connect: Option<std::time::Duration>,
    /// From the dispatch to the first content of a stream.
    pub first_token: Option<std::time::Duration>,
    /// From the first dispatch until the answer's head is sent although there is no content yet.
    pub head_without_content: Option<std::time::Duration>,
    /// Longest silence after the commit.
    pub idle: Option<std::time::Duration>,
    /// From the dispatch to the end of the answer.
    pub total: Option<std::time::Duration>,
}
