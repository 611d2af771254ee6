//! Connecting to a worker: from the address to the HTTP handshake.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::dial::{ADDRESSES_MAX, dial};
use super::error::ConnectError;
use super::http1::WorkerConnection;
use super::http2::SharedConnection;
use super::socket::{MaybeTls, WorkerSocket};
use crate::clock::{Clock, Nanos};
use crate::fleet::spec::Http2Mode;
use crate::upstream::deadline::Deadline;
use crate::upstream::lazy_timer::LazyTimer;
use crate::upstream::settings::UpstreamSettings;
use crate::upstream::tls;

/// Address of a worker.
#[derive(Debug)]
pub(crate) struct WorkerAddress {
    /// Host name or address, without brackets.
    pub(crate) host: String,
    /// The address to connect to; `None` to resolve `host`.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    /// Name that the worker's certificate must prove; `None` unless its URL is `https`.
    pub(crate) tls: Option<ServerName<'static>>,
    /// Host and port, as in its URL.
    pub(crate) authority: Authority,
}

/// A connection that one request uses at a time.
pub(crate) type OwnConnection = WorkerConnection<WorkerSocket>;

/// A new connection to a worker.
#[derive(Debug)]
pub(crate) enum NewConnection {
    /// HTTP/1.1, for one request at a time.
    Own(Box<OwnConnection>),
    /// HTTP/2, for many.
    Shared(Arc<SharedConnection>),
}

/// Waits for `work`, at most until `deadline`.
pub(crate) async fn within<T>(
    deadline: Deadline,
    clock: &Clock,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    let mut timer = LazyTimer::default();
    tokio::select! {
        biased;
        done = work => done,
        () = timer.overdue(&deadline, clock) => Err(ConnectError::TimedOut(deadline.wait)),
    }
}

/// Returns when a connection that is opened now takes no new requests any more: after `age`, varied
/// by up to a fifth, so that connections opened together do not end together.
fn expiry(age: Duration, now: Nanos) -> Nanos {
    now + age.mul_f64(fastrand::f64().mul_add(0.4, 0.8))
}

/// Connects to a worker; `wait` is enforced by the caller. `http2`: whether to offer it.
pub(crate) async fn connect(
    target: &WorkerAddress,
    settings: &UpstreamSettings,
    http2: Http2Mode,
    wait: Duration,
    clock: &Clock,
) -> Result<NewConnection, ConnectError> {
    let tls = settings.tls.as_ref();
    let offering = match (tls, http2) {
        (None, _) | (_, Http2Mode::Off) => tls.cloned(),
        (Some(config), Http2Mode::Auto | Http2Mode::PriorKnowledge) => Some(tls::offering_http2(config)),
    };
    let stream = open(target, offering.as_ref(), wait).await?;
    let expires = expiry(settings.connection_age, clock.now());
    if stream.chose_http2() || (target.tls.is_none() && http2 == Http2Mode::PriorKnowledge) {
        let scheme = if target.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let host = (scheme, target.authority.clone());
        let heard = Arc::clone(&stream.heard);
        let ages = (clock.now(), expires);
        let shared = SharedConnection::begin(TokioIo::new(stream), host, heard, ages).await;
        return shared.map(NewConnection::Shared).map_err(ConnectError::Http);
    }
    Ok(NewConnection::Own(WorkerConnection::new(stream, expires)))
}

/// Connects to one of the target's addresses.
async fn open(
    target: &WorkerAddress,
    tls: Option<&Arc<rustls::ClientConfig>>,
    wait: Duration,
) -> Result<WorkerSocket, ConnectError> {
    if let Some(address) = target.address {
        return connect_address((address, target.port).into(), target, tls).await;
    }
    let found = lookup_host((target.host.as_str(), target.port)).await.map_err(|error| {
        // The client is told no address, so the name is only in the log.
        tracing::warn!(host = target.host, %error, "a worker's host name cannot be resolved");
        ConnectError::Name(error)
    })?;
    dial(found.take(ADDRESSES_MAX).collect(), wait, |address| connect_address(address, target, tls)).await
}

async fn connect_address(
    address: SocketAddr,
    target: &WorkerAddress,
    tls: Option<&Arc<rustls::ClientConfig>>,
) -> Result<WorkerSocket, ConnectError> {
    let tcp = TcpStream::connect(address).await.map_err(ConnectError::Tcp)?;
    // Nagle's algorithm would delay a token until the one before is acknowledged: 40 ms and more.
    tcp.set_nodelay(true).map_err(ConnectError::Tcp)?;
    let Some(name) = &target.tls else {
        return Ok(WorkerSocket::new(MaybeTls::Plain(tcp)));
    };
    let config = tls.ok_or(ConnectError::NoTls)?;
    let stream =
        TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp).await.map_err(ConnectError::Tls)?;
    Ok(WorkerSocket::new(MaybeTls::Tls(Box::new(stream))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_are_opened_together_do_not_end_together() {
        let (now, age) = (Nanos::from_secs(50), Duration::from_secs(300));
        let expiries: Vec<Nanos> = (0..1000).map(|_| expiry(age, now)).collect();
        let bounds = Nanos::from_secs(290)..=Nanos::from_secs(410);
        assert!(expiries.iter().all(|expires| bounds.contains(expires)));
        let early = expiries.iter().filter(|expires| **expires < Nanos::from_secs(350)).count();
        assert!((300..700).contains(&early), "{early}");
    }
}
