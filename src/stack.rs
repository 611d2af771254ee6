//! The order of the layers.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tower::ServiceBuilder;
use tower::util::Either;
use tower_http::cors::{Cors, CorsLayer};

use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::layers::cost::{Cost, CostLayer, CostSettings};
use crate::layers::explain::{Explain, ExplainLayer};
use crate::layers::health::{Health, HealthLayer};
use crate::layers::identify::{Identify, IdentifyLayer, KnownCallers};
use crate::layers::jobs::{Jobs, JobsLayer, JobsSettings};
use crate::layers::limit::{Limit, LimitLayer, RuleCounting, RuleMetrics};
use crate::layers::maintenance::{Maintenance, MaintenanceLayer, MaintenanceSwitch};
use crate::layers::models::{ModelCache, Models, ModelsLayer};
use crate::layers::observe::{Observe, ObserveLayer, RequestMetrics};
use crate::layers::preflight::{Preflight, PreflightLayer};
use crate::layers::rescue::{Rescue, RescueLayer};
use crate::layers::responses::{ResponseHomes, Responses, ResponsesLayer};
use crate::layers::shed::{Shed, ShedLayer};
use crate::layers::unserved::UnservedCallers;
use crate::upstream::Upstream;

/// The shared state that the layers are built from.
#[derive(Clone, Debug)]
pub(crate) struct StackParts {
    /// Request metrics, spans and log lines.
    pub observatory: Arc<RequestMetrics>,
    /// The origins whose pages may call; `None` if `cors.origins` is not configured.
    pub cors: Option<CorsLayer>,
    /// The layer with the tokens of administrators who may ask for explanations.
    pub explain: ExplainLayer,
    /// The maintenance switch.
    pub maintenance: Arc<MaintenanceSwitch>,
    /// Identification of callers.
    pub callers: Arc<KnownCallers>,
    /// The paths that are let through, and the bounds of bodies.
    pub intake: Arc<CostSettings>,
    /// The rules, and the store of their counts.
    pub counting: RuleCounting,
    /// Metrics of the rules' decisions.
    pub rule_metrics: Arc<RuleMetrics>,
    /// The lists of served models.
    pub models: Arc<ModelCache>,
    /// The workers of responses that they keep.
    pub responses: Arc<ResponseHomes>,
    /// Asynchronous jobs; `None` if they are not configured.
    pub jobs: Option<Arc<JobsSettings>>,
    /// The workers and their gates.
    pub fleet: Arc<ArcSwap<Fleet>>,
    /// Callers that were refused for lack of room.
    pub unserved: Arc<UnservedCallers>,
    /// Forwarding to the workers.
    pub upstream: Upstream,
    /// Clock of the layers.
    pub clock: Clock,
}

type FromRescue = Rescue<Maintenance<Health<Identify<Cost<FromLimit>>>>>;

type FromLimit = Limit<Models<Responses<Jobs<Shed<Upstream, Arc<ArcSwap<Fleet>>>>>>>;

/// The whole stack as one service.
pub(crate) type Stack = Observe<Preflight<Either<Cors<FromExplain>, FromExplain>>>;

type FromExplain = Explain<FromRescue>;

/// Stacks the layers. A request passes them in the order of the lines.
#[must_use]
pub(crate) fn stack(parts: &StackParts) -> Stack {
    let StackParts {
        observatory,
        cors,
        explain,
        maintenance,
        callers,
        intake,
        counting,
        rule_metrics,
        models,
        responses,
        jobs,
        fleet,
        unserved,
        upstream,
        clock,
    } = parts;
    let inner_cors = cors.is_some();
    let cors = match cors {
        Some(cors) => Either::Left(cors.clone()),
        None => Either::Right(tower::layer::util::Identity::new()),
    };
    ServiceBuilder::new()
        // Sees everything: refusals, hang-ups, panics.
        .layer(ObserveLayer::new(Arc::clone(observatory)))
        // A preflight carries no key by design, and goes no further.
        .layer(PreflightLayer::new(inner_cors))
        // Outside `rescue`: a page must be able to read a refusal too, so it needs CORS headers.
        .layer(cors)
        // Outside `rescue`: refusals are explained too.
        .layer(explain.clone())
        // The only place where a refusal becomes HTTP.
        .layer(RescueLayer::for_paths(Arc::clone(&intake.paths)))
        // During maintenance, requests cost no more than this.
        .layer(MaintenanceLayer::new(Arc::clone(maintenance)))
        // A health check needs no key.
        .layer(HealthLayer::new(Arc::clone(fleet), intake))
        // All later layers need the caller; a request with a bad key costs no more than this.
        .layer(IdentifyLayer::new(Arc::clone(callers)))
        // Limits and routing need the cost.
        .layer(CostLayer::new(Arc::clone(intake)))
        // Before the gate: a refused call takes no permit, and one caller cannot flood the queue.
        .layer(
            LimitLayer::counting(counting.clone(), clock.clone())
                .with_metrics(Arc::clone(rule_metrics))
                .with_fleet(fleet),
        )
        // The list of models, which every client asks for first, takes no permit.
        .layer(ModelsLayer::new(Arc::clone(models)))
        // Only one worker knows an earlier response.
        .layer(ResponsesLayer::new(Arc::clone(responses)))
        // Admitted requests that can be answered later wait in Redis, not at the gate.
        .layer(JobsLayer::new(jobs.clone()))
        // Last before the worker: a request with a permit is dispatched.
        .layer(ShedLayer::new(Arc::clone(fleet), clock.clone()).with_unserved(unserved))
        .service(upstream.clone())
}
