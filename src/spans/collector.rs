//! Connection to the collector, over this crate's own HTTP and TLS.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use opentelemetry_http::{HttpClient, HttpError};
use rustls::ClientConfig;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::net::client;

/// Maximum bytes of a collector's answer, which is short.
const LARGEST: usize = 1 << 20;

/// Sends batches. The batch processor's own thread has no runtime, so the gateway's does the work.
/// Each batch opens a connection: there is one batch every few seconds.
#[derive(Clone, Debug)]
pub(super) struct Collector {
    runtime: Handle,
    tls: Option<Arc<ClientConfig>>,
    headers: HeaderMap,
}

impl Collector {
    pub(super) fn new(tls: Option<Arc<ClientConfig>>, headers: HeaderMap) -> Self {
        Self { runtime: Handle::current(), tls, headers }
    }

    async fn post(self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (mut head, body) = request.into_parts();
        let target = head.uri.clone();
        if let Some(authority) = target.authority() {
            head.headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
        }
        if let Some(path) = target.path_and_query() {
            head.uri = path.clone().into();
        }
        head.headers.insert(CONTENT_LENGTH, body.len().into());
        head.headers.extend(self.headers.clone());
        let request = Request::from_parts(head, Full::new(body));
        let (head, body) = client::send(&target, self.tls.as_ref(), request).await?.into_parts();
        let body = Limited::new(body, LARGEST).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let post = self.clone().post(request);
        // The exporter's own timeout does not apply here; this one needs the runtime's timer.
        self.runtime.spawn(async { timeout(super::PATIENCE, post).await }).await??
    }
}
