//! Connecting to a worker: from the address to the HTTP handshake.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::alarm::Alarm;
use super::deadline::Deadline;
use super::dial::{ADDRESSES_MAX, dial};
use super::link::Link;
use crate::clock::Clock;

/// Largest read, in bytes, which also bounds the head of a response. hyper starts at 8 KiB and
/// grows only while a worker fills the buffer, so an ordinary token stream stays at 8 KiB.
const READ_BUFFER: usize = 64 * 1024;

/// Address of a worker.
#[derive(Debug)]
pub(crate) struct Target {
    /// Host name or address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Name that the worker's certificate must prove; `None` unless its URL is `https`.
    pub(crate) tls: Option<ServerName<'static>>,
}

/// Error of a failed connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Timeout: neither accepted nor refused.
    #[error("it did not accept a connection within {0:?}")]
    TimedOut(Duration),
    /// Host name without an address.
    #[error("its name has no address")]
    NoAddress,
    /// Error of the system. Only its kind is shown: the rest may name the address.
    #[error("connecting failed: {}", .0.kind())]
    Tcp(#[source] io::Error),
    /// Worker's certificate was rejected, or it speaks no TLS.
    #[error("its TLS handshake failed")]
    Tls(#[source] io::Error),
    /// No TLS client in the settings.
    #[error("its URL is https, and no certificate authorities are configured")]
    NoTls,
    /// hyper rejected the connection.
    #[error("the HTTP connection could not be set up")]
    Http(#[source] hyper::Error),
}

/// Connects to a worker by `deadline`.
pub(crate) async fn connect(
    target: &Target,
    tls: Option<&Arc<rustls::ClientConfig>>,
    deadline: Deadline,
    clock: &Clock,
) -> Result<Box<Link>, ConnectError> {
    let mut alarm = Alarm::new(deadline.due(Duration::ZERO), clock.now());
    let stream = tokio::select! {
        biased;
        opened = open(target, tls, deadline.wait) => opened?,
        () = alarm.overdue(&deadline, clock) => return Err(ConnectError::TimedOut(deadline.wait)),
    };
    let heard = Arc::clone(&stream.heard);
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(READ_BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Http)?;
    Ok(Link::new(sender, connection, heard))
}

/// Connects to one of the target's addresses; `wait` is enforced by the caller.
async fn open(
    target: &Target,
    tls: Option<&Arc<rustls::ClientConfig>>,
    wait: Duration,
) -> Result<Stream, ConnectError> {
    let found = lookup_host((target.host.as_str(), target.port)).await.map_err(ConnectError::Tcp)?;
    dial(found.take(ADDRESSES_MAX).collect(), wait, |address| reach(address, target, tls)).await
}

async fn reach(
    address: SocketAddr,
    target: &Target,
    tls: Option<&Arc<rustls::ClientConfig>>,
) -> Result<Stream, ConnectError> {
    let tcp = TcpStream::connect(address).await.map_err(ConnectError::Tcp)?;
    // Nagle's algorithm would delay a token until the one before is acknowledged: 40 ms and more.
    tcp.set_nodelay(true).map_err(ConnectError::Tcp)?;
    let Some(name) = &target.tls else {
        return Ok(Stream::new(Wire::Plain(tcp)));
    };
    let config = tls.ok_or(ConnectError::NoTls)?;
    let stream =
        TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp).await.map_err(ConnectError::Tls)?;
    Ok(Stream::new(Wire::Tls(Box::new(stream))))
}

/// Byte stream of a connection that records whether any byte came.
#[derive(Debug)]
pub(crate) struct Stream {
    wire: Wire,
    /// Set on each read. Shared with the [`Link`], since hyper owns the stream.
    heard: Arc<AtomicBool>,
}

/// TCP, or TLS over it: an enum, so that a plain connection costs no dynamic call.
#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn new(wire: Wire) -> Self {
        Self { wire, heard: Arc::default() }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = match &mut this.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        };
        if buf.filled().len() > before {
            this.heard.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().wire {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Wire::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
        }
    }
}
