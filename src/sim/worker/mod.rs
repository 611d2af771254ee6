//! A simulated LLM worker, served over HTTP the way OpenAI-compatible engines are.
//!
//! To try or test the gateway, one needs a worker that queues, batches, preempts and fails like a real
//! one, on any machine, the same way each time. One task runs the engine's events in real time. A
//! request's sequences end with its response, so a client that hangs up frees its slot at once. The
//! pieces of streams are prepared in advance: on a shared core, the worker's CPU time would otherwise
//! be measured as the gateway's.
//!
//! It answers chat, completions, responses and messages, streamed or not, embeddings, rerank, images, speech, calls
//! that count tokens, `/v1/models`, `/health`, and `/metrics` with vLLM's names. A message begins with
//! thoughts if `thinking` is enabled, and calls a tool if `tool_choice` demands one; prompt parts with
//! `cache_control` are reported as read from a cache. Stream openings (the role chunk) precede the first
//! token, to expose a client or gateway that takes them for content. These faults can be requested:
//!
//! | fault | effect |
//! | --- | --- |
//! | `die`, `hang`, `status:CODE` | no answer: a closed connection, silence, an error |
//! | `slow-start:MS` | the work begins this many milliseconds later |
//! | `die-after-headers`, `hang-after-headers` | after the headers (`hang`: and the role chunk) |
//! | `break:N`, `stall:N`, `error-event:N` | after N tokens; the error is an event |
//! | `trailers` | HTTP trailers follow the stream |
//! | `chunk:BYTES` | the stream comes in pieces of this size, wherever that cuts events |
//!
//! The header `x-sim-fault` or the JSON field `sim_fault` names faults. For the next N requests,
//! `POST /debug/fault {"fault": …, "count": N}` does.
//! `POST /debug/worker {"slots": …, "cached_share": …}` changes the worker while it runs and
//! reports the change to nobody. Slots are lost at the next step; the youngest sequences wait.
//! `GET /debug/requests` counts requests by outcome; `GET /debug/last` shows the last one.
//! `x-request-id` is returned; the same request with the same id gets the same bytes.
//!
//! With `--prefix-cache`, prompts that begin like earlier ones cost only the rest, and `usage` says
//! how much was cached.
//!
//! With [`drain`], the worker also takes jobs from a queue and answers them the same way.

mod answer;
mod ask;
mod body;
mod debug;
mod driver;
mod fault;
mod mailbox;
mod messages;
mod meters;
mod options;
mod output_text;
mod plain;
mod plan;
mod prompt_blocks;
mod queue;
mod responses;
mod service;
mod size;
mod tally;

pub use crate::redis::drainer::Membership;
pub use options::WorkerOptions;

use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use driver::EngineDriver;
use service::WorkerService;

/// Maximum connections; more wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 16_384;
/// Timeout for the head of a request.
const HEADER_READ: Duration = Duration::from_secs(60);
/// Pause after a failed accept, for example when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves a worker on `listener` until `shutdown` completes, then closes every connection at once,
/// as if the process was killed. Accepts HTTP/1.1, and HTTP/2 with prior knowledge.
pub async fn serve(listener: TcpListener, options: WorkerOptions, shutdown: impl Future<Output = ()>) {
    let driver = Arc::new(EngineDriver::new(&options));
    let worker = Arc::new(WorkerService::new(options, Arc::clone(&driver)));
    open(listener, driver, worker, shutdown).await;
}

/// Serves a worker on `listener` and from a queue, until `shutdown` completes and it has drained.
pub async fn drain(
    listener: TcpListener,
    options: WorkerOptions,
    membership: Membership,
    shutdown: impl Future<Output = ()>,
) {
    let driver = Arc::new(EngineDriver::new(&options));
    let worker = Arc::new(WorkerService::new(options.clone(), Arc::clone(&driver)));
    let drainer = queue::drainer(Arc::clone(&worker), Arc::clone(&driver), &options, membership);
    open(listener, driver, worker, drainer.drain(shutdown)).await;
}

async fn open(
    listener: TcpListener,
    driver: Arc<EngineDriver>,
    worker: Arc<WorkerService>,
    shutdown: impl Future<Output = ()>,
) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ);
    server.http2().timer(TokioTimer::new());

    // All tasks run in this set: dropping it leaves none behind.
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { driver.drive().await });
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
                    let worker = Arc::clone(&worker);
                    let service = service_fn(move |request| {
                        let worker = Arc::clone(&worker);
                        async move { worker.serve(request).await }
                    });
                    let server = server.clone();
                    tasks.spawn(async move {
                        // A connection that fails, or is made to fail, affects only its client.
                        server.serve_connection(TokioIo::new(socket), service).await.unwrap_or_default();
                    });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}
