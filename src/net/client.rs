//! HTTP requests over a new connection each, for the gateway's own occasional requests.

use std::io;
use std::net::IpAddr;
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

use super::tls_fault::handshake_fault;

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not an `http` or `https` URL with a host.
    #[error("{0} is not an http or https URL")]
    Address(Uri),
    /// The address is `https`, and there is no TLS configuration.
    #[error("{0} needs TLS, but no TLS configuration was given")]
    NoTls(Uri),
    /// The connection could not be opened.
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    /// The server does not speak TLS, or its certificate is not accepted.
    #[error("the TLS handshake failed: {}", handshake_fault(.0))]
    Tls(#[source] io::Error),
    /// The connection broke, or the server does not speak HTTP.
    #[error("HTTP exchange failed: {0}")]
    Exchange(#[from] hyper::Error),
}

/// Sends `request` to the host of `target`. The connection lives until the body has been read.
///
/// # Errors
/// If the target is not reached or does not answer in HTTP. No time limit: the caller sets one.
pub async fn send<B>(
    target: &Uri,
    tls: Option<&Arc<ClientConfig>>,
    request: Request<B>,
) -> Result<Response<Incoming>, ClientError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    send_to(None, target, tls, request).await
}

/// Like [`send`], to `address` instead of those of the host's name.
///
/// # Errors
/// As [`send`].
pub(super) async fn send_to<B>(
    address: Option<IpAddr>,
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
    let socket = match address {
        Some(address) => TcpStream::connect((address, port)).await?,
        None => TcpStream::connect((host, port)).await?,
    };
    socket.set_nodelay(true)?;
    match tls {
        None => exchange(socket, request).await,
        Some(tls) => {
            let name =
                ServerName::try_from(host.to_owned()).map_err(|_| ClientError::Address(target.clone()))?;
            exchange(tls.connect(name, socket).await.map_err(ClientError::Tls)?, request).await
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
    // The task ends with the body, or when the body is dropped.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}
