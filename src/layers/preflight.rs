//! Answers CORS preflights, which never reach a worker.
//!
//! A preflight carries no credentials by design, so it must not pass to anything that needs a key.
//! If `cors.origins` names origins, the CORS layer inside this one answers. Otherwise the answer
//! here allows nothing, and the browser blocks the call.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::header::ACCESS_CONTROL_REQUEST_METHOD;
use http::{Method, Request, Response, StatusCode};
use tower::{Layer, Service};

use crate::request::{Ending, RequestRecord};

/// Label of preflights in metrics and logs.
const LABEL: &str = "preflight";

/// Layer for [`Preflight`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct PreflightLayer {
    inner_cors: bool,
}

impl PreflightLayer {
    /// Creates a layer that answers preflights. With `inner_cors`, a CORS layer inside it
    /// answers them, and all other OPTIONS requests.
    #[must_use]
    pub(crate) const fn new(inner_cors: bool) -> Self {
        Self { inner_cors }
    }
}

impl<S> Layer<S> for PreflightLayer {
    type Service = Preflight<S>;

    fn layer(&self, inner: S) -> Preflight<S> {
        Preflight { answered_within: self.inner_cors, inner }
    }
}

/// Service that answers preflights and forwards all other requests.
#[derive(Clone, Debug)]
pub(crate) struct Preflight<S> {
    answered_within: bool,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Preflight<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let asks = request.method() == Method::OPTIONS
            && (self.answered_within || request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD));
        if !asks {
            return Either::Left(self.inner.call(request));
        }
        if let Some(record) = request.extensions().get::<Arc<RequestRecord>>() {
            record.set_route(&LABEL.into());
            record.set_ending(Ending::Complete);
        }
        if self.answered_within {
            return Either::Left(self.inner.call(request));
        }
        let mut answer = Response::new(R::default());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        Either::Right(ready(Ok(answer)))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn status(answered_within: bool, method: Method, asks: bool) -> u16 {
        let inner = service_fn(async |_: Request<()>| {
            let mut answer = Response::new(String::new());
            *answer.status_mut() = StatusCode::IM_A_TEAPOT;
            Ok::<_, Infallible>(answer)
        });
        let mut request = Request::builder().method(method).uri("/a");
        if asks {
            request = request.header(ACCESS_CONTROL_REQUEST_METHOD, "POST");
        }
        let layer = PreflightLayer::new(answered_within).layer(inner);
        layer.oneshot(request.body(()).unwrap()).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn a_preflight_goes_no_further_and_everything_else_does() {
        assert_eq!(status(false, Method::OPTIONS, true).await, 204);
        assert_eq!(status(false, Method::OPTIONS, false).await, 418);
        assert_eq!(status(false, Method::POST, true).await, 418);
        assert_eq!(status(true, Method::OPTIONS, true).await, 418);
    }
}
