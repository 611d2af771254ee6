//! A simulated LLM worker, served over HTTP the way OpenAI-compatible engines are.
//!
//! Why: whoever tries the gateway, or tests it, needs a worker that queues, batches, preempts and fails like a real
//! one, on any machine and the same way each time. One task lives through the engine's events
//! in real time; a request's sequences end with its response, so a client that hangs up frees its slot at
//! once; a stream is written from prepared pieces, because on a shared core the worker's cost would pass for the
//! gateway's.
//!
//! It answers chat, completions, responses and embeddings, streamed and not, `/v1/models`, `/health`, and `/metrics`
//! under vLLM's names. Stream openings (the role chunk) go out before the first token, so that a client or a gateway
//! that takes them for content shows it. It fails as it is told to:
//!
//! | fault | what happens |
//! | --- | --- |
//! | `die`, `hang`, `status:CODE` | instead of an answer: the connection closes, nothing ever comes, an error comes |
//! | `slow-start:MS` | the work begins so much later |
//! | `die-after-headers`, `hang-after-headers` | the same after the headers; the hanging stream has had its role chunk |
//! | `break:N`, `stall:N`, `error-event:N` | after N tokens the connection breaks, falls silent, or an error event comes |
//! | `trailers` | HTTP trailers follow the stream |
//! | `chunk:BYTES` | the stream comes in pieces of this size, wherever that cuts its events |
//!
//! Named by the header `x-sim-fault`, the JSON field `sim_fault`, or `POST /debug/fault {"fault": …, "count": N}` for
//! the next N requests. `POST /debug/worker {"slots": …, "cached_share": …}` changes the worker while it runs, and tells
//! nobody: slots are lost with the next step, and the youngest sequences wait. `GET /debug/requests` counts requests by
//! outcome; `GET /debug/last` shows the last one. Header `x-request-id` comes back, and with it the same request gets the same bytes.
//!
//! With [`drain`] it takes its work from a queue as well, and answers it the same way.

mod answer;
mod ask;
mod body;
mod debug;
mod fault;
mod mailbox;
mod meters;
mod options;
mod queue;
mod responses;
mod service;
mod size;
mod station;
mod tally;
mod words;

pub use options::Options;
pub use queue::Membership;

use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use queue::Drainer;
use service::Shop;
use station::Station;

/// Connections at once; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 16_384;
/// How long a client may take to send a request's head.
const HEADER_READ: Duration = Duration::from_secs(60);
/// The wait after an accept that failed, as it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves a worker on `listener` until `shutdown` completes; then every connection is closed at once, as when the
/// process is killed. Speaks HTTP/1.1 and HTTP/2 with prior knowledge.
pub async fn serve(listener: TcpListener, options: Options, shutdown: impl Future<Output = ()>) {
    let station = Arc::new(Station::new(&options));
    let shop = Arc::new(Shop::new(options, Arc::clone(&station)));
    open(listener, station, shop, shutdown).await;
}

/// Has a worker drain a queue, and serves it on `listener` too, until `shutdown` completes and it has drained.
pub async fn drain(
    listener: TcpListener,
    options: Options,
    membership: Membership,
    shutdown: impl Future<Output = ()>,
) {
    let station = Arc::new(Station::new(&options));
    let shop = Arc::new(Shop::new(options.clone(), Arc::clone(&station)));
    let drainer = Drainer::new(Arc::clone(&shop), Arc::clone(&station), options, membership);
    open(listener, station, shop, drainer.drain(shutdown)).await;
}

async fn open(
    listener: TcpListener,
    station: Arc<Station>,
    shop: Arc<Shop>,
    shutdown: impl Future<Output = ()>,
) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ);
    server.http2().timer(TokioTimer::new());

    // Everything runs in this set: when it is dropped, nothing is left behind.
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { station.drive().await });
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept(), if tasks.len() <= MAX_CONNECTIONS => match accepted {
                Ok((socket, _)) => {
                    if socket.set_nodelay(true).is_err() {
                        continue;
                    }
                    let shop = Arc::clone(&shop);
                    let service = service_fn(move |request| {
                        let shop = Arc::clone(&shop);
                        async move { shop.serve(request).await }
                    });
                    let server = server.clone();
                    tasks.spawn(async move {
                        // A connection that fails, or is made to fail, concerns its client only.
                        server.serve_connection(TokioIo::new(socket), service).await.unwrap_or_default();
                    });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}
