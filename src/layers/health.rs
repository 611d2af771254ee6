//! `GET /health` on the request port: whether a request would be served now.
//!
//! Engines have this path, and clients ask it before they begin. The layer is inside the
//! maintenance switch, so it refuses during a drain or maintenance, and outside all layers that
//! need a key. If `paths` or `routes` let this path through, the worker answers it.

use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::TryFutureExt;
use futures_util::future::{Either, MapOk, Ready, ready};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response};
use tower::{Layer, Service};

use super::cost::CostSettings;
use super::paths::HEALTH;
use super::rescue::AnswerBody;
use crate::fleet::Fleet;
use crate::refusal::{Reason, Refusal};
use crate::request::{Ending, RequestRecord};

/// Layer for [`Health`].
#[derive(Clone, Debug)]
pub(crate) struct HealthLayer {
    fleet: Arc<ArcSwap<Fleet>>,
    /// `true` if the settings let `/health` through to workers.
    forwarded: bool,
}

impl HealthLayer {
    /// Creates a layer that answers for `fleet`, unless `intake` lets the path through to workers.
    #[must_use]
    pub(crate) fn new(fleet: Arc<ArcSwap<Fleet>>, intake: &CostSettings) -> Self {
        Self { fleet, forwarded: intake.paths.find(&Method::GET, HEALTH).is_ok() }
    }

    fn answer(&self) -> Result<Response<Bytes>, Refusal> {
        if !self.fleet.load().workers().iter().any(|worker| worker.eligible) {
            return Err(Refusal::new(Reason::NoWorker, "No worker is available."));
        }
        let mut answer = Response::new(Bytes::from_static(b"{\"status\":\"ok\"}"));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(answer)
    }
}

impl<S> Layer<S> for HealthLayer {
    type Service = Health<S>;

    fn layer(&self, inner: S) -> Health<S> {
        Health { shared: self.clone(), inner }
    }
}

/// Service that answers whether a request would be served now.
#[derive(Clone, Debug)]
pub(crate) struct Health<S> {
    shared: HealthLayer,
    inner: S,
}

type HealthState<F, R> = MapOk<F, fn(Response<R>) -> Response<AnswerBody<R>>>;

impl<S, B, R> Service<Request<B>> for Health<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Refusal>,
{
    type Response = Response<AnswerBody<R>>;
    type Error = Refusal;
    type Future = Either<HealthState<S::Future, R>, Ready<Result<Self::Response, Refusal>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let asked = request.uri().path() == HEALTH && matches!(*request.method(), Method::GET | Method::HEAD);
        if self.shared.forwarded || !asked {
            let pass: fn(Response<R>) -> Response<AnswerBody<R>> = |response| response.map(AnswerBody::inner);
            return Either::Left(self.inner.call(request).map_ok(pass));
        }
        let record = request.extensions().get::<Arc<RequestRecord>>();
        if let Some(record) = record {
            record.set_route(&HEALTH.into());
        }
        let answer = self.shared.answer().map(|answer| answer.map(AnswerBody::text));
        if let (Some(record), Ok(_)) = (record, &answer) {
            record.set_ending(Ending::Complete);
        }
        Either::Right(ready(answer))
    }
}
