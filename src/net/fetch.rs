//! One page from another server, for what goes on beside requests: a connection for each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use rustls::ClientConfig;
use tokio::time::timeout;

use super::client;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum FetchFault {
    /// It took too long.
    #[error("it did not answer within {0:?}")]
    TimedOut(Duration),
    /// It cannot be connected to, or the connection broke.
    #[error("it does not answer: {0}")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It says that something is wrong.
    #[error("it answers {0}")]
    Status(StatusCode),
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FetchFault {
    FetchFault::Broken(error.into())
}

/// Whom to ask, and how much of an answer to take.
#[derive(Debug)]
pub struct Fetch<'a> {
    /// The server: `http`, or `https` when there is `tls`.
    pub server: &'a Uri,
    /// The path there, with its query.
    pub path: &'a str,
    /// Whom an `https` server must prove to be.
    pub tls: Option<&'a Arc<ClientConfig>>,
    /// How long all of it may take.
    pub patience: Duration,
    /// The longest page that is read, in bytes.
    pub largest: usize,
}

impl Fetch<'_> {
    /// The page. Redirects are not followed.
    ///
    /// # Errors
    /// When the server does not answer in time, or with something else than a page of that length.
    pub async fn get(self) -> Result<Bytes, FetchFault> {
        let patience = self.patience;
        timeout(patience, self.ask()).await.map_err(|_| FetchFault::TimedOut(patience))?
    }

    async fn ask(self) -> Result<Bytes, FetchFault> {
        let authority = self.server.authority().map_or("", |authority| authority.as_str());
        let request = Request::get(self.path).header(HOST, authority).body(Empty::<Bytes>::new());
        let answer = client::send(self.server, self.tls, request.map_err(broken)?).await.map_err(broken)?;
        if !answer.status().is_success() {
            return Err(FetchFault::Status(answer.status()));
        }
        Ok(Limited::new(answer.into_body(), self.largest).collect().await.map_err(broken)?.to_bytes())
    }
}
