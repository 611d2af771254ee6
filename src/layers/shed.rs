//! Concurrency: the tower adapter around a pool's gate.
//!
//! An admitted request holds a [`Permit`] until its response *body* ends. Requests wait only here,
//! with a timer for the wait budget. A client that hangs up leaves the queue at once, because its
//! waiter is dropped with the future.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::{Method, Request, Response};
use tower::{Layer, Service};

use crate::clock::Clock;
use crate::fleet::{Fleet, local_gate};
use crate::layers::body::{BodyGuard, Guarded};
use crate::layers::unserved::UnservedCallers;
use crate::openai::kinds;
use crate::refusal::{Reason, Refusal};
use crate::request::{Caller, GatewayRequest, RequestCost, RequestRecord};
use crate::shed::settings::GateSettings;
use crate::shed::{GateEntry, GateHandle, Permit, PermitRequest, Waiter};

/// Finds the gate of a request.
pub trait Gates: Clone + Send + Sync + 'static {
    /// Returns the gate for this model, and the name of its pool, if it has one.
    ///
    /// # Errors
    /// `not_found` if no pool serves the model.
    fn gate(&self, model: Option<&str>) -> Result<(GateHandle, Option<Arc<str>>), Refusal>;
}

impl Gates for GateHandle {
    fn gate(&self, _: Option<&str>) -> Result<(GateHandle, Option<Arc<str>>), Refusal> {
        Ok((self.clone(), None))
    }
}

impl Gates for Arc<ArcSwap<Fleet>> {
    fn gate(&self, model: Option<&str>) -> Result<(GateHandle, Option<Arc<str>>), Refusal> {
        let fleet = self.load();
        match fleet.route(model) {
            Some(pool) => Ok((pool.gate.clone(), Some(Arc::clone(&pool.name)))),
            None => Err(Refusal::new(
                Reason::NotFound,
                "No worker serves this model. The setting `workers.static[].model` names the served models.",
            )
            .with_param("model")),
        }
    }
}

/// Layer for [`Shed`].
#[derive(Clone, Debug)]
pub struct ShedLayer<G> {
    gates: G,
    clock: Clock,
    unserved: Option<Arc<UnservedCallers>>,
}

impl<G: Gates> ShedLayer<G> {
    /// Creates a layer before `gates`. `clock` must be the clock of the gates.
    #[must_use]
    pub const fn new(gates: G, clock: Clock) -> Self {
        Self { gates, clock, unserved: None }
    }

    /// Remembers the callers that are refused for lack of room.
    #[must_use]
    pub fn with_unserved(self, unserved: &Arc<UnservedCallers>) -> Self {
        Self { unserved: Some(Arc::clone(unserved)), ..self }
    }
}

impl ShedLayer<GateHandle> {
    /// Creates a layer before one service that takes `slots` requests at once.
    #[must_use]
    pub fn local(slots: u32, settings: GateSettings, clock: Clock) -> Self {
        Self::new(local_gate(slots, settings, clock.clone()), clock)
    }
}

impl<S, G: Clone> Layer<S> for ShedLayer<G> {
    type Service = Shed<S, G>;

    fn layer(&self, inner: S) -> Shed<S, G> {
        let (gates, clock) = (self.gates.clone(), self.clock.clone());
        Shed { gates, clock, unserved: self.unserved.clone(), inner }
    }
}

/// Service that admits requests for which a worker has room, makes a bounded number of others wait
/// for a bounded time, and refuses the rest.
///
/// Reads [`Caller`] and [`RequestCost`] from the request's extensions and inserts the [`Permit`], by
/// which the inner service reports progress.
#[derive(Clone, Debug)]
pub struct Shed<S, G> {
    gates: G,
    clock: Clock,
    unserved: Option<Arc<UnservedCallers>>,
    inner: S,
}

/// Builds the question to the gate; without a caller or a cost, for an anonymous plain call.
fn ask_of(caller: Option<&Caller>, request_cost: Option<&RequestCost>) -> PermitRequest {
    match (caller, request_cost) {
        (Some(caller), Some(request_cost)) => PermitRequest::of(caller, request_cost),
        (caller, request_cost) => PermitRequest::of(
            &caller.cloned().unwrap_or_else(|| Caller::new("anonymous")),
            &request_cost.cloned().unwrap_or_else(RequestCost::path),
        ),
    }
}

impl<S, G: Gates> Shed<S, G> {
    /// Finds the pool of a call whose kind takes no permit. The forwarder bounds such calls.
    fn route_beside<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
        let extensions = request.extensions_mut();
        let Some(cost) =
            extensions.get::<RequestCost>().filter(|cost| kinds::row(cost.kind).beside.is_some())
        else {
            return Ok(());
        };
        let (_, pool) = self.gates.gate(cost.model.as_deref())?;
        let Some(pool) = pool else { return Ok(()) };
        if let Some(record) = extensions.get::<Arc<RequestRecord>>() {
            record.set_pool(&pool);
        }
        extensions.insert(GatewayRequest(pool));
        Ok(())
    }
}

impl BodyGuard for Permit {}

/// Waits for a permit until the waiter expires.
async fn wait(mut waiter: Waiter, clock: &Clock) -> Result<Permit, Refusal> {
    let budget = waiter.expires_at().since(clock.now());
    match tokio::time::timeout(budget, &mut waiter).await {
        Ok(outcome) => outcome,
        Err(_) => Err(waiter.give_up()),
    }
}

impl<S, B, R, G> Service<Request<B>> for Shed<S, G>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<Refusal>,
    S::Future: Send + 'static,
    B: Send + 'static,
    G: Gates,
{
    type Response = Response<Guarded<R, Option<Permit>>>;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Refusal>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Err(refusal) = self.route_beside(&mut request) {
            return Box::pin(async move { Err(refusal) });
        }
        // Such requests are no load for a worker, so they need no permit.
        let beside = request.extensions().get::<GatewayRequest>().is_some();
        if beside || matches!(*request.method(), Method::OPTIONS | Method::HEAD) {
            let answer = self.inner.call(request);
            return Box::pin(async move {
                answer.await.map(|response| response.map(|body| Guarded::new(body, None))).map_err(Into::into)
            });
        }
        let extensions = request.extensions();
        let request_cost = extensions.get::<RequestCost>();
        let record = extensions.get::<Arc<RequestRecord>>().cloned();
        let entry = self
            .gates
            .gate(request_cost.and_then(|request_cost| request_cost.model.as_deref()))
            .and_then(|(gate, pool)| {
                if let (Some(record), Some(pool)) = (&record, &pool) {
                    record.set_pool(pool);
                }
                gate.ask(ask_of(extensions.get::<Caller>(), request_cost))
            });
        let unserved = self.unserved.clone();
        let caller = extensions.get::<Caller>().map(|caller| Arc::clone(&caller.id));
        let clock = self.clock.clone();
        let note = {
            let (record, clock) = (record.clone(), clock.clone());
            move |refusal: &Refusal| {
                let pool = record.as_ref().and_then(|record| record.pool());
                if let (Some(unserved), Some(pool), Some(caller)) = (&unserved, pool, &caller) {
                    unserved.refused(pool, caller, refusal, clock.now());
                }
            }
        };
        let entry = match entry {
            Ok(entry) => entry,
            Err(refusal) => {
                note(&refusal);
                return Box::pin(async move { Err(refusal) });
            }
        };
        // The service that was made ready is the one to call; its clone takes its place.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        Box::pin(async move {
            let permit = match entry {
                GateEntry::Admitted(permit) => permit,
                GateEntry::Waiting(waiter) => {
                    let since = clock.now();
                    let outcome = wait(waiter, &clock).await;
                    if let Some(record) = &record {
                        record.set_queued(clock.now().since(since));
                    }
                    outcome.inspect_err(&note)?
                }
            };
            request.extensions_mut().insert(permit.clone());
            let response = inner.call(request).await.map_err(Into::into)?;
            Ok(response.map(|body| Guarded::new(body, Some(permit))))
        })
    }
}
