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
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::openai::{error, headers};
use crate::refusal::{Reason, Refusal};
use crate::request::RequestRecord;

/// Layer for [`Rescue`].
#[derive(Clone, Copy, Debug, Default)]
pub struct RescueLayer;

impl<S> Layer<S> for RescueLayer {
    type Service = Rescue<S>;

    fn layer(&self, inner: S) -> Rescue<S> {
        Rescue { inner }
    }
}

/// Service that answers the refusals of the inner service. Its own error is [`Infallible`].
#[derive(Clone, Debug)]
pub struct Rescue<S> {
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
        let inner = &mut self.inner;
        // A service may panic in `call` as well as in its future.
        let called = std::panic::catch_unwind(AssertUnwindSafe(|| inner.call(request)));
        let (inner, panicked) = match called {
            Ok(future) => (Some(AssertUnwindSafe(future).catch_unwind()), None),
            Err(panic) => (None, Some(defect(panic.as_ref()))),
        };
        RescueFuture { inner, panicked, record }
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
        let refusal = match this.inner.as_pin_mut() {
            Some(inner) => match ready!(inner.poll(cx)) {
                Ok(Ok(response)) => return Poll::Ready(Ok(response.map(AnswerBody::inner))),
                Ok(Err(refused)) => refused.into(),
                Err(panic) => defect(panic.as_ref()),
            },
            None => this.panicked.take().unwrap_or_else(|| Refusal::new(Reason::InternalError, DEFECT)),
        };
        if let Some(record) = this.record {
            record.set_reason(refusal.reason);
            record.set_cause(&refusal);
            record.set_ending(refusal.reason.into());
        }
        Poll::Ready(Ok(answer(&refusal).map(AnswerBody::text)))
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

    /// Creates a body with a text by the gateway.
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

/// Builds the HTTP answer to a refusal: status, headers, and an error body in OpenAI's format.
#[must_use]
pub fn answer(refusal: &Refusal) -> Response<Bytes> {
    let mut response = Response::new(error::body(refusal));
    *response.status_mut() = error::status(refusal.reason);
    let map = response.headers_mut();
    map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if refusal.reason == Reason::Unauthorized {
        // A 401 must name the accepted scheme (RFC 9110 §11.6.1).
        map.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    headers::refused(map, refusal);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_for_want_of_a_key_says_how_to_show_one() {
        for reason in Reason::ALL {
            let answer = answer(&Refusal::new(reason, "x"));
            let says = answer.headers().get(WWW_AUTHENTICATE).is_some();
            assert_eq!(says, answer.status() == http::StatusCode::UNAUTHORIZED, "{reason}");
        }
    }
}
