//! One page from another server, for what goes on beside requests: a connection for each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

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
        timeout(patience, self.connect()).await.map_err(|_| FetchFault::TimedOut(patience))?
    }

    async fn connect(self) -> Result<Bytes, FetchFault> {
        let host = self.server.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.server.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let socket = TcpStream::connect((bare, port)).await.map_err(broken)?;
        let Some(tls) = self.tls else { return self.ask(socket).await };
        let name = ServerName::try_from(bare.to_owned()).map_err(broken)?;
        let socket = TlsConnector::from(Arc::clone(tls)).connect(name, socket).await.map_err(broken)?;
        self.ask(socket).await
    }

    async fn ask(self, socket: impl AsyncRead + AsyncWrite + Unpin) -> Result<Bytes, FetchFault> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(broken)?;
        let authority = self.server.authority().map_or("", |authority| authority.as_str());
        let request = Request::get(self.path).header(HOST, authority).body(Empty::<Bytes>::new());
        let exchange = async {
            let answer = sender.send_request(request.map_err(broken)?).await.map_err(broken)?;
            if !answer.status().is_success() {
                return Err(FetchFault::Status(answer.status()));
            }
            Ok(Limited::new(answer.into_body(), self.largest).collect().await.map_err(broken)?.to_bytes())
        };
        // The connection works for as long as somebody polls it, and ends with this.
        tokio::pin!(connection, exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            ended = &mut connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(broken(error)),
            },
        }
    }
}
