//! The accept loop.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tower::Service;

use super::connection;
use super::connection_limits::ConnectionLimits;
use super::drain::{Drain, DrainPhase};
use super::tls::TlsHandle;
use super::write_timeout::WriteTimeout;
use super::{ListenerBounds, Peer};

/// Pause after an accept that failed for lack of a resource (descriptors, memory). Only a closing
/// connection helps; without the pause the loop would burn CPU until then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Idle time before a TCP keepalive probe.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Serves `app` on a bound listener until `drain` reaches `last`.
///
/// HTTP/1.1 and HTTP/2: by ALPN over TLS, by prior knowledge without. Each request carries its
/// [`Peer`] in its extensions. Connections beyond `bounds.connections` or `bounds.per_ip` are
/// closed at once and not left in the backlog, so that the client or balancer can go elsewhere.
/// Malformed requests get 400 here and never reach `app`. `app` must always be ready, and answers
/// `draining` itself if [`Drain::is_refusing`].
///
/// If `last` is [`DrainPhase::Closed`], the listener stays open while requests are refused, so that
/// late clients learn why. If it is [`DrainPhase::Refusing`], they wait for the next process that has
/// the same socket.
pub async fn serve<S, B>(
    listener: TcpListener,
    tls: Option<TlsHandle>,
    bounds: Arc<ArcSwap<ListenerBounds>>,
    app: S,
    drain: Drain,
    last: DrainPhase,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connection_limits = Arc::new(ConnectionLimits::default());
    let ended = drain.reached(last);
    tokio::pin!(ended);
    let mut failures = 0_u64;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut ended => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, addr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                if failures.is_multiple_of(100) {
                    tracing::warn!(%error, "cannot accept connections; trying again");
                }
                failures += 1;
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failures = 0;
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let bounds = bounds.load_full();
        let place = match connection_limits.acquire(addr.ip(), &bounds) {
            Ok(place) => place,
            Err(full) => {
                tracing::debug!(%addr, bound = full.bound(), "connection closed: a connection limit is reached");
                continue;
            }
        };
        prepare(&socket, &bounds);
        let socket = WriteTimeout::new(socket, bounds.client_stall, (place, drain.hold()));
        let (app, drain) = (app.clone(), drain.clone());
        let acceptor = tls.as_ref().map(TlsHandle::acceptor);
        let Some(acceptor) = acceptor else {
            // A task of its own, which needs no room for TLS.
            tokio::spawn(async move {
                connection::run(socket, Peer { addr, tls: false }, app, &bounds, &drain).await;
            });
            continue;
        };
        tokio::spawn(async move {
            let peer = Peer { addr, tls: true };
            match timeout(bounds.header_read, acceptor.accept(socket)).await {
                Ok(Ok(socket)) => connection::run(socket, peer, app, &bounds, &drain).await,
                Ok(Err(error)) => tracing::debug!(%addr, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%addr, "TLS handshake took longer than bounds.header_read"),
            }
        });
    }
}

/// Returns `true` if only the accepted connection failed, so that the next accept may succeed.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn prepare(socket: &TcpStream, bounds: &ListenerBounds) {
    let options = SockRef::from(socket);
    // Without nodelay a small event waits 40 ms for an acknowledgement. Keepalive and user timeout
    // detect dead peers. A socket on which setting one fails is about to fail anyway.
    let set = options
        .set_tcp_nodelay(true)
        .and_then(|()| options.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE)));
    #[cfg(target_os = "linux")]
    let set = set.and_then(|()| options.set_tcp_user_timeout(Some(bounds.client_stall)));
    if let Err(error) = set {
        tracing::debug!(%error, "cannot set socket options");
    }
}
