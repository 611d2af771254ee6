//! Metrics, log line and spans of each request, including refused and abandoned ones.
//!
//! This is the outermost layer, so it counts every request. The record ends with the response body,
//! or with the future if the client leaves before the response: both own one guard, dropped once.

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
use crate::hex;
use crate::layers::body::{BodyGuard, Guarded};
use crate::metrics::{InFlightSeries, Metrics, PoolSeries};
use crate::openai::headers;
use crate::request::{Ending, RequestRecord, SloOutcome, Trace};
use crate::spans::{SpanHead, Spans};

/// Header with the request id, from the client and in the answer.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Fields of the log line of each request, with their descriptions for the documentation.
pub const LOG_FIELDS: [(&str, &str); 19] = [
    ("message", "`request`"),
    ("id", "request id: the header `x-request-id` of the answer and of the request to the worker"),
    ("trace_id", "trace id, as in `traceparent`; absent if there is no trace"),
    ("route", "the endpoint, or the configured pattern, that the request matched"),
    ("model", "the requested model, first 128 bytes"),
    (
        "served_model",
        "the name under which workers serve it, if `models` gives another; after a fallback, the last",
    ),
    ("stream", "`true` if the client requested a stream"),
    ("class", "the priority: `critical`, `interactive`, `batch`"),
    ("caller", "the caller: `key:`, `jwt:`, `hdr:` or `ip:`, then a name or an address"),
    ("worker", "the worker that answered, or whose failure ended the request"),
    ("outcome", "how the request ended: the label `outcome` of the metrics"),
    ("reason", "why the request was refused or failed: the header `x-traffic-dam-reason`"),
    ("cause", "the worker's error, in a sentence; absent if there was none"),
    ("status", "the HTTP status of the answer; 0 if the client left before it"),
    ("queued_ms", "wait for a permit, in ms"),
    ("ttft_ms", "TTFT in ms: last byte of the request to first content of the stream, waits included"),
    ("duration_ms", "from the head of the request to the last byte of the answer, in ms"),
    ("prompt_tokens", "prompt tokens: reported by the worker, or estimated"),
    ("output_tokens", "output tokens: reported by the worker, or counted in the stream"),
];

/// W3C header with the client's trace.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The longest request id that is taken from a client, in bytes.
const LONGEST_ID: usize = 128;

/// State shared by all services of the layer.
#[derive(Debug)]
pub(crate) struct RequestMetrics {
    /// Request metrics.
    pub metrics: Arc<Metrics>,
    /// Clock of all times in the record.
    pub clock: Clock,
    /// Share of successful requests that are logged, 0…1; refusals and failures are always logged.
    pub log_share: f64,
    /// TTFT SLO: an answer whose first token comes later is not goodput.
    pub ttft_slo: Duration,
    /// Span recorder; `None` if spans are not configured.
    pub spans: Option<Arc<Spans>>,
}

impl RequestMetrics {
    /// Returns the trace context of a request, if it has one.
    ///
    /// If the gateway records no spans, it begins no trace: one marked as sampled would make every
    /// worker that follows its caller record everything, and one marked as not sampled would make
    /// it record nothing. Each worker decides as if it were called directly.
    fn trace(&self, headers: &HeaderMap) -> Option<Trace> {
        let mut all = headers.get_all(&TRACEPARENT).iter();
        let incoming = match (all.next(), all.next()) {
            (Some(incoming), None) => incoming.to_str().ok().and_then(Trace::parse),
            _ => None,
        };
        let Some(spans) = &self.spans else { return incoming };
        // An id of zeros is invalid; setting one bit is cheaper than a check.
        let span = fastrand::u64(..) | 1;
        Some(match incoming {
            Some(incoming) => incoming.with_span(span),
            None => Trace::new(fastrand::u128(..) | 1, span, spans.samples(fastrand::f64())),
        })
    }
}

/// Layer for [`Observe`].
#[derive(Clone, Debug)]
pub(crate) struct ObserveLayer(Arc<RequestMetrics>);

impl ObserveLayer {
    /// Creates a layer that records in `observatory`.
    #[must_use]
    pub(crate) const fn new(observatory: Arc<RequestMetrics>) -> Self {
        Self(observatory)
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { observatory: Arc::clone(&self.0), inner }
    }
}

/// Service that opens the [`RequestRecord`] of each request and closes it.
#[derive(Clone, Debug)]
pub(crate) struct Observe<S> {
    observatory: Arc<RequestMetrics>,
    inner: S,
}

/// Returns the client's request id if it is harmless in logs and headers, else a new one.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let harmless = |id: &&str| {
        !id.is_empty()
            && id.len() <= LONGEST_ID
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    match headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok()).filter(harmless) {
        Some(id) => id.into(),
        None => String::from_utf8_lossy(&hex::digits(fastrand::u128(..))).into(),
    }
}

/// Guard of a request: records its end when dropped.
#[derive(Debug)]
pub(crate) struct ObservedRequest {
    observatory: Arc<RequestMetrics>,
    record: Arc<RequestRecord>,
    /// Request head for the span; `None` if no span is recorded.
    head: Option<SpanHead>,
    status: u16,
    /// Metrics of the pool; set at the first content of a stream.
    pool: Option<Arc<PoolSeries>>,
    last_data: Nanos,
    _in_flight: InFlightSeries,
}

impl BodyGuard for ObservedRequest {
    fn data(&mut self, waited: bool) {
        let record = &*self.record;
        let (true, Some(first)) = (record.is_streamed(), record.first_token()) else { return };
        let RequestMetrics { metrics, clock, .. } = &*self.observatory;
        let now = clock.now();
        match &self.pool {
            // A gap caused by a slow client says nothing about the worker.
            Some(pool) if waited => pool.itl(now.since(self.last_data)),
            Some(_) => {}
            None => {
                let pool = metrics.pool(record.pool().as_deref().unwrap_or(""));
                let class = record.caller().map(|caller| caller.class).unwrap_or_default();
                pool.ttft(class, first.since(record.received()));
                self.pool = Some(pool);
            }
        }
        self.last_data = now;
    }
}

impl Drop for ObservedRequest {
    fn drop(&mut self) {
        let RequestMetrics { metrics, clock, log_share, ttft_slo, spans } = &*self.observatory;
        let record = &*self.record;
        let now = clock.now();
        let ending = record.ending();
        let caller = record.caller();
        let class = caller.map(|caller| caller.class).unwrap_or_default();
        let route = record.route().map_or("other", |route| route);
        metrics.route(route).count(class, ending, record.reason(), now.since(record.started));
        let (prompt, output) = if self.status < 400 { record.tokens() } else { (0, 0) };
        metrics.tokens(prompt, output);
        if let Some(caller) = caller {
            metrics.caller(&caller.id, ending == Ending::Refused, prompt + output);
        }
        if let Some(promise) = SloOutcome::of(record, self.status, *ttft_slo, now) {
            // `self.pool` is `None` for a stream without content.
            let pool = self.pool.take().or_else(|| record.pool().map(|pool| metrics.pool(&pool)));
            if let Some(pool) = pool {
                pool.ended(promise);
            }
        }
        for taken in record.fallbacks() {
            metrics.fallback(&taken.entry, &taken.to, taken.reason);
        }
        if let (Some(spans), Some(head)) = (spans, &self.head) {
            spans.end(record, head, self.status, now);
        }
        let (class, caller) = caller.map_or(("", ""), |caller| (class.as_str(), &*caller.id));
        let worker = record.worker().map_or("", |worker| worker);
        let asked = record.asked();
        let model = asked.and_then(|asked| asked.model.as_deref());
        let served_model = record.served();
        let reported = record.usage().map(|(prompt, _)| prompt).filter(|prompt| *prompt > 0);
        let prompt_tokens = reported.or(asked.map(|asked| asked.prompt_tokens));
        let reason = record.reason().map_or("", |reason| reason.as_str());
        let millis = |length: Duration| length.as_micros() as f64 / 1000.0;
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    id = &*record.id,
                    trace_id = record.trace.map(|trace| tracing::field::display(trace.id)),
                    route,
                    model,
                    served_model = served_model.as_deref(),
                    stream = asked.map(|asked| asked.stream || record.is_streamed()),
                    class,
                    caller,
                    worker,
                    outcome = ending.as_str(),
                    reason,
                    cause = record.cause(),
                    status = self.status,
                    queued_ms = millis(record.queued()),
                    ttft_ms = record.ttft().map(millis),
                    duration_ms = millis(now.since(record.started)),
                    prompt_tokens,
                    output_tokens = record.output_tokens(),
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
    type Response = Response<Guarded<R, ObservedRequest>>;
    type Error = S::Error;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let headers = request.headers();
        let trace = self.observatory.trace(headers);
        let recorded = trace.filter(|trace| trace.sampled && self.observatory.spans.is_some());
        let record = RequestRecord::new(request_id(headers), self.observatory.clock.now());
        let record = Arc::new(record.in_trace(trace));
        let head = recorded.map(|trace| SpanHead::of(trace, &request));
        request.extensions_mut().insert(Arc::clone(&record));
        let watch = ObservedRequest {
            _in_flight: self.observatory.metrics.enter(),
            observatory: Arc::clone(&self.observatory),
            record,
            head,
            status: 0,
            pool: None,
            last_data: Nanos::ZERO,
        };
        // Every log line of this request carries its id.
        let span = tracing::debug_span!("request", id = &*watch.record.id);
        let inner = span.in_scope(|| self.inner.call(request)).instrument(span);
        ObserveFuture { inner, watch: Some(watch) }
    }
}

pin_project! {
    /// Future of [`Observe`].
    #[derive(Debug)]
    pub(crate) struct ObserveFuture<F> {
        #[pin]
        inner: Instrumented<F>,
        watch: Option<ObservedRequest>,
    }
}

impl<F, R, E> Future for ObserveFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<Guarded<R, ObservedRequest>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match ready!(this.inner.poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let Some(mut watch) = this.watch.take() else {
            // Polled after completion, which futures need not support: stays pending.
            return Poll::Pending;
        };
        watch.status = response.status().as_u16();
        let RequestMetrics { metrics, clock, .. } = &*watch.observatory;
        let record = &*watch.record;
        // Time spent in the gateway itself, until the request was dispatched or refused.
        let until = record.dispatched().unwrap_or_else(|| clock.now());
        let dam = until.since(record.received()).saturating_sub(record.queued());
        match record.ending() {
            Ending::Refused => metrics.refusal(dam),
            // The time was spent trying to reach a worker.
            Ending::WorkerFailed | Ending::TimedOut if record.dispatched().is_none() => {}
            _ => metrics.overhead(dam),
        }
        if let Some(caller) = record.caller()
            && record.dispatched().is_some()
        {
            metrics.queue_wait(caller.class, record.queued());
        }
        headers::server_timing(response.headers_mut(), dam, record.queued());
        if let Ok(id) = HeaderValue::from_str(&record.id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        Poll::Ready(Ok(response.map(|body| Guarded::new(body, watch))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use http_body_util::{BodyExt, Full};
    use parking_lot::Mutex;
    use tower::{ServiceExt, service_fn};
    use tracing::span;
    use tracing::subscriber::{Interest, Subscriber, with_default};

    /// Subscriber that collects the field names of events.
    #[derive(Default)]
    struct FieldNames(Arc<Mutex<Vec<&'static str>>>);

    impl Subscriber for FieldNames {
        fn register_callsite(&self, _: &'static tracing::Metadata<'static>) -> Interest {
            Interest::sometimes()
        }
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            metadata.is_event()
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            self.0.lock().extend(event.metadata().fields().iter().map(|field| field.name()));
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    fn observatory() -> Arc<RequestMetrics> {
        Arc::new(RequestMetrics {
            metrics: Arc::default(),
            clock: Clock::manual(Nanos::ZERO),
            log_share: 1.0,
            ttft_slo: Duration::from_secs(1),
            spans: None,
        })
    }

    #[test]
    fn a_request_leaves_one_line_with_the_documented_fields() {
        let names = FieldNames::default();
        let kept = Arc::clone(&names.0);
        with_default(names, || {
            let answer = service_fn(async |_: Request<()>| {
                let mut response = Response::new(Full::<bytes::Bytes>::default());
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok::<_, std::convert::Infallible>(response)
            });
            let stack = ObserveLayer::new(observatory()).layer(answer);
            let request = Request::get("/").header("x-request-id", "mine").body(()).unwrap();
            let response = futures_util::FutureExt::now_or_never(stack.oneshot(request)).unwrap().unwrap();
            assert_eq!(response.headers()[REQUEST_ID], "mine");
            futures_util::FutureExt::now_or_never(response.into_body().collect()).unwrap().unwrap();
        });
        let mut documented = LOG_FIELDS.map(|(name, _)| name).to_vec();
        let mut written = kept.lock().clone();
        documented.sort_unstable();
        written.sort_unstable();
        assert_eq!(written, documented);
    }

    #[test]
    fn without_spans_a_clients_trace_passes_and_none_is_begun() {
        let observatory = observatory();
        let mut headers = HeaderMap::new();
        assert_eq!(observatory.trace(&headers), None);
        let client = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
        headers.insert(TRACEPARENT, client.clone());
        let followed = observatory.trace(&headers).unwrap();
        assert!(!followed.worker_follows_gateway && !followed.sampled && followed.header() == client);
        // Two headers count as none: it is unknown which one is meant.
        headers.append(TRACEPARENT, client);
        assert_eq!(observatory.trace(&headers), None);
    }
}
