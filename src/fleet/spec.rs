//! A worker as an operator describes it.

use std::sync::Arc;

use http::{HeaderMap, Uri};

/// One worker, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerSpec {
    /// Unique; a metric label: `[A-Za-z0-9._-]{1,64}`.
    pub id: Arc<str>,
    /// Scheme, host and port, and an optional path prefix without a slash at its end. `http` or `https`.
    pub url: Uri,
    /// The pool it belongs to.
    pub pool: Arc<str>,
    /// Which models it serves; `*` stands for any run of characters.
    pub model: Arc<str>,
    /// Requests it decodes at once, when told.
    pub slots: Option<u32>,
    /// Tokens its KV cache holds, when told.
    pub kv_tokens: Option<u64>,
    /// The blue/green side it is on.
    pub colour: Arc<str>,
    /// Headers set on every request to it, such as its own credentials. Sensitive.
    pub headers: HeaderMap,
}
