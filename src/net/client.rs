//! One request over a connection of its own: for what the gateway asks now and then, beside its work.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is no `http` or `https` one with a host.
    #[error("{0} is no http or https address")]
    Address(Uri),
    /// An `https` address, and no TLS to reach it by.
    #[error("{0} needs TLS, and none is set up")]
    NoTls(Uri),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    /// The connection broke, or it is no HTTP.
    #[error("the exchange broke off: {0}")]
    Exchange(#[from] hyper::Error),
}

/// Sends `request` to the host of `target`. The connection lives as long as the answer's body is read.
///
/// # Errors
/// When the target cannot be reached or does not answer in HTTP. It has no time limit: the caller sets one.
pub async fn send<B>(
    target: &Uri,
    tls: Option<&Arc<ClientConfig>>,
    request: Request<B>,
) -> Result<Response<Incoming>, ClientError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let encrypted = target.scheme_str() == Some("https");
    let host = target.host().ok_or_else(|| ClientError::Address(target.clone()))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = target.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    let tls = match (encrypted, tls) {
        (false, _) => None,
        (true, Some(tls)) => Some(TlsConnector::from(Arc::clone(tls))),
        (true, None) => return Err(ClientError::NoTls(target.clone())),
    };
    let socket = TcpStream::connect((host, port)).await?;
    socket.set_nodelay(true)?;
    match tls {
        None => exchange(socket, request).await,
        Some(tls) => {
            let name =
                ServerName::try_from(host.to_owned()).map_err(|_| ClientError::Address(target.clone()))?;
            exchange(tls.connect(name, socket).await?, request).await
        }
    }
}

async fn exchange<T, B>(socket: T, request: Request<B>) -> Result<Response<Incoming>, ClientError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    // It ends with the body, or when nobody wants that any more.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}
