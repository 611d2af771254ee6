//! Forwarding to workers: pick → send → commit → stream.
//!
//! | file | what |
//! | --- | --- |
//! | `settings` | what an operator sets |
//! | `journey` `exchange` | one request: attempts at workers up to the commit |
//! | `fault` | what can go wrong, and what may be tried again (pure) |
//! | `budget` | how much may be tried again (pure) |
//! | `headers` `form` | which fields pass, and what those of an answer say of its body |
//! | `location` | where redirects lead |
//! | `upload` | a request's body that is passed on as it arrives |
//! | `pool` `reuse` `connect` `dial` `tls` `link` `relay` | connections |
//! | `queue` | the same over a queue, where workers take requests instead of being sent them |
//! | `body` `source` `watch` `alarm` | the answer on its way back |
//! | `early` | its beginning before there is content |
//! | `closing` | when everything is about to be cut off |
//! | `tunnel` | what comes after an upgrade |
//!
//! A response is *committed* at the first content byte, not at the headers: until then another worker can take over
//! and the client notices nothing; from then on each byte is passed on as it comes. What a worker may have begun is
//! sent again only where a second run does no harm, so the way requests are written is our own affair: a general
//! HTTP client hides whether bytes left the machine. The price is a connection pool of our own, and HTTP/1.1 only.
//!
//! Nothing here outlives the request by more than an idle connection: dropping the future or the body at any point
//! closes the connection to the worker at once.

pub mod budget;
pub mod settings;
pub mod tls;

mod alarm;
mod body;
mod closing;
mod connect;
mod deadline;
mod dial;
mod early;
mod exchange;
mod fault;
mod form;
mod headers;
mod journey;
mod link;
mod location;
mod pool;
mod queue;
mod relay;
mod reuse;
mod source;
mod tunnel;
mod upload;
mod vigil;
mod watch;

pub use body::BodyError;
pub use early::UpstreamBody;
pub use settings::{QueueSettings, RetrySettings, Timeouts, UpstreamSettings};

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::{Request, Response};
use tower::Service;

use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::redis::jobs::Jobs;
use crate::refusal::Refusal;
use crate::request::{Demand, Flight, Payload};
use budget::RetryBudget;
use closing::Closing;
use early::{Lane, Run};
use journey::Journey;
use pool::Sites;

/// The way to the workers. Clones share their connections and the retry budget.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    fleet: Arc<ArcSwap<Fleet>>,
    settings: Arc<ArcSwap<UpstreamSettings>>,
    clock: Clock,
    sites: Sites,
    budget: RetryBudget,
    /// The way to workers of a queue.
    jobs: Option<Jobs>,
    /// When the gateway is about to cut off what is under way.
    closing: Closing,
}

impl Upstream {
    /// A way to the workers of `fleet`; both it and the settings are read anew for each request.
    #[must_use]
    pub fn new(fleet: Arc<ArcSwap<Fleet>>, settings: Arc<ArcSwap<UpstreamSettings>>, clock: Clock) -> Self {
        Self::with_jobs(fleet, settings, clock, None)
    }

    /// The same, and to those that take requests from a queue.
    #[must_use]
    pub fn with_jobs(
        fleet: Arc<ArcSwap<Fleet>>,
        settings: Arc<ArcSwap<UpstreamSettings>>,
        clock: Clock,
        jobs: Option<Jobs>,
    ) -> Self {
        Self(Arc::new(Inner {
            fleet,
            settings,
            clock,
            sites: Sites::default(),
            budget: RetryBudget::default(),
            jobs,
            closing: Closing::default(),
        }))
    }

    /// Has every stream say that the gateway goes down, and end, and refuses what was not answered yet. What is cut off from
    /// here on was not left by its client.
    pub fn end_streams(&self) {
        self.0.closing.begin();
    }

    /// Sends a request to the worker its permit names and returns the response once it is committed.
    ///
    /// The request's extensions must hold its `Arc<Flight>`; a `Permit`, `Demand`, `Forwarding`, `RouteTimeouts` and
    /// `UsageInjected` are heeded when there.
    ///
    /// # Errors
    /// A refusal with the reason `upstream_unreachable`, `upstream_broke` or `upstream_timeout` that names the worker,
    /// `no_worker` when it is gone, or what was wrong with the client's own body.
    pub async fn forward(&self, request: Request<Payload>) -> Result<Response<UpstreamBody>, Refusal> {
        let streams = request.extensions().get::<Demand>().is_some_and(|demand| demand.kind.has_demand());
        let Some(flight) = request.extensions().get::<Arc<Flight>>().filter(|_| streams).cloned() else {
            let settings = self.0.settings.load_full();
            return Ok(Journey::begin(&self.0, &settings, request, None)?.run().await?.map(Into::into));
        };
        let lane = Arc::new(Lane::default());
        let (inner, ahead) = (Arc::clone(&self.0), Arc::clone(&lane));
        let mut run: Run = Box::pin(async move {
            let settings = inner.settings.load_full();
            Journey::begin(&inner, &settings, request, Some(&ahead))?.run().await
        });
        let begun = poll_fn(|cx| match run.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Err(done)),
            Poll::Pending => lane.head().map_or(Poll::Pending, |head| Poll::Ready(Ok(head))),
        });
        match begun.await {
            Ok(head) => {
                Ok(Response::from_parts(head, UpstreamBody::begun(run, lane, flight, self.0.closing.bell())))
            }
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
        // What may go on is decided by `limit` and `shed`; here nothing waits.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let mut bell = this.0.closing.bell();
            let mut answer = pin!(this.forward(request));
            poll_fn(|cx| match answer.as_mut().poll(cx) {
                Poll::Pending if bell.rings(cx) => Poll::Ready(Err(closing::refusal())),
                answer => answer,
            })
            .await
        })
    }
}
