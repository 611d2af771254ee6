//! Asking a worker over HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The longest page of metrics that is read.
const LARGEST: usize = 8 << 20;

/// Why a worker did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeFault {
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

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ProbeFault {
    ProbeFault::Broken(error.into())
}

/// The body of `GET path` at `worker`, an `http` URL whose own path comes first.
pub(super) async fn get(worker: &Uri, path: &str, patience: Duration) -> Result<Bytes, ProbeFault> {
    timeout(patience, ask(worker, path)).await.map_err(|_| ProbeFault::TimedOut(patience))?
}

async fn ask(worker: &Uri, path: &str) -> Result<Bytes, ProbeFault> {
    let host = worker.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let socket = TcpStream::connect((bare, worker.port_u16().unwrap_or(80))).await.map_err(broken)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(broken)?;
    let authority = worker.authority().map_or(host, |authority| authority.as_str());
    let prefix = worker.path().trim_end_matches('/');
    let request = Request::get(format!("{prefix}{path}")).header(HOST, authority).body(Empty::<Bytes>::new());
    let exchange = async {
        let answer = sender.send_request(request.map_err(broken)?).await.map_err(broken)?;
        if !answer.status().is_success() {
            return Err(ProbeFault::Status(answer.status()));
        }
        Ok(Limited::new(answer.into_body(), LARGEST).collect().await.map_err(broken)?.to_bytes())
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
