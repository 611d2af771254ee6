//! Concurrency: a layer around a gate.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use http_body_util::Either;
use tower_layer::Layer;
use tower_service::Service;

use super::answer::{LayerBody, answer};
use super::permit_body::PermitBody;
use crate::clock::Clock;
use crate::fleet::local_gate;
use crate::request::{Caller, Ending, RequestCost};
use crate::shed::settings::GateSettings;
use crate::shed::{GateEntry, GateHandle, PermitRequest};

/// Layer for [`Shed`].
#[derive(Clone)]
pub struct ShedLayer<F> {
    gate: GateHandle,
    describe: F,
}

impl<F> ShedLayer<F> {
    /// Creates a layer before `gate`, whose workers the inner service stands for. `describe` returns
    /// whose request it is, and what it is expected to cost.
    #[must_use]
    pub const fn new<B>(gate: GateHandle, describe: F) -> Self
    where
        F: Fn(&Request<B>) -> (Caller, RequestCost),
    {
        Self { gate, describe }
    }

    /// Creates a layer before one service that takes `slots` requests at once.
    #[must_use]
    pub fn local<B>(slots: u32, settings: GateSettings, clock: Clock, describe: F) -> Self
    where
        F: Fn(&Request<B>) -> (Caller, RequestCost),
    {
        Self::new(local_gate(slots, settings, clock), describe)
    }

    /// Returns the gate. Call [`GateHandle::expire`] every few milliseconds: waits end then.
    #[must_use]
    pub const fn gate(&self) -> &GateHandle {
        &self.gate
    }
}

impl<S, F: Clone> Layer<S> for ShedLayer<F> {
    type Service = Shed<S, F>;

    fn layer(&self, inner: S) -> Shed<S, F> {
        Shed { layer: self.clone(), inner }
    }
}

impl<F> fmt::Debug for ShedLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShedLayer").field("gate", &self.gate).finish_non_exhaustive()
    }
}

/// Service that admits requests for which there is room, makes a bounded number of others wait for a
/// bounded time, and refuses the rest.
///
/// The inner service finds the [`Permit`](crate::shed::Permit) in the request's extensions. It is
/// held until the response body ends. If the request's cost says `stream`, the first piece of the
/// body counts as the first token. A request that is dropped before its answer and that was not
/// streamed holds its permit until the answer should be complete, as
/// [`Gate::abandon`](crate::shed::Gate::abandon) says: an engine behind the service may go on.
#[derive(Clone, Debug)]
pub struct Shed<S, F> {
    layer: ShedLayer<F>,
    inner: S,
}

impl<S, F, B, R> Service<Request<B>> for Shed<S, F>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    F: Fn(&Request<B>) -> (Caller, RequestCost),
    B: Send + 'static,
    R: Body,
{
    type Response = Response<LayerBody<PermitBody<R>>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let (caller, cost) = (self.layer.describe)(&request);
        let mut asked = PermitRequest::of(&caller, &cost);
        // The request is gone once it was sent, so its permit must not be revoked for another.
        asked.repeatable = false;
        let (entry, stream) = (self.layer.gate.ask(asked), cost.stream);
        // The service that was made ready is the one to call; its clone takes its place.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        Box::pin(async move {
            let permit = match entry {
                Ok(GateEntry::Admitted(permit)) => Ok(permit),
                Ok(GateEntry::Waiting(waiter)) => waiter.await,
                Err(refusal) => Err(refusal),
            };
            let permit = match permit {
                Ok(permit) => permit,
                Err(refusal) => return Ok(answer(refusal)),
            };
            request.extensions_mut().insert(permit.clone());
            permit.dispatched();
            let response = match inner.call(request).await {
                Ok(response) => response,
                Err(error) => {
                    permit.end(Ending::WorkerFailed);
                    return Err(error);
                }
            };
            // From here on a dropped body means that the service stops. Never `false`: it is not
            // repeatable.
            let _kept = permit.make_irrevocable();
            if response.status().is_client_error() || response.status().is_server_error() {
                permit.answered_with_error();
            }
            Ok(response.map(|body| Either::Left(PermitBody::new(body, permit, stream))))
        })
    }
}
