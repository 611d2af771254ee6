//! Turns refusals, errors and panics into HTTP answers; no other module does.
//!
//! The layer is inside `observe`, so that refusals are counted, and outside all layers that refuse.
//! A panic is a bug, but costs only one request: it gets a 500, and the connection stays open.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::CatchUnwind;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::paths::{ANTHROPIC_VERSION, Paths, is_of_models};
use crate::clock;
use crate::openai::dialect::Dialect;
use crate::openai::{anthropic, headers};
use crate::refusal::{Reason, Refusal};
use crate::request::RequestRecord;

/// Layer for [`Rescue`].
#[derive(Clone, Debug, Default)]
pub struct RescueLayer {
    paths: Option<Arc<Paths>>,
}

impl RescueLayer {
    /// Creates a layer that answers in the dialect of each path; by default all answers are in
    /// OpenAI's.
    #[must_use]
    pub(crate) const fn for_paths(paths: Arc<Paths>) -> Self {
        Self { paths: Some(paths) }
    }
}

impl<S> Layer<S> for RescueLayer {
    type Service = Rescue<S>;

    fn layer(&self, inner: S) -> Rescue<S> {
        Rescue { paths: self.paths.clone(), inner }
    }
}

/// Service that answers the refusals of the inner service. Its own error is [`Infallible`].
#[derive(Clone, Debug)]
pub struct Rescue<S> {
    paths: Option<Arc<Paths>>,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Rescue<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<Refusal>,
{
    type Response = Response<AnswerBody<R>>;
    type Error = Infallible;
    type Future = RescueFuture<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Every layer of this crate is always ready and refuses in `call`.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let record = request.extensions().get::<Arc<RequestRecord>>().cloned();
        let path = request.uri().path();
        let dialect = match &self.paths {
            // Both APIs have the list of models: only this field tells their clients apart.
            Some(_) if is_of_models(path) && request.headers().contains_key(ANTHROPIC_VERSION) => {
                Dialect::Anthropic
            }
            Some(paths) => paths.dialect(path),
            None => Dialect::default(),
        };
        let inner = &mut self.inner;
        // A service may panic in `call` as well as in its future.
        let called = std::panic::catch_unwind(AssertUnwindSafe(|| inner.call(request)));
        let (inner, panicked) = match called {
            Ok(future) => (Some(AssertUnwindSafe(future).catch_unwind()), None),
            Err(panic) => (None, Some(defect(panic.as_ref()))),
        };
        RescueFuture { inner, panicked, record, dialect }
    }
}

pin_project! {
    /// Future of [`Rescue`].
    #[derive(Debug)]
    pub struct RescueFuture<F> {
        #[pin]
        inner: Option<CatchUnwind<AssertUnwindSafe<F>>>,
        panicked: Option<Refusal>,
        record: Option<Arc<RequestRecord>>,
        dialect: Dialect,
    }
}

impl<F, R, E> Future for RescueFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<Refusal>,
{
    type Output = Result<Response<AnswerBody<R>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let id = this.record.as_ref().map_or("", |record| &*record.id);
        let refusal = match this.inner.as_pin_mut() {
            Some(inner) => match ready!(inner.poll(cx)) {
                Ok(Ok(mut response)) => {
                    set_request_id(response.headers_mut(), *this.dialect, id);
                    return Poll::Ready(Ok(response.map(AnswerBody::inner)));
                }
                Ok(Err(refused)) => refused.into(),
                Err(panic) => defect(panic.as_ref()),
            },
            None => this.panicked.take().unwrap_or_else(|| Refusal::new(Reason::InternalError, DEFECT)),
        };
        if let Some(record) = &this.record {
            record.set_reason(refusal.reason);
            record.set_cause(&refusal);
            record.set_ending(refusal.reason.into());
        }
        Poll::Ready(Ok(answer(&refusal, *this.dialect, id).map(AnswerBody::text)))
    }
}

pin_project! {
    /// The inner service's body, or the text of a refusal.
    #[derive(Debug)]
    pub struct AnswerBody<B> {
        #[pin]
        inner: Option<B>,
        text: Option<Bytes>,
    }
}

impl<B> AnswerBody<B> {
    pub(super) const fn inner(body: B) -> Self {
        Self { inner: Some(body), text: None }
    }

    pub(super) const fn text(text: Bytes) -> Self {
        Self { inner: None, text: Some(text) }
    }
}

impl<B> Default for AnswerBody<B> {
    /// Creates an empty body.
    fn default() -> Self {
        Self { inner: None, text: None }
    }
}

impl<B: Body<Data = Bytes>> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        match this.inner.as_pin_mut() {
            Some(inner) => inner.poll_frame(cx),
            None => Poll::Ready(this.text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().map_or(self.text.is_none(), Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(self.text.as_ref().map_or(0, |text| text.len() as u64)),
        }
    }
}

const DEFECT: &str = "The gateway failed on this request; its log has the details.";

fn defect(panic: &(dyn Any + Send)) -> Refusal {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message");
    tracing::error!(panic = text, "the gateway panicked while it handled a request");
    Refusal::new(Reason::InternalError, DEFECT)
}

/// Names the request in the header that clients of the dialect read; `observe` sets the common one.
fn set_request_id(map: &mut HeaderMap, dialect: Dialect, id: &str) {
    if dialect == Dialect::Anthropic
        && let Ok(id) = HeaderValue::from_str(id)
    {
        map.insert(anthropic::REQUEST_ID, id);
    }
}

/// Builds the HTTP answer to the refusal of the request `id`: status, headers, and an error body.
#[must_use]
pub(crate) fn answer(refusal: &Refusal, dialect: Dialect, id: &str) -> Response<Bytes> {
    let mut response = Response::new(dialect.body(refusal, id));
    *response.status_mut() = dialect.status(refusal.reason);
    let map = response.headers_mut();
    map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if refusal.reason == Reason::Unauthorized {
        // A 401 must name the accepted scheme (RFC 9110 §11.6.1).
        map.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    headers::refused(map, refusal, dialect, clock::wall);
    set_request_id(map, dialect, id);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_for_want_of_a_key_says_how_to_show_one() {
        for reason in Reason::ALL {
            let answer = answer(&Refusal::new(reason, "x"), Dialect::OpenAi, "r1");
            let says = answer.headers().get(WWW_AUTHENTICATE).is_some();
            assert_eq!(says, answer.status() == http::StatusCode::UNAUTHORIZED, "{reason}");
            assert!(answer.headers().get(anthropic::REQUEST_ID).is_none());
        }
    }

    #[test]
    fn a_messages_client_is_told_the_request_id_where_it_looks_for_it() {
        let answer = answer(&Refusal::new(Reason::Overloaded, "x"), Dialect::Anthropic, "r1");
        assert_eq!(answer.status().as_u16(), 529);
        assert_eq!(answer.headers()[anthropic::REQUEST_ID], "r1");
        assert!(
            answer.headers().contains_key("retry-after") && answer.headers().contains_key("retry-after-ms")
        );
    }
}
