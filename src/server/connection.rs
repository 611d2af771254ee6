//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep};
use tower::Service;

use super::drain::{Drain, Phase};
use super::front::{Front, FrontLink};
use super::heads::Heads;
use super::stall::Streams;
use super::{Bounds, Peer};

/// Hyper takes no less as a buffer.
const LEAST_BUFFER: usize = 8 * 1024;
/// Bytes of a request's body that one HTTP/2 stream, and all of a connection, may have under way unread: uploads are
/// read at once by whoever wants them, so this bounds what those cost that nobody reads.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of an answer held for one HTTP/2 stream whose window is shut.
const STREAM_SEND_BUFFER: usize = 64 * 1024;
/// Streams reset before they were accepted, and streams reset by us for their faults, that a peer may have at once
/// before the connection is ended: what resets cost is bounded by it.
const PENDING_RESETS: usize = 20;
const FAULTY_STREAMS: usize = 64;
/// How often an HTTP/2 peer is asked whether it lives, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WITHIN: Duration = Duration::from_secs(20);
/// A resting connection is looked at so often in its idle time.
const LOOKS: u32 = 3;

/// Serves one connection until its peer leaves, it rests for too long, or the gateway goes down.
pub(super) async fn run<T, S, B>(socket: T, peer: Peer, app: S, bounds: &Bounds, drain: &Drain)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let link = Arc::new(FrontLink::new(peer));
    let mut phases = drain.phases();
    let io = TokioIo::new(Heads::new(socket, bounds.header_read, Arc::clone(&link)));
    let builder = builder(bounds);
    let front =
        Front { app, link: Arc::clone(&link), drain: drain.clone(), longest_head: longest_head(bounds) };
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, front));

    let mut pause = bounds.idle / LOOKS;
    let mut look = pin!(sleep(pause));
    let (mut leaving, mut rested, mut begun) = (false, 0, 0);
    loop {
        let mut leave = false;
        tokio::select! {
            biased;
            outcome = connection.as_mut() => {
                if let Err(error) = outcome {
                    tracing::debug!(addr = %peer.addr, %error, "connection ended");
                }
                return;
            }
            () = link.asked_to_leave() => leave = true,
            // A connection that came while requests are refused leaves when it has been told so.
            Ok(()) = phases.changed() => match *phases.borrow_and_update() {
                Phase::Running | Phase::Draining => {}
                Phase::Refusing => leave = true,
                Phase::Closed => return,
            },
            () = look.as_mut() => {
                let resting = link.in_flight() == 0 && link.begun() == begun;
                begun = link.begun();
                rested = if resting { rested + 1 } else { 0 };
                // The peer was asked to leave, has nothing under way, and stays: it need not agree.
                if leaving && resting {
                    return;
                }
                leave = rested >= LOOKS;
                look.as_mut().reset(Instant::now() + pause);
            }
        }
        if leave && !leaving {
            leaving = true;
            connection.as_mut().graceful_shutdown();
            pause = pause.min(bounds.client_stall);
            look.as_mut().reset(Instant::now() + pause);
        }
    }
}

fn longest_head(bounds: &Bounds) -> usize {
    bounds.headers.max(LEAST_BUFFER)
}

fn builder(bounds: &Bounds) -> Builder<Streams> {
    let mut builder = Builder::new(Streams { patience: bounds.client_stall });
    builder
        .http1()
        .timer(TokioTimer::new())
        // `Heads` keeps the time of heads.
        .header_read_timeout(None)
        .max_buf_size(longest_head(bounds));
    builder
        .http2()
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
