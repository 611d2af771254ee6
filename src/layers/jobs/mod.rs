//! Asynchronous jobs and idempotency keys.
//!
//! A model call with `Prefer: respond-async` is answered at once with the location of a job; one
//! with an `Idempotency-Key` runs once, however often it is sent. Both are private to the caller:
//! they need an API key or a signed token, and no other caller can find them.
//!
//! With HTTP workers, a `respond-async` call becomes a job only if it would be refused otherwise.
//!
//! **Failure mode.** Without Redis both are refused, as neither can be stored. Other requests pass.
//!
//! **Trade-off.** An asynchronous call is charged its estimate on acceptance, never corrected.

mod ask;
mod body;
mod marks;
mod show;

pub use body::JobBody;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use tower::{Layer, Service};

use self::ask::Wish;
use crate::fleet::Fleet;
use crate::fleet::heartbeat::Key;
use crate::layers::paths::JOBS;
use crate::redis::jobs::{Jobs, Trial};
use crate::refusal::{Reason, Refusal};
use crate::request::{Caller, Demand, Ending, Flight, Payload};

/// Header that asks for an asynchronous answer.
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Header of a request that the client may send again.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// State of the layer.
#[derive(Debug)]
pub struct Counter {
    /// The jobs in Redis.
    pub jobs: Jobs,
    /// The fleet, which finds the pool of a model.
    pub fleet: Arc<ArcSwap<Fleet>>,
    /// The key that signs jobs, if they are signed.
    pub key: Option<Key>,
    /// Whether a request becomes a job only if the gate has no room for it.
    pub only_overflow: bool,
}

/// Layer for [`Serve`].
#[derive(Clone, Debug)]
pub struct JobsLayer(Option<Arc<Counter>>);

impl JobsLayer {
    /// Creates a layer with the state `counter`. With `None`, all requests pass unchanged.
    #[must_use]
    pub const fn new(counter: Option<Arc<Counter>>) -> Self {
        Self(counter)
    }
}

impl<S> Layer<S> for JobsLayer {
    type Service = Serve<S>;

    fn layer(&self, inner: S) -> Serve<S> {
        Serve { counter: self.0.clone(), inner }
    }
}

/// Service that answers requests about jobs and forwards all others.
#[derive(Clone, Debug)]
pub struct Serve<S> {
    counter: Option<Arc<Counter>>,
    inner: S,
}

/// Returns the caller if an API key or a token identified it; only such callers may use jobs.
fn named(caller: Option<&Caller>) -> Result<&Caller, Refusal> {
    let shown = |caller: &&Caller| ["key:", "jwt:"].iter().any(|space| caller.id.starts_with(space));
    caller.filter(shown).ok_or_else(|| {
        Refusal::new(Reason::Unauthorized, "Jobs are private to who asked for them: send an API key.")
    })
}

fn answer<B>(response: Response<Bytes>, flight: Option<&Arc<Flight>>) -> Response<JobBody<B>> {
    if let Some(flight) = flight {
        flight.set_ending(Ending::Complete);
    }
    response.map(JobBody::text)
}

/// What a request has to do with jobs.
enum Matter {
/// Nothing: the request passes.
None,
/// It reads or ends a job.
Look,
/// It may become a job, or has an idempotency key.
    Wish(Wish),
}

fn matter<B>(request: &Request<B>, only_overflow: bool) -> Result<Matter, Refusal> {
    let extensions = request.extensions();
    if extensions.get::<Arc<Flight>>().and_then(|flight| flight.route()).is_some_and(|route| **route == *JOBS)
    {
        return Ok(Matter::Look);
    }
    let has_demand = extensions.get::<Demand>().is_some_and(|demand| demand.kind.has_demand());
    if !has_demand {
        return Ok(Matter::None);
    }
    Ok(match Wish::read(request.headers(), !only_overflow)? {
        Some(wish) => Matter::Wish(wish),
        None => Matter::None,
    })
}

impl<S, R> Service<Request<Payload>> for Serve<S>
where
    S: Service<Request<Payload>, Response = Response<R>, Error = Refusal> + Clone + Send + 'static,
    S::Future: Send + 'static,
    R: Send + 'static,
{
    type Response = Response<JobBody<R>>;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Refusal>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Payload>) -> Self::Future {
        let pass = |request, inner: &mut S| -> Self::Future {
            let answer = inner.call(request);
            Box::pin(async move { Ok(answer.await?.map(JobBody::inner)) })
        };
        let Some(counter) = &self.counter else { return pass(request, &mut self.inner) };
        let counter = Arc::clone(counter);
        let wish = match matter(&request, counter.only_overflow) {
            Ok(Matter::None) => return pass(request, &mut self.inner),
            Ok(Matter::Look) => {
                let (head, _) = request.into_parts();
                return Box::pin(async move { counter.look(head).await });
            }
            // Only the gate knows whether there is room.
            Ok(Matter::Wish(wish)) if counter.only_overflow => {
                let spare = counter.spare(&request, &wish);
                let Some(spare) = spare else { return pass(request, &mut self.inner) };
                let answer = self.inner.call(request);
                return Box::pin(async move {
                    match answer.await {
                        Ok(response) => Ok(response.map(JobBody::inner)),
                        Err(refusal) => counter.instead(refusal, spare).await,
                    }
                });
            }
            Ok(Matter::Wish(wish)) => wish,
            Err(refusal) => return Box::pin(async move { Err(refusal) }),
        };
        // The service that was made ready is the one to call; its clone takes its place.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        Box::pin(async move {
            let trial = match counter.ask(&mut request, wish).await? {
                ask::Asked::Answered(response) => return Ok(response),
                ask::Asked::Once(trial) => trial,
            };
            once(&trial, inner.call(request)).await
        })
    }
}

/// Runs a request with an idempotency key. An error releases the key for an immediate retry.
async fn once<R>(
    trial: &Trial,
    answer: impl Future<Output = Result<Response<R>, Refusal>>,
) -> Result<Response<JobBody<R>>, Refusal> {
    let answered = answer.await;
    if answered.is_err() {
        trial.forget().await;
    }
    answered.map(|response| response.map(JobBody::inner))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
