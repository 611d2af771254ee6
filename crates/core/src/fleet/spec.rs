//! A worker as an operator describes it.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Uri};
use serde::{Deserialize, Serialize};

use super::provider::ProviderLimits;

/// One worker, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerSpec {
    /// Unique; a metric label: `[A-Za-z0-9._-]{1,64}`, or the id of a discovered worker.
    pub id: Arc<str>,
    /// `http` or `https`, host and port, and an optional path prefix without a slash at its end.
    pub url: Uri,
    /// The address to connect to, if a discovery source found it; `None` to resolve the host of
    /// `url`. The name stays in `url` for TLS and for the `Host` header.
    pub address: Option<IpAddr>,
    /// The pool it belongs to.
    pub pool: Arc<str>,
    /// Models that it serves; `*` stands for any run of characters.
    pub model: Arc<str>,
    /// Requests that it decodes at once, if configured or reported.
    pub slots: Option<u32>,
    /// Tokens that its KV cache holds, if configured or reported.
    pub kv_tokens: Option<u64>,
    /// Its blue/green colour.
    pub colour: Arc<str>,
    /// Headers set on every request to it, such as its own credentials. Sensitive.
    pub headers: HeaderMap,
    /// Limits of its provider, if it is external: it belongs to somebody else, such as a paid API.
    pub external: Option<ProviderLimits>,
    /// Use of HTTP/2 for requests to it; `None` for the default.
    pub http2: Option<Http2Mode>,
}

/// Whether requests go to a worker over HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Http2Mode {
    /// if its URL is `https` and it chooses HTTP/2 in the TLS handshake (ALPN)
    Auto,
    /// never
    Off,
    /// as `auto`, and without TLS always: the worker must accept HTTP/2 without negotiation (h2c)
    PriorKnowledge,
}
