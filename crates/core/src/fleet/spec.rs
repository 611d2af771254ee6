//! A worker as an operator describes it.

use std::sync::Arc;

use http::{HeaderMap, Uri};

use super::provider::ProviderLimits;

/// One worker, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerSpec {
    /// Unique; a metric label: `[A-Za-z0-9._-]{1,64}`.
    pub id: Arc<str>,
    /// `http` or `https`, host and port, and an optional path prefix without a slash at its end.
    pub url: Uri,
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
    /// Whether requests go to it over HTTP/2; `None` for the default.
    pub http2: Option<Http2Mode>,
}

/// Whether requests go to a worker over HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2Mode {
    /// If the worker chooses it in the TLS handshake.
    Auto,
    /// Never.
    Off,
    /// Always; with TLS, unless the worker chooses HTTP/1.1.
    PriorKnowledge,
}
