//! Asynchronous jobs, and requests that are sent again.
//!
//! A model call with `Prefer: respond-async` is answered at once, with where to ask for it; one with an
//! `Idempotency-Key` runs once, however often it is sent. Both are the caller's own: they need an API key, and nobody
//! else's key finds them.
//!
//! Where workers are called over HTTP, only that becomes a job which prefers it to the refusal that it would get.
//!
//! **Failure mode.** Redis does not answer: both are refused, since neither could be kept. Other requests pass.
//!
//! **Trade-off.** An asynchronous call is charged to the rules when it is accepted, with its estimate, and that stays.

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

/// How a client asks for an answer that comes later.
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// How a client marks a request that it may send again.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What the layer works with.
#[derive(Debug)]
pub struct Counter {
    /// Where jobs are kept.
    pub jobs: Jobs,
    /// What serves which model.
    pub fleet: Arc<ArcSwap<Fleet>>,
    /// What jobs are signed with.
    pub key: Option<Key>,
    /// Whether only that becomes a job for which there is no room.
    pub only_overflow: bool,
}

/// Makes [`Serve`].
#[derive(Clone, Debug)]
pub struct JobsLayer(Option<Arc<Counter>>);

impl JobsLayer {
    /// A layer that keeps jobs there, or lets everything pass.
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

/// Answers what concerns jobs, and lets the rest pass.
#[derive(Clone, Debug)]
pub struct Serve<S> {
    counter: Option<Arc<Counter>>,
    inner: S,
}

/// What may be done with jobs only by who shows an API key.
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

/// What a request wants of jobs.
enum Matter {
    /// Nothing.
    None,
    /// To look at one, or to end it.
    Look,
    /// To become one, or to be the same as before.
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
            // What only overflows is for the gate to say.
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

/// Lets a request run that may come again. Refused before it was a job, it may be sent again at once.
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

/// The text of a header, when it is one.
fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
