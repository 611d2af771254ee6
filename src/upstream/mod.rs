//! Forwarding to workers: pick → send → commit → stream.
//!
//! | file | content |
//! | --- | --- |
//! | `settings` | operator settings |
//! | `forward` | one request: attempts at workers until the commit |
//! | `body` | the response on its way back |
//! | `connections` `tls` | workers over HTTP: connections, and exchanges on them |
//! | `queue` | workers that take requests from the Redis queue |
//! | `error` `status` | errors, and which of them allow another attempt (pure) |
//! | `budget` | how many retries are allowed (pure) |
//! | `beside` | how many calls without a permit a worker has at once |
//! | `headers` `form` | which fields pass, and the content type of a response |
//! | `location` | rewriting of redirects |
//! | `provider` | external workers: what reaches them, and what they tell about their limits |
//! | `upload` | request bodies that are streamed |
//! | `deadline` `first_token` `lazy_timer` | timeouts |
//! | `closing` | cutting off all requests on shutdown |
//!
//! The two transports, `connections` and `queue`, know neither attempts nor each other. They meet in
//! two enums above them: `forward::Transport` sends a request, and `body::AnswerSource` reads the rest
//! of its response. So no piece of a response costs a dynamic call.
//!
//! A response is *committed* at its first content byte, not at its headers. Before that, another
//! worker can take over unnoticed. After it, each byte is passed on as it comes. A request that a
//! worker may have begun is sent again only if a second run does no harm. So this module must know
//! whether bytes left the machine, which general HTTP clients hide. The price: connection pools of
//! its own.
//!
//! Only idle connections outlive the request: dropping the future or the body at any point closes
//! the connection to the worker at once.

pub(crate) mod budget;
pub(crate) mod settings;
pub mod tls;

mod beside;
mod body;
mod closing;
mod connections;
mod deadline;
mod error;
mod first_token;
mod form;
mod forward;
mod headers;
mod lazy_timer;
mod location;
mod provider;
mod queue;
mod status;
mod upload;

pub use body::{BodyError, UpstreamBody};
pub use settings::{QueueSettings, RetrySettings, UpstreamSettings, UpstreamTimeouts};

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::{Request, Response};
use tower::Service;

use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::metrics::Metrics;
use crate::redis::jobs::JobQueue;
use crate::refusal::Refusal;
use crate::request::{Payload, RequestCost, RequestRecord};
use beside::BesideCounts;
use body::{BackgroundForward, EarlyLane};
use budget::RetryBudget;
use closing::CutOff;
use connections::Endpoints;
use forward::Forward;

/// Client for the workers. Clones share connections and the retry budget.
#[derive(Clone)]
pub struct Upstream(Arc<UpstreamInner>);

struct UpstreamInner {
    fleet: Arc<ArcSwap<Fleet>>,
    settings: Arc<ArcSwap<UpstreamSettings>>,
    clock: Clock,
    endpoints: Endpoints,
    budget: RetryBudget,
    /// Calls that take no permit.
    beside: BesideCounts,
    /// Client for the Redis queue.
    jobs: Option<JobQueue>,
    /// Shutdown signal.
    closing: CutOff,
    /// Where refusals of providers are counted.
    metrics: OnceLock<Arc<Metrics>>,
}

impl Upstream {
    /// Creates a client for the workers of `fleet`. Each request loads the fleet and settings anew.
    #[must_use]
    pub fn new(fleet: Arc<ArcSwap<Fleet>>, settings: Arc<ArcSwap<UpstreamSettings>>, clock: Clock) -> Self {
        Self::with_jobs(fleet, settings, clock, None)
    }

    /// Like [`Upstream::new`], with a client for workers that take requests from a queue.
    #[must_use]
    pub(crate) fn with_jobs(
        fleet: Arc<ArcSwap<Fleet>>,
        settings: Arc<ArcSwap<UpstreamSettings>>,
        clock: Clock,
        jobs: Option<JobQueue>,
    ) -> Self {
        Self(Arc::new(UpstreamInner {
            fleet,
            settings,
            clock,
            endpoints: Endpoints::default(),
            budget: RetryBudget::default(),
            beside: BesideCounts::default(),
            jobs,
            closing: CutOff::default(),
            metrics: OnceLock::new(),
        }))
    }

    /// Counts the refusals of providers in `metrics`. Only the first call has an effect.
    #[must_use]
    pub(crate) fn counting(self, metrics: &Arc<Metrics>) -> Self {
        self.0.metrics.get_or_init(|| Arc::clone(metrics));
        self
    }

    /// Ends every stream with an event that says the gateway shuts down, and refuses requests
    /// without a response. A request cut off after this call is not counted as left by its client.
    pub fn end_streams(&self) {
        self.0.closing.begin();
    }

    /// Sends a request to the worker its permit names; returns the response once it is committed.
    ///
    /// The request's extensions must hold its `Arc<RequestRecord>`. `Permit`, `RequestCost`,
    /// `Forwarding`, `RouteTimeouts` and `UsageInjected` are used if present.
    ///
    /// # Errors
    /// `upstream_unreachable`, `upstream_broke` or `upstream_timeout`, naming the worker;
    /// `no_worker` if it is gone; or the error of the client's own body.
    pub async fn forward(&self, request: Request<Payload>) -> Result<Response<UpstreamBody>, Refusal> {
        let streams = request
            .extensions()
            .get::<RequestCost>()
            .is_some_and(|request_cost| request_cost.kind.has_demand());
        let Some(record) = request.extensions().get::<Arc<RequestRecord>>().filter(|_| streams).cloned()
        else {
            let run = async {
                let settings = self.0.settings.load_full();
                let mut forward = Forward::begin(&self.0, &settings, request, None)?;
                forward.run().await
            };
            return Ok(Box::pin(run).await?.map(Into::into));
        };
        let lane = Arc::new(EarlyLane::default());
        let (inner, ahead) = (Arc::clone(&self.0), Arc::clone(&lane));
        let mut run: BackgroundForward = Box::pin(async move {
            let settings = inner.settings.load_full();
            let mut forward = Forward::begin(&inner, &settings, request, Some(&ahead))?;
            forward.run().await
        });
        let begun = poll_fn(|cx| match run.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Err(done)),
            Poll::Pending => lane.head().map_or(Poll::Pending, |head| Poll::Ready(Ok(head))),
        });
        match begun.await {
            Ok(head) => Ok(Response::from_parts(
                head,
                UpstreamBody::begun(run, lane, record, self.0.closing.listener()),
            )),
            Err(done) => done.map(|answer| answer.map(Into::into)),
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").finish_non_exhaustive()
    }
}

impl Service<Request<Payload>> for Upstream {
    type Response = Response<UpstreamBody>;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Refusal>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        // Always ready: the layers `limit` and `shed` decide which requests proceed.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let mut cut_off = this.0.closing.listener();
            let mut answer = pin!(this.forward(request));
            poll_fn(|cx| match answer.as_mut().poll(cx) {
                Poll::Pending if cut_off.has_begun(cx) => Poll::Ready(Err(closing::refusal())),
                answer => answer,
            })
            .await
        })
    }
}
