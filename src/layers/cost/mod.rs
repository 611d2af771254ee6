//! Request cost: matches the path, reads the body within its bounds, and computes the cost from it.
//!
//! Limits and routing need the cost before anything is sent. So the body of an OpenAI endpoint is
//! read whole, up to `bounds.body`, parsed in place and forwarded as the same memory; of a large
//! one only as much as tells the cost (`held`). Bodies of other paths are forwarded
//! as they arrive.

mod feedback;
mod form;
mod json;
mod notes;
mod settings;
mod upgrade;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, request};
use http_body::Body;
use http_body_util::BodyExt;
use smallvec::SmallVec;
use tower::{Layer, Service};

use crate::layers::body::Guarded;
use crate::layers::forms::boundary_of;
use crate::layers::intake::BoundedBody;
use crate::layers::paths::Matched;
use crate::openai::dialect::Dialect;
use crate::openai::kinds::{self, BodyUse};
use crate::refusal::Refusal;
use crate::request::{
    BodyReservation, Caller, DecodedPath, Kind, Payload, RequestCost, RequestRecord, UpgradeTo,
};

use self::feedback::UsageFeedback;
use self::form::form_cost;
use self::json::json_cost;
use self::upgrade::asks_for_websocket;

pub(crate) use self::settings::CostSettings;
pub use self::settings::SessionSource;

/// Layer for [`Cost`].
#[derive(Clone, Debug)]
pub(crate) struct CostLayer(Arc<CostSettings>);

impl CostLayer {
    /// Creates a layer with the state `intake`.
    #[must_use]
    pub(crate) const fn new(intake: Arc<CostSettings>) -> Self {
        Self(intake)
    }
}

impl<S> Layer<S> for CostLayer {
    type Service = Cost<S>;

    fn layer(&self, inner: S) -> Cost<S> {
        Cost { intake: Arc::clone(&self.0), inner }
    }
}

/// Service that puts [`RequestCost`] into each request and turns its body into a [`Payload`].
#[derive(Clone, Debug)]
pub(crate) struct Cost<S> {
    intake: Arc<CostSettings>,
    inner: S,
}

/// A request with its cost computed, and guards that must live while it is served.
struct CostedRequest {
    request: Request<Payload>,
    lesson: Option<UsageFeedback>,
    room: Option<BodyReservation>,
}

/// Computes the cost of a request by its kind of body, and turns the body into what is sent.
async fn compute_cost<B>(intake: &Arc<CostSettings>, request: Request<B>) -> Result<CostedRequest, Refusal>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + std::fmt::Display,
{
    let (mut parts, body) = request.into_parts();
    let record = parts.extensions.get::<Arc<RequestRecord>>().cloned();
    let matched = intake.matched(&parts)?;
    if let Some(record) = &record {
        record.set_route(&matched.label);
    }
    insert_match(&mut parts, &matched, body.is_end_stream());
    let caller =
        parts.extensions.get::<Caller>().map_or_else(|| "anonymous".into(), |caller| Arc::clone(&caller.id));
    let form = match kinds::row(matched.kind).body {
        BodyUse::JsonOrForm => boundary_of(&parts.headers)?,
        BodyUse::Passed | BodyUse::Json => None,
    };
    if form.is_some() || matched.shape.is_some() {
        intake.rules.check_before_body(&parts.uri, &parts.extensions)?;
    }
    let (mut request_cost, payload, lesson, room) = if let Some(boundary) = form {
        let (request_cost, payload, room) =
            Box::pin(form_cost(intake, &matched, &mut parts, body, &boundary, &caller)).await?;
        (request_cost, payload, None, Some(room))
    } else if let Some(shape) = &matched.shape {
        let (request_cost, payload, lesson, room) =
            json_cost(intake, &matched, shape, &mut parts, body, &caller).await?;
        (request_cost, payload, lesson, Some(room))
    } else {
        let payload = if body.is_end_stream() {
            Payload::empty()
        } else {
            let rest = BoundedBody::new(body, intake.limits_of(matched.kind))?.boxed_unsync();
            Payload::streaming(SmallVec::new(), rest)
        };
        let request_cost = RequestCost {
            kind: matched.kind,
            retryable: matched.retryable,
            session: intake.session(&parts.headers, None, &caller),
            ..RequestCost::path()
        };
        (request_cost, payload, None, None)
    };
    let now = intake.clock.now();
    request_cost.deadline =
        intake.deadline(&parts.headers, record.as_ref().map_or(now, |record| record.started))?;
    if let Some(record) = &record {
        record.set_received(now);
        record.set_asked(&request_cost);
    }
    parts.extensions.insert(request_cost);
    Ok(CostedRequest { request: Request::from_parts(parts, payload), lesson, room })
}

/// Adds what the layers within need to know of the matched path.
fn insert_match(parts: &mut request::Parts, matched: &Matched, has_no_body: bool) {
    // Only without a body: two servers may disagree on where a body ends and the tunnel begins.
    if matched.kind == Kind::Path && has_no_body && asks_for_websocket(parts) {
        parts.extensions.insert(UpgradeTo(HeaderValue::from_static("websocket")));
    }
    if let Some(path) = &matched.decoded {
        parts.extensions.insert(DecodedPath(Arc::clone(path)));
    }
    if let Some(timeouts) = matched.timeouts {
        parts.extensions.insert(timeouts);
    }
    if matched.dialect != Dialect::default() {
        parts.extensions.insert(matched.dialect);
    }
}

impl<S, B, R> Service<Request<B>> for Cost<S>
where
    S: Service<Request<Payload>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<Refusal>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + std::fmt::Display,
{
    type Response = Response<Guarded<R, Option<UsageFeedback>>>;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Refusal>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The service that was made ready is the one to call; its clone takes its place.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let intake = Arc::clone(&self.intake);
        Box::pin(async move {
            let CostedRequest { request, lesson, room } = compute_cost(&intake, request).await?;
            let response = inner.call(request).await.map_err(Into::into)?;
            // The answer has begun: only a request that may be retried still holds the memory.
            drop(room);
            Ok(response.map(|body| Guarded::new(body, lesson)))
        })
    }
}
