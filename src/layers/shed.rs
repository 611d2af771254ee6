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

use crate::clock::{Clock, Nanos};
use crate::fleet::{Fleet, local_gate};
use crate::layers::body::{BodyGuard, Guarded};
use crate::layers::unserved::UnservedCallers;
use crate::models::{FallbackReason, ModelRoute};
use crate::openai::kinds;
use crate::refusal::{Reason, Refusal};
use crate::request::{Caller, Ending, GatewayRequest, Kind, RequestCost, RequestRecord, ToWorker};
use crate::shed::settings::GateSettings;
use crate::shed::{GateEntry, GateHandle, HeldPermit, Permit, PermitRequest, Waiter};

/// Finds the gate of a request.
pub trait Gates: Clone + Send + Sync + 'static {
    /// Returns the gate for this model, and the name of its pool, if it has one. `external`: the
    /// request may go to external workers.
    ///
    /// # Errors
    /// `not_found` if no pool serves the model, or only external workers and the request may not go
    /// there.
    fn gate(&self, model: Option<&str>, external: bool) -> Result<(GateHandle, Option<Arc<str>>), Refusal>;

    /// Returns the pools that a request can fall back to; `None` if there are no others.
    fn fleet(&self) -> Option<Arc<Fleet>> {
        None
    }
}

impl Gates for GateHandle {
    fn gate(&self, _: Option<&str>, _: bool) -> Result<(GateHandle, Option<Arc<str>>), Refusal> {
        Ok((self.clone(), None))
    }
}

impl Gates for Arc<ArcSwap<Fleet>> {
    fn gate(&self, model: Option<&str>, external: bool) -> Result<(GateHandle, Option<Arc<str>>), Refusal> {
        let fleet = self.load();
        match fleet.route(model).filter(|pool| external || !pool.is_external()) {
            Some(pool) => Ok((pool.gate.clone(), Some(Arc::clone(&pool.name)))),
            None => Err(no_such_model()),
        }
    }

    fn fleet(&self) -> Option<Arc<Fleet>> {
        Some(self.load_full())
    }
}

/// Returns the refusal of a model that is unknown, that no worker serves, or that the caller may not
/// use: nobody learns which.
#[must_use]
pub(super) fn no_such_model() -> Refusal {
    Refusal::new(
        Reason::NotFound,
        "No worker serves this model. The setting `workers.static[].model` names the served models.",
    )
    .with_param("model")
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
    pub(crate) fn with_unserved(self, unserved: &Arc<UnservedCallers>) -> Self {
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
/// Reads [`Caller`], [`RequestCost`] and [`ModelRoute`] from the request's extensions and inserts the
/// [`Permit`], by which the inner service reports progress, and the [`HeldPermit`], in which it may
/// replace that. If a pool has no permit for the request, the fallbacks of its model are asked.
#[derive(Clone, Debug)]
pub struct Shed<S, G> {
    gates: G,
    clock: Clock,
    unserved: Option<Arc<UnservedCallers>>,
    inner: S,
}

impl<S, G: Gates> Shed<S, G> {
    /// Returns the gate for the model `asked`, which is served as its route says.
    fn gate(
        &self,
        route: Option<&ModelRoute>,
        asked: Option<&str>,
        external: bool,
    ) -> Result<(GateHandle, Option<Arc<str>>), Refusal> {
        let Some(route) = route else { return self.gates.gate(asked, external) };
        if !route.is_allowed() {
            return Err(no_such_model());
        }
        let (gate, pool) =
            self.gates.gate(route.served().map_or(asked, |served| Some(&**served)), external)?;
        if let Some(pool) = &pool {
            // The first pool to be asked, so it is new.
            let _new = route.enter(pool);
        }
        Ok((gate, pool))
    }
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
        let route = extensions.get::<Arc<ModelRoute>>();
        // Nobody pays an external worker for such a call.
        let (_, pool) = self.gate(route.map(|route| &**route), cost.model.as_deref(), false)?;
        let Some(pool) = pool else { return Ok(()) };
        if let Some(record) = extensions.get::<Arc<RequestRecord>>() {
            record.set_pool(&pool);
        }
        extensions.insert(GatewayRequest(pool));
        Ok(())
    }
}

/// Holds a request's permit until its answer ends.
#[derive(Debug)]
pub enum PermitGuard {
    /// The permit of the only pool that may serve the request.
    Permit(Permit),
    /// The permit of the pool that serves it now.
    Held(HeldPermit),
}

impl BodyGuard for PermitGuard {}

/// Waits for a permit until the waiter expires.
async fn wait(mut waiter: Waiter, clock: &Clock) -> Result<Permit, Refusal> {
    let budget = waiter.expires_at().since(clock.now());
    match tokio::time::timeout(budget, &mut waiter).await {
        Ok(outcome) => outcome,
        Err(_) => Err(waiter.give_up()),
    }
}

/// What is needed to fall back to another pool.
struct Fallback<G> {
    gates: G,
    route: Arc<ModelRoute>,
    ask: PermitRequest,
    /// When the first pool was asked.
    since: Nanos,
}

impl<G: Gates> Fallback<G> {
    /// Returns a permit of another pool, or the refusal of the first.
    async fn permit(
        self,
        refusal: Refusal,
        record: Option<&Arc<RequestRecord>>,
        clock: &Clock,
    ) -> Result<Permit, Refusal> {
        let reason = match refusal.reason {
            // There is no such pool, or not yet.
            Reason::NotFound => Some(FallbackReason::NoWorker),
            reason => FallbackReason::of(reason),
        };
        let (Some(reason), Some(fleet)) = (reason, self.gates.fleet()) else { return Err(refusal) };
        let Self { route, ask, since, .. } = self;
        let moved = fleet.fall_back(&route, reason, &ask, since, |waiter| wait(waiter, clock)).await;
        let Some((permit, taken)) = moved else { return Err(refusal) };
        tracing::debug!(to = &*taken.to, reason = taken.reason, "a fallback takes the request");
        route.keep_refusal(&refusal);
        if let Some(record) = record {
            record.add_fallback(taken);
        }
        Ok(permit)
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
    type Response = Response<Guarded<R, Option<PermitGuard>>>;
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
        let extensions = request.extensions();
        let to_worker = extensions.get::<ToWorker>().map(|ToWorker(worker)| Arc::clone(worker));
        let by_id = |request_cost: &RequestCost| request_cost.kind == Kind::ResponseById;
        let beside = extensions.get::<GatewayRequest>().is_some()
            || extensions.get::<RequestCost>().is_some_and(by_id);
        if beside || matches!(*request.method(), Method::OPTIONS | Method::HEAD) {
            let answer = self.inner.call(request);
            return Box::pin(async move {
                answer.await.map(|response| response.map(|body| Guarded::new(body, None))).map_err(Into::into)
            });
        }
        let request_cost = extensions.get::<RequestCost>();
        let record = extensions.get::<Arc<RequestRecord>>().cloned();
        let mut ask = ask_of(extensions.get::<Caller>(), request_cost);
        ask.worker.clone_from(&to_worker);
        let route = extensions.get::<Arc<ModelRoute>>().cloned();
        let fallback = route.as_ref().filter(|route| route.has_fallback()).map(|route| {
            let since = self.clock.now();
            route.begin(since);
            Fallback { gates: self.gates.clone(), route: Arc::clone(route), ask: ask.clone(), since }
        });
        let asked = request_cost.and_then(|request_cost| request_cost.model.as_deref());
        let entry = self.gate(route.as_deref(), asked, ask.external).and_then(|(gate, pool)| {
            if let (Some(record), Some(pool)) = (&record, &pool) {
                record.set_pool(pool);
            }
            gate.ask(ask)
        });
        let unserved = self.unserved.clone();
        let caller = extensions.get::<Caller>().map(|caller| Arc::clone(&caller.id));
        let clock = self.clock.clone();
        let note = {
            let (record, clock) = (record.clone(), clock.clone());
            move |refusal: &Refusal| {
                let pool = record.as_ref().and_then(|record| record.pool());
                if let (Some(unserved), Some(pool), Some(caller)) = (&unserved, pool, &caller) {
                    unserved.refused(&pool, caller, refusal, clock.now());
                }
            }
        };
        let entry = match entry {
            Err(refusal) if fallback.is_none() => {
                note(&refusal);
                return Box::pin(async move { Err(refusal) });
            }
            entry => entry,
        };
        // The service that was made ready is the one to call; its clone takes its place.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        Box::pin(async move {
            let may_fall_back = fallback.is_some();
            let since = (!matches!(entry, Ok(GateEntry::Admitted(_)))).then(|| clock.now());
            let outcome = match entry {
                Ok(GateEntry::Admitted(permit)) => Ok(permit),
                Ok(GateEntry::Waiting(waiter)) => Box::pin(wait(waiter, &clock)).await,
                Err(refusal) => Err(refusal),
            };
            // The pool lacked room for it, whoever serves it now.
            let outcome = outcome.inspect_err(&note);
            let outcome = match (outcome, fallback) {
                (Err(refusal), Some(fallback)) => {
                    Box::pin(fallback.permit(refusal, record.as_ref(), &clock)).await
                }
                (outcome, _) => outcome,
            };
            if let (Some(record), Some(since)) = (&record, since) {
                record.set_queued(clock.now().since(since));
            }
            let permit = outcome?;
            // A worker that joined while the request waited may have got its place.
            if to_worker.is_some_and(|only| only != permit.worker()) {
                permit.end(Ending::Refused);
                return Err(Refusal::new(Reason::NoWorker, "The worker of the earlier response is gone."));
            }
            let extensions = request.extensions_mut();
            extensions.insert(permit.clone());
            let guard = if may_fall_back {
                let held = HeldPermit::new(permit);
                extensions.insert(held.clone());
                PermitGuard::Held(held)
            } else {
                PermitGuard::Permit(permit)
            };
            let response = inner.call(request).await.map_err(Into::into)?;
            Ok(response.map(|body| Guarded::new(body, Some(guard))))
        })
    }
}
