//! The way to the collector, over this crate's own HTTP and TLS.

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

/// A collector answers with a few words.
const LARGEST: usize = 1 << 20;

/// Sends batches. They come from the batch processor's own thread, which has no runtime, so the work is done on the
/// gateway's. A connection for each batch: there is one every few seconds.
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
        // The exporter's own time limit does not reach here; this one needs the runtime's timer.
        self.runtime.spawn(async { timeout(super::PATIENCE, post).await }).await??
    }
}
