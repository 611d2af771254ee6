//! The order of the layers.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tower::ServiceBuilder;
use tower::util::Either;
use tower_http::cors::{Cors, CorsLayer};

use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::layers::demand::{DemandLayer, Intake, Weigh};
use crate::layers::door::{Door, DoorLayer, Guarding};
use crate::layers::explain::{Explain, ExplainLayer};
use crate::layers::health::{Health, HealthLayer};
use crate::layers::identify::{Callers, Identify, IdentifyLayer};
use crate::layers::jobs::{Counter, JobsLayer, Serve};
use crate::layers::limit::{Counting, Limit, LimitLayer, RuleMetrics};
use crate::layers::models::{Catalogue, Models, ModelsLayer};
use crate::layers::observe::{Observatory, Observe, ObserveLayer};
use crate::layers::preflight::{Preflight, PreflightLayer};
use crate::layers::rescue::{Rescue, RescueLayer};
use crate::layers::shed::{Shed, ShedLayer};
use crate::upstream::Upstream;

/// The shared state that the layers are built from.
#[derive(Clone, Debug)]
pub struct Parts {
/// Request metrics, spans and log lines.
pub observatory: Arc<Observatory>,
/// The origins whose pages may call; `None` if `cors.origins` is not configured.
pub cors: Option<CorsLayer>,
/// The layer with the tokens of administrators who may ask for explanations.
pub explain: ExplainLayer,
/// The maintenance switch.
pub door: Arc<Door>,
/// Identification of callers.
pub callers: Arc<Callers>,
/// The paths that are let through, and the bounds of bodies.
pub intake: Arc<Intake>,
/// The rules, and the store of their counts.
pub counting: Counting,
/// Metrics of the rules' decisions.
pub rule_metrics: Arc<RuleMetrics>,
/// The lists of served models.
pub models: Arc<Catalogue>,
/// Asynchronous jobs; `None` if they are not configured.
pub jobs: Option<Arc<Counter>>,
/// The workers and their gates.
pub fleet: Arc<ArcSwap<Fleet>>,
/// Forwarding to the workers.
pub upstream: Upstream,
/// Clock of the layers.
    pub clock: Clock,
}

/// From `rescue` inwards.
type FromRescue = Rescue<Guarding<Health<Identify<Weigh<FromLimit>>>>>;

/// From `limit` inwards.
type FromLimit = Limit<Models<Serve<Shed<Upstream, Arc<ArcSwap<Fleet>>>>>>;

/// The whole stack as one service.
pub type Stack = Observe<Preflight<Either<Cors<FromExplain>, FromExplain>>>;

/// From `explain` inwards.
type FromExplain = Explain<FromRescue>;

/// Stacks the layers. A request passes them in the order of the lines.
#[must_use]
pub fn stack(parts: &Parts) -> Stack {
    let Parts {
        observatory,
        cors,
        explain,
        door,
        callers,
        intake,
        counting,
        rule_metrics,
        models,
        jobs,
        fleet,
        upstream,
        clock,
    } = parts;
    let answered_within = cors.is_some();
    let cors = match cors {
        Some(cors) => Either::Left(cors.clone()),
        None => Either::Right(tower::layer::util::Identity::new()),
    };
    ServiceBuilder::new()
        // Sees everything: refusals, hang-ups, panics.
        .layer(ObserveLayer::new(Arc::clone(observatory)))
        // A preflight carries no key by design, and goes no further.
        .layer(PreflightLayer::new(answered_within))
        // Outside `rescue`: a page must be able to read a refusal too, so it needs CORS headers.
        .layer(cors)
        // Outside `rescue`: refusals are explained too.
        .layer(explain.clone())
        // The only place where a refusal becomes HTTP.
        .layer(RescueLayer)
        // During maintenance, requests cost no more than this.
        .layer(DoorLayer::new(Arc::clone(door)))
        // A health check needs no key.
        .layer(HealthLayer::new(Arc::clone(fleet), intake))
        // All later layers need the caller; a request with a bad key costs no more than this.
        .layer(IdentifyLayer::new(Arc::clone(callers)))
        // Limits and routing need the cost.
        .layer(DemandLayer::new(Arc::clone(intake)))
        // Before the gate: a refused call takes no permit, and one caller cannot flood the queue.
        .layer(
            LimitLayer::counting(counting.clone(), clock.clone())
                .counted(Arc::clone(rule_metrics))
                .before(fleet),
        )
        // The list of models, which every client asks for first, takes no permit.
        .layer(ModelsLayer::new(Arc::clone(models)))
        // Admitted requests that can be answered later wait in Redis, not at the gate.
        .layer(JobsLayer::new(jobs.clone()))
        // Last before the worker: a request with a permit is dispatched.
        .layer(ShedLayer::new(Arc::clone(fleet), clock.clone()))
        .service(upstream.clone())
}
