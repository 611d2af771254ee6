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

/// What the layers are made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Where requests are recorded.
    pub observatory: Arc<Observatory>,
    /// The origins whose pages may call, if any.
    pub cors: Option<CorsLayer>,
    /// Who may ask why.
    pub explain: ExplainLayer,
    /// Whether anybody is let in.
    pub door: Arc<Door>,
    /// Who may ask.
    pub callers: Arc<Callers>,
    /// What is let through, and how it is read.
    pub intake: Arc<Intake>,
    /// The rules, and where they are counted.
    pub counting: Counting,
    /// What the rules' decisions are counted in.
    pub rule_metrics: Arc<RuleMetrics>,
    /// The models that are served.
    pub models: Arc<Catalogue>,
    /// Jobs, where workers take from a queue.
    pub jobs: Option<Arc<Counter>>,
    /// The workers and their gates.
    pub fleet: Arc<ArcSwap<Fleet>>,
    /// The way to the workers.
    pub upstream: Upstream,
    /// The time.
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

/// Puts the layers together. A request meets them from the first line to the last.
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
        // Sees everything: refusals, hang-ups, defects.
        .layer(ObserveLayer::new(Arc::clone(observatory)))
        // Carries no key by design, and reaches nothing.
        .layer(PreflightLayer::new(answered_within))
        // A page must be able to read a refusal too, so its headers go on outside of it.
        .layer(cors)
        // What is said of the rules goes on refusals too.
        .layer(explain.clone())
        // The only place where a refusal becomes HTTP.
        .layer(RescueLayer)
        // A shut door costs nothing more.
        .layer(DoorLayer::new(Arc::clone(door)))
        // Whoever asks whether it serves needs no key.
        .layer(HealthLayer::new(Arc::clone(fleet), intake))
        // Every later key needs the caller; a bad key costs nothing more.
        .layer(IdentifyLayer::new(Arc::clone(callers)))
        // Limits and routing need to know what is asked for.
        .layer(DemandLayer::new(Arc::clone(intake)))
        // Before the gate: a refused call takes no permit, and one caller's flood never reaches the queue.
        .layer(
            LimitLayer::counting(counting.clone(), clock.clone())
                .counted(Arc::clone(rule_metrics))
                .before(fleet),
        )
        // What every client asks for first takes no seat.
        .layer(ModelsLayer::new(Arc::clone(models)))
        // What was let through and can be answered later waits in Redis, not at the gate.
        .layer(JobsLayer::new(jobs.clone()))
        // Last before the worker: whoever has a permit goes.
        .layer(ShedLayer::new(Arc::clone(fleet), clock.clone()))
        .service(upstream.clone())
}
