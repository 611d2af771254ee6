//! Asynchronous jobs and idempotency keys.
//!
//! A model call with `Prefer: respond-async` is answered at once with the location of a job; one
//! with an `Idempotency-Key` runs once, however often it is sent. Both are private to the caller:
//! they need an API key or a signed token, and no other caller can find them.
//!
//! With queue workers, the requests of one session run one after the other.
//!
//! With HTTP workers, a `respond-async` call becomes a job only if it would be refused otherwise, and
//! the answer to one with an `Idempotency-Key` is stored when it is complete.
//!
//! **Failure mode.** Without Redis both are refused with queue workers, as neither can be stored. With
//! HTTP workers they are served, and repeats run again. Other requests pass.
//!
//! **Trade-off.** An asynchronous call is charged its estimate on acceptance, never corrected.

mod ask;
mod body;
mod get;
mod keep;
mod marks;
mod once;
mod turn;

pub(crate) use body::JobBody;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use tower::{Layer, Service};

use self::ask::{AllowedOptions, JobOptions};
use crate::fleet::Fleet;
use crate::fleet::heartbeat::SigningKey;
use crate::layers::buffers::Buffers;
use crate::layers::passed::{PassedOr, answered, passed};
use crate::layers::paths::JOBS;
use crate::redis::jobs::{JobLimits, JobQueue, KeyClaim};
use crate::refusal::{Reason, Refusal};
use crate::request::{Caller, CallerId, CallerNamespace, Ending, Payload, RequestCost, RequestRecord};

/// Header that asks for an asynchronous answer.
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Header of a request that the client may send again.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Header with the time before which a job must not start.
const NOT_BEFORE: HeaderName = HeaderName::from_static("x-traffic-dam-not-before");

/// Which requests become jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobHandling {
    /// All, as workers take from a queue.
    All,
    /// Those that would be refused for lack of room, and may be answered later.
    Overflow,
    /// None. Only answers to requests with an `Idempotency-Key` are stored.
    None,
}

/// State of the layer.
#[derive(Debug)]
pub(crate) struct JobsSettings {
    /// The jobs in Redis.
    pub jobs: JobQueue,
    /// The fleet, which finds the pool of a model.
    pub fleet: Arc<ArcSwap<Fleet>>,
    /// The key that signs jobs, if they are signed.
    pub key: Option<SigningKey>,
    /// Which requests become jobs.
    pub handling: JobHandling,
    /// The memory for copies of answers.
    pub buffers: Arc<Buffers>,
    /// The longest time that a request may take over HTTP.
    pub longest: Duration,
    /// How long a request waits for the one before it in its session.
    pub turn_wait: Duration,
}

/// Layer for [`Jobs`].
#[derive(Clone, Debug)]
pub(crate) struct JobsLayer(Option<Arc<JobsSettings>>);

impl JobsLayer {
    /// Creates a layer with the state `counter`. With `None`, all requests pass unchanged.
    #[must_use]
    pub(crate) const fn new(counter: Option<Arc<JobsSettings>>) -> Self {
        Self(counter)
    }
}

impl<S> Layer<S> for JobsLayer {
    type Service = Jobs<S>;

    fn layer(&self, inner: S) -> Jobs<S> {
        Jobs { counter: self.0.clone(), inner }
    }
}

/// Service that answers requests about jobs and forwards all others.
#[derive(Clone, Debug)]
pub(crate) struct Jobs<S> {
    counter: Option<Arc<JobsSettings>>,
    inner: S,
}

/// Returns the caller if an API key or a token identified it; only such callers may use jobs.
fn named(caller: Option<&Caller>) -> Result<&Caller, Refusal> {
    let shown = |caller: &&Caller| {
        let namespace = CallerId::parse(&caller.id).map(|id| id.namespace);
        matches!(namespace, Some(CallerNamespace::Key | CallerNamespace::Token))
    };
    caller.filter(shown).ok_or_else(|| {
        Refusal::new(Reason::Unauthorized, "Jobs are private to their caller; send an API key.")
    })
}

fn answer<B>(response: Response<Bytes>, record: Option<&Arc<RequestRecord>>) -> Response<JobBody<B>> {
    if let Some(record) = record {
        record.set_ending(Ending::Complete);
    }
    response.map(JobBody::text)
}

enum JobOperation {
    /// Nothing: the request passes.
    None,
    Look,
    /// It may become a job, or has an idempotency key.
    Wish(JobOptions),
}

fn operation(request: &Request<Payload>, settings: &JobsSettings) -> Result<JobOperation, Refusal> {
    let extensions = request.extensions();
    if extensions
        .get::<Arc<RequestRecord>>()
        .and_then(|record| record.route())
        .is_some_and(|route| **route == *JOBS)
    {
        return Ok(JobOperation::Look);
    }
    let has_demand =
        extensions.get::<RequestCost>().is_some_and(|request_cost| request_cost.kind.has_demand());
    if !has_demand {
        return Ok(JobOperation::None);
    }
    let JobLimits { not_before, idempotency, .. } = settings.jobs.limits();
    let repeatable = settings.handling == JobHandling::All
        || (idempotency > 0
            && request.body().pieces().is_some()
            && named(extensions.get::<Caller>()).is_ok());
    let allowed = AllowedOptions {
        later: settings.handling != JobHandling::None,
        repeatable,
        delayable: not_before && settings.handling != JobHandling::None,
    };
    Ok(match JobOptions::read(request.headers(), allowed)? {
        Some(wish) => JobOperation::Wish(wish),
        None => JobOperation::None,
    })
}

impl<S, R> Service<Request<Payload>> for Jobs<S>
where
    S: Service<Request<Payload>, Response = Response<R>, Error = Refusal> + Clone + Send + 'static,
    S::Future: Send + 'static,
    R: Send + 'static,
{
    type Response = Response<JobBody<R>>;
    type Error = Refusal;
    type Future = PassedOr<S::Future, R, JobBody<R>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Payload>) -> Self::Future {
        let pass = |request, inner: &mut S| -> Self::Future {
            passed(inner.call(request), |answer| answer.map(JobBody::inner))
        };
        let Some(counter) = &self.counter else { return pass(request, &mut self.inner) };
        let counter = Arc::clone(counter);
        let wish = match operation(&request, &counter) {
            Ok(JobOperation::None) if counter.session(&request).is_none() => {
                return pass(request, &mut self.inner);
            }
            Ok(JobOperation::None) => None,
            Ok(JobOperation::Look) => {
                let (head, _) = request.into_parts();
                return answered(async move { counter.look(head).await });
            }
            // Only the gate knows whether there is room.
            Ok(JobOperation::Wish(wish)) if counter.handling != JobHandling::All => {
                let spare = counter.keep(&request, &wish);
                if wish.is_repeatable() {
                    let fresh = self.inner.clone();
                    let inner = std::mem::replace(&mut self.inner, fresh);
                    return answered(counter.answer_once(request, wish, spare, inner));
                }
                let Some(spare) = spare else { return pass(request, &mut self.inner) };
                if wish.is_delayed() {
                    return answered(async move { counter.accept_spare(spare, None).await });
                }
                let answer = self.inner.call(request);
                return answered(async move {
                    match answer.await {
                        Ok(response) => Ok(response.map(JobBody::inner)),
                        Err(refusal) => counter.accept_refused(refusal, spare, None).await,
                    }
                });
            }
            Ok(JobOperation::Wish(wish)) => Some(wish),
            Err(refusal) => return answered(async move { Err(refusal) }),
        };
        // The service that was made ready is the one to call; its clone takes its place.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        answered(async move {
            let trial = match wish {
                None => None,
                Some(wish) => match counter.ask(&mut request, wish).await? {
                    ask::JobDecision::Answered(response) => return Ok(response),
                    ask::JobDecision::Run(trial) => Some(trial),
                },
            };
            let answer = async {
                counter.take_turn(&mut request).await?;
                inner.call(request).await
            };
            match trial {
                Some(trial) => frees_key(&trial, answer).await,
                None => Ok(answer.await?.map(JobBody::inner)),
            }
        })
    }
}

/// Runs a request with an idempotency key. An error releases the key for an immediate retry.
async fn frees_key<R>(
    trial: &KeyClaim,
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
