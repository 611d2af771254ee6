//! One start and one end per request, hang-ups and refusals included.
//!
//! It stands outermost, so nothing can happen to a request that is not counted here. The record ends with the response
//! body, or with the future when the client left before there was a response: both are the same guard, dropped once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tracing::Instrument;
use tracing::instrument::Instrumented;

use crate::clock::{Clock, Nanos};
use crate::layers::body::{Guarded, Tied};
use crate::metrics::{InFlight, Metrics, Pool};
use crate::openai::headers;
use crate::request::{Ending, Flight};

/// The request's id, from the client and back to it.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id of a client's own that is kept.
const LONGEST_ID: usize = 128;

/// What the layer works with; shared by all its services.
#[derive(Debug)]
pub struct Observatory {
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// The share of successes that is logged, 0…1; refusals and failures always are.
    pub log_share: f64,
    /// The promise: a first token later than this is no goodput.
    pub ttft_slo: Duration,
}

/// Makes [`Observe`].
#[derive(Clone, Debug)]
pub struct ObserveLayer(Arc<Observatory>);

impl ObserveLayer {
    /// A layer that records in `observatory`.
    #[must_use]
    pub const fn new(observatory: Arc<Observatory>) -> Self {
        Self(observatory)
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { observatory: Arc::clone(&self.0), inner }
    }
}

/// Opens the [`Flight`] of each request and closes it.
#[derive(Clone, Debug)]
pub struct Observe<S> {
    observatory: Arc<Observatory>,
    inner: S,
}

/// The id to use: the client's own when it is harmless in logs and headers, else a new one.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let harmless = |id: &&str| {
        !id.is_empty()
            && id.len() <= LONGEST_ID
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    match headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok()).filter(harmless) {
        Some(id) => id.into(),
        None => format!("{:032x}", fastrand::u128(..)).into(),
    }
}

/// A request under way; its end is the drop.
#[derive(Debug)]
pub struct Watch {
    observatory: Arc<Observatory>,
    flight: Arc<Flight>,
    status: u16,
    /// The series of its pool, from the first content of a stream on.
    pool: Option<Arc<Pool>>,
    last_data: Nanos,
    _in_flight: InFlight,
}

impl Tied for Watch {
    fn data(&mut self, waited: bool) {
        let flight = &*self.flight;
        let (true, Some(first)) = (flight.is_sse(), flight.first_token()) else { return };
        let Observatory { metrics, clock, .. } = &*self.observatory;
        let now = clock.now();
        match &self.pool {
            // A gap in which the client kept the worker's bytes waiting says nothing of the worker.
            Some(pool) if waited => pool.itl(now.since(self.last_data)),
            Some(_) => {}
            None => {
                let pool = metrics.pool(flight.pool().map_or("", |pool| pool));
                let class = flight.caller().map(|caller| caller.class).unwrap_or_default();
                pool.ttft(class, first.since(flight.received()));
                self.pool = Some(pool);
            }
        }
        self.last_data = now;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Observatory { metrics, clock, log_share, ttft_slo } = &*self.observatory;
        let flight = &*self.flight;
        let now = clock.now();
        let ending = flight.ending();
        let caller = flight.caller();
        let class = caller.map(|caller| caller.class).unwrap_or_default();
        let route = flight.route().map_or("other", |route| route);
        metrics.route(route).finished(class, ending, flight.reason(), now.since(flight.started));
        let (prompt, output) = flight.usage().unwrap_or_default();
        metrics.tokens(prompt, output);
        if let Some(caller) = caller {
            metrics.caller(&caller.id, ending == Ending::Refused, prompt + output);
        }
        if let Some(pool) = &self.pool
            && ending == Ending::Complete
            && flight.ttft().is_some_and(|ttft| ttft <= *ttft_slo)
        {
            pool.good();
        }
        let (class, caller) = caller.map_or(("", ""), |caller| (class.as_str(), &*caller.id));
        let worker = flight.worker().map_or("", |worker| worker);
        let reason = flight.reason().map_or("", |reason| reason.as_str());
        let millis = |length: Duration| length.as_micros() as f64 / 1000.0;
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    id = &*flight.id,
                    route,
                    class,
                    caller,
                    worker,
                    outcome = ending.as_str(),
                    reason,
                    status = self.status,
                    queued_ms = millis(flight.queued()),
                    ttft_ms = flight.ttft().map(millis),
                    duration_ms = millis(now.since(flight.started)),
                    output_tokens = flight.output_tokens(),
                    "request"
                )
            };
        }
        match ending {
            Ending::Complete if *log_share < 1.0 && fastrand::f64() >= *log_share => {}
            Ending::Complete | Ending::ClientGone | Ending::Refused => line!(tracing::Level::INFO),
            Ending::WorkerFailed | Ending::TimedOut => line!(tracing::Level::WARN),
        }
    }
}

impl<S, B, R> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<Guarded<R, Watch>>;
    type Error = S::Error;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let flight = Arc::new(Flight::new(request_id(request.headers()), self.observatory.clock.now()));
        request.extensions_mut().insert(Arc::clone(&flight));
        let watch = Watch {
            _in_flight: self.observatory.metrics.enter(),
            observatory: Arc::clone(&self.observatory),
            flight,
            status: 0,
            pool: None,
            last_data: Nanos::ZERO,
        };
        // Whatever is logged on behalf of the request says whose it is.
        let span = tracing::debug_span!("request", id = &*watch.flight.id);
        let inner = span.in_scope(|| self.inner.call(request)).instrument(span);
        ObserveFuture { inner, watch: Some(watch) }
    }
}

pin_project! {
    /// The answer of [`Observe`].
    #[derive(Debug)]
    pub struct ObserveFuture<F> {
        #[pin]
        inner: Instrumented<F>,
        watch: Option<Watch>,
    }
}

impl<F, R, E> Future for ObserveFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<Guarded<R, Watch>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match ready!(this.inner.poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let Some(mut watch) = this.watch.take() else {
            // Polled again after it was ready, which the contract of futures leaves undefined: never ready again.
            return Poll::Pending;
        };
        watch.status = response.status().as_u16();
        let Observatory { metrics, clock, .. } = &*watch.observatory;
        let flight = &*watch.flight;
        // What the gateway itself took: until the request went out, or until it was refused.
        let until = flight.dispatched().unwrap_or_else(|| clock.now());
        let dam = until.since(flight.received()).saturating_sub(flight.queued());
        match flight.ending() {
            Ending::Refused => metrics.refusal(dam),
            _ => metrics.overhead(dam),
        }
        if let Some(caller) = flight.caller()
            && flight.dispatched().is_some()
        {
            metrics.queue_wait(caller.class, flight.queued());
        }
        headers::server_timing(response.headers_mut(), dam, flight.queued());
        if let Ok(id) = HeaderValue::from_str(&flight.id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        Poll::Ready(Ok(response.map(|body| Guarded::new(body, watch))))
    }
}
