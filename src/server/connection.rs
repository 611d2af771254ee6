//! Serves one connection.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tower::Service;

use super::aside::Aside;
use super::drain::{Drain, DrainPhase};
use super::head_timeout::{HeadTimeout, WireVersion};
use super::service::{ConnectionService, ConnectionState};
use super::write_timeout::StreamExecutor;
use super::{ListenerBounds, Peer};

/// Minimum buffer size of hyper.
const LEAST_BUFFER: usize = 8 * 1024;
/// Unread body bytes in flight per HTTP/2 stream, and per connection. Uploads that are wanted are
/// read at once, so this bounds the cost of the others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Buffered answer bytes of one HTTP/2 stream whose window is shut.
const STREAM_SEND_BUFFER: usize = 64 * 1024;
/// Maximum concurrent streams that the peer reset before they were accepted, and that the gateway
/// reset for errors. More end the connection: this bounds the cost of resets.
const PENDING_RESETS: usize = 20;
const FAULTY_STREAMS: usize = 64;
/// Interval of HTTP/2 pings, and timeout of the reply.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WITHIN: Duration = Duration::from_secs(20);
/// Number of idle checks per idle time.
const LOOKS: u32 = 3;

/// Events of a connection besides its requests.
enum ConnectionEvent {
    /// It should take no further requests.
    Leave,
    /// The gateway shuts down further.
    Phase,
    /// It is time to see whether it is idle.
    Look,
}

/// Serves a connection until its peer leaves, its idle time is over, or the gateway shuts down.
pub(super) async fn run<T, S, B>(socket: T, peer: Peer, app: S, bounds: &ListenerBounds, drain: &Drain)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let link = Arc::new(ConnectionState::new(peer));
    let mut phases = drain.phases();
    let mut socket = HeadTimeout::new(socket, bounds.header_read, Arc::clone(&link));
    let version = tokio::select! {
        biased;
        version = timeout(bounds.idle, socket.version()) => version,
        // Nobody waits for an answer yet.
        () = refusing_begins(&mut phases) => return,
    };
    let version = match version {
        Ok(Ok(version)) => version,
        Ok(Err(error)) => return tracing::debug!(addr = %peer.addr, %error, "connection ended"),
        Err(_) => return,
    };
    let io = TokioIo::new(socket);
    let front = ConnectionService {
        app,
        link: Arc::clone(&link),
        drain: drain.clone(),
        longest_head: longest_head(bounds),
    };
    match version {
        WireVersion::Http1 => {
            let connection = pin!(http1(bounds).serve_connection(io, front).with_upgrades());
            follow(connection, &link, phases, bounds, http1::UpgradeableConnection::graceful_shutdown).await;
        }
        WireVersion::Http2 => {
            // Boxed: it is larger, and there are fewer of them.
            let mut connection = Box::pin(http2(bounds).serve_connection(io, front));
            follow(connection.as_mut(), &link, phases, bounds, http2::Connection::graceful_shutdown).await;
        }
    }
}

/// Waits until requests are refused from now on. Where they are refused already, a connection that arrives gets its
/// refusal.
async fn refusing_begins(phases: &mut watch::Receiver<DrainPhase>) {
    while phases.changed().await.is_ok() && *phases.borrow_and_update() < DrainPhase::Refusing {}
}

/// Drives a connection until its end. `leave_gracefully` lets it take no further requests.
async fn follow<C>(
    mut connection: Pin<&mut C>,
    link: &ConnectionState,
    mut phases: watch::Receiver<DrainPhase>,
    bounds: &ListenerBounds,
    leave_gracefully: impl Fn(Pin<&mut C>),
) where
    C: Future<Output = hyper::Result<()>>,
{
    let peer = link.peer;
    let mut pause = bounds.idle / LOOKS;
    let mut look = pin!(sleep(pause));
    let (mut leaving, mut rested, mut begun) = (false, 0, 0);
    loop {
        let mut leave = false;
        let event = Aside::new(async {
            tokio::select! {
                () = link.asked_to_leave() => ConnectionEvent::Leave,
                Ok(()) = phases.changed() => ConnectionEvent::Phase,
                () = look.as_mut() => ConnectionEvent::Look,
            }
        });
        let event = tokio::select! {
            biased;
            outcome = connection.as_mut() => {
                if let Err(error) = outcome {
                    tracing::debug!(addr = %peer.addr, %error, "connection ended");
                }
                return;
            }
            event = event => event,
        };
        match event {
            ConnectionEvent::Leave => leave = true,
            // A connection that arrives while requests are refused leaves after its refusal.
            ConnectionEvent::Phase => match *phases.borrow_and_update() {
                DrainPhase::Running | DrainPhase::Draining => {}
                DrainPhase::Refusing => leave = true,
                DrainPhase::Closed => return,
            },
            ConnectionEvent::Look => {
                let resting = link.in_flight() == 0 && link.begun() == begun;
                begun = link.begun();
                rested = if resting { rested + 1 } else { 0 };
                // The idle peer ignores the request to leave: close.
                if leaving && resting {
                    return;
                }
                leave = rested >= LOOKS;
                look.as_mut().reset(Instant::now() + pause);
            }
        }
        if leave && !leaving {
            leaving = true;
            leave_gracefully(connection.as_mut());
            pause = pause.min(bounds.client_stall);
            look.as_mut().reset(Instant::now() + pause);
        }
    }
}

fn longest_head(bounds: &ListenerBounds) -> usize {
    bounds.headers.max(LEAST_BUFFER)
}

fn http1(bounds: &ListenerBounds) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // `HeadTimeout` applies the head timeout.
        .header_read_timeout(None)
        .max_buf_size(longest_head(bounds));
    builder
}

fn http2(bounds: &ListenerBounds) -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(StreamExecutor { patience: bounds.client_stall });
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.h2_streams)
        .max_header_list_size(u32::try_from(longest_head(bounds)).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(FAULTY_STREAMS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WITHIN);
    builder
}
