//! Fetches one document from another server, over a new connection each.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use rustls::ClientConfig;
use tokio::time::timeout;

use super::client;

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The time limit was exceeded.
    #[error("it did not answer within {0:?}")]
    TimedOut(Duration),
    /// The connection could not be opened, or broke.
    #[error("the request failed: {0}")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The status is not 2xx.
    #[error("it answered with status {0}")]
    Status(StatusCode),
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FetchError {
    FetchError::Broken(error.into())
}

/// A GET request with limits on time and size.
#[derive(Debug)]
pub(crate) struct Fetch<'a> {
    /// URL of the server: `http`, or `https` if `tls` is set.
    pub server: &'a Uri,
    /// Address to connect to; `None` to resolve the host of `server`.
    pub address: Option<IpAddr>,
    /// Path and query.
    pub path: &'a str,
    /// Headers of the request besides `Host`.
    pub headers: &'a HeaderMap,
    /// TLS client configuration for `https`.
    pub tls: Option<&'a Arc<ClientConfig>>,
    /// Time limit for the whole request.
    pub timeout: Duration,
    /// Largest body, in bytes.
    pub max_bytes: usize,
}

impl Fetch<'_> {
    /// Returns the body. Does not follow redirects.
    ///
    /// # Errors
    /// If there is no 2xx response with a body of at most `max_bytes` bytes within the time limit.
    pub(crate) async fn get(self) -> Result<Bytes, FetchError> {
        let patience = self.timeout;
        timeout(patience, self.ask()).await.map_err(|_| FetchError::TimedOut(patience))?
    }

    async fn ask(self) -> Result<Bytes, FetchError> {
        let authority = self.server.authority().map_or("", |authority| authority.as_str());
        let request = Request::get(self.path).header(HOST, authority).body(Empty::<Bytes>::new());
        let mut request = request.map_err(broken)?;
        request.headers_mut().extend(self.headers.clone());
        let answer = client::send_to(self.address, self.server, self.tls, request).await.map_err(broken)?;
        if !answer.status().is_success() {
            return Err(FetchError::Status(answer.status()));
        }
        Ok(Limited::new(answer.into_body(), self.max_bytes).collect().await.map_err(broken)?.to_bytes())
    }
}
