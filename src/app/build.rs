//! Builds the parts of the gateway from settings.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer, ExposeHeaders};

use super::StartError;
use super::fleet::eligibility;
use crate::clock::Clock;
use crate::config::Settings;
use crate::config::settings::JobMode;
use crate::discovery::SourceTarget;
use crate::estimate::{Estimator, MediaTokens};
use crate::fleet::registry::RegistryRevision;
use crate::fleet::{Colours, Fleet};
use crate::glob::Glob;
use crate::layers::buffers::Buffers;
use crate::layers::cost::{CostSettings, SessionSource};
use crate::layers::explain::ExplainLayer;
use crate::layers::held::HeldBounds;
use crate::layers::identify::KnownCallers;
use crate::layers::intake::IntakeBounds;
use crate::layers::jobs::{JobHandling, JobsSettings};
use crate::layers::jwt::Tokens;
use crate::layers::limit::{LimitLayer, RuleCounting, RuleMetrics};
use crate::layers::maintenance::MaintenanceSwitch;
use crate::layers::models::ModelCache;
use crate::layers::observe::RequestMetrics;
use crate::layers::paths::Paths;
use crate::layers::prefixes::Prefixes;
use crate::layers::responses::ResponseHomes;
use crate::layers::tokenizers::Tokenizers;
use crate::layers::unserved::UnservedCallers;
use crate::metrics::Metrics;
use crate::models::ModelTable;
use crate::openai::body::StartNeeds;
use crate::openai::kinds;
use crate::redis::callers::StoredCallers;
use crate::redis::jobs::JobQueue;
use crate::refusal::Unit;
use crate::server::admin::{AdminSettings, Token};
use crate::spans::Spans;
use crate::stack::{Stack, StackParts};
use crate::upstream::{QueueSettings, Upstream, UpstreamSettings, tls};

/// State that survives a reload.
pub(super) struct SurvivingState {
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) maintenance: Arc<MaintenanceSwitch>,
    pub(super) buffers: Arc<Buffers>,
    pub(super) estimates: Arc<Estimator>,
    pub(super) exact: Arc<Tokenizers>,
    pub(super) paths: Arc<Paths>,
    pub(super) fleet: Arc<ArcSwap<Fleet>>,
    pub(super) unserved: Arc<UnservedCallers>,
    pub(super) upstream: Upstream,
    pub(super) stored_callers: Option<Arc<StoredCallers>>,
    pub(super) responses: Arc<ResponseHomes>,
    /// The store of jobs and answers, and which requests become jobs. Set at start; reloads do not
    /// change it.
    pub(super) jobs: Option<(JobQueue, JobHandling)>,
    pub(super) spans: Option<Arc<Spans>>,
}

/// Builds the fleet of the configured workers.
pub(super) fn fleet(settings: &Settings, clock: &Clock) -> Fleet {
    let colours = Colours { default_colour: settings.active_colour.clone(), ..Colours::default() };
    let eligibility = eligibility(settings, colours, &RegistryRevision::default());
    Fleet::new(settings.workers.clone(), settings.gate.clone(), eligibility, clock.clone())
}

/// Reads the CA file for Redis into the settings.
pub(super) fn with_authorities(mut settings: Settings) -> Result<Settings, StartError> {
    if let Some(file) = &settings.shared.ca {
        let unusable = |source| StartError::RedisCa { file: file.clone(), source };
        let pem = std::fs::read(file).map_err(unusable)?;
        tls::authorities_in(file).map_err(|error| unusable(std::io::Error::other(error)))?;
        let authorities: Arc<[u8]> = pem.into();
        if let Some(discovery) = &mut settings.discovery {
            discovery.redis.authorities = Some(Arc::clone(&authorities));
        }
        settings.shared.redis.authorities = Some(authorities);
    }
    Ok(settings)
}

/// Builds the settings of the forwarder.
pub(super) fn upstream(settings: &Settings) -> Result<UpstreamSettings, StartError> {
    let authorities = match &settings.worker_ca {
        Some(file) => tls::authorities_in(file)
            .map_err(|problem| StartError::WorkerCa { file: file.clone(), problem })?,
        None => Vec::new(),
    };
    let queue = settings.shared.jobs == JobMode::Workers;
    let encrypted = (settings.discovery.is_some() && !queue)
        || settings.sources.targets.iter().any(SourceTarget::is_https)
        || settings.workers.iter().any(|worker| worker.url.scheme_str() == Some("https"));
    Ok(UpstreamSettings {
        timeouts: settings.timeouts,
        connection_age: settings.connection_age,
        retry: settings.retry,
        http2: settings.http2,
        forward_authorization: settings.callers.forward_authorization,
        answer_headers: settings.answer_headers,
        // Loading the system's CA certificates takes 100 ms, so only if TLS is needed.
        tls: if encrypted { Some(tls::client_config(authorities)?) } else { None },
        queue: queue.then(|| QueueSettings {
            key: settings.redis_key.clone(),
            wait: settings.gate.queue_wait,
            sticky_wait: settings.sticky_wait,
        }),
    })
}

/// Builds the span exporter. Must be called inside a tokio runtime.
pub(super) fn spans(settings: &Settings) -> Result<Option<Arc<Spans>>, StartError> {
    let Some(settings) = &settings.spans else { return Ok(None) };
    let encrypted = settings.endpoint.scheme_str() == Some("https");
    let tls = if encrypted { Some(tls::client_config([]).map_err(StartError::SpanTls)?) } else { None };
    Ok(Some(Arc::new(Spans::new(settings, tls).map_err(|error| StartError::Spans(error.to_string()))?)))
}

/// Builds the access rules of the admin port.
pub(super) fn admin(settings: &Settings) -> AdminSettings {
    let admin = &settings.admin;
    let token =
        |secret: &Option<crate::config::Secret>| secret.as_ref().map(|secret| Token::new(secret.expose()));
    AdminSettings {
        token: token(&admin.token),
        read_token: token(&admin.read_token),
        metrics_token: token(&admin.metrics_token),
        hosts: admin.hosts.clone(),
    }
}

/// Builds the layer stack from the settings and the surviving state.
pub(super) fn stack(
    settings: &Settings,
    counting: &RuleCounting,
    tokens: Option<Tokens>,
    state: &SurvivingState,
) -> Result<Stack, StartError> {
    let SurvivingState {
        clock,
        metrics,
        maintenance,
        buffers,
        estimates,
        exact,
        paths,
        fleet,
        unserved,
        upstream,
        stored_callers,
        responses,
        jobs,
        spans,
    } = state;
    let wants_usage = settings.rules.iter().any(|rule| rule.unit == Unit::Tokens);
    let reserves_max = settings.rules.iter().any(|rule| rule.unit == Unit::Tokens && rule.reserve_max);
    let rule_metrics = Arc::new(RuleMetrics::new(Arc::clone(metrics), counting.rules()));
    let models = Arc::new(ModelTable::new(&settings.model_specs()));
    let parts = StackParts {
        observatory: Arc::new(RequestMetrics {
            metrics: Arc::clone(metrics),
            clock: clock.clone(),
            log_share: settings.log_sample,
            ttft_slo: settings.gate.ttft_slo,
            spans: spans.clone(),
        }),
        cors: cors(settings),
        explain: explain(settings, clock),
        maintenance: Arc::clone(maintenance),
        callers: Arc::new(
            KnownCallers::new(settings.callers.clone())
                .with_stored(stored_callers.clone())
                .with_tokens(tokens),
        ),
        intake: Arc::new(CostSettings {
            paths: Arc::clone(paths),
            rules: LimitLayer::counting(counting.clone(), clock.clone())
                .with_metrics(Arc::clone(&rule_metrics)),
            limits: body_bounds(settings),
            held: HeldBounds {
                bytes: settings.bounds.held,
                // A job keeps its whole body.
                json: (settings.shared.jobs == JobMode::Nothing)
                    .then_some(StartNeeds { tokens: wants_usage, bound: reserves_max }),
            },
            media: MediaTokens {
                pictures: settings
                    .models
                    .iter()
                    .map(|model| (Glob::new(Arc::clone(&model.names.model)), model.image_tokens))
                    .collect(),
                bytes_per_token: settings.bytes_per_token,
            },
            buffers: Arc::clone(buffers),
            models: Arc::clone(&models),
            sticky: settings.sticky.clone(),
            wants_usage,
            reserves_max,
            estimates: Arc::clone(estimates),
            exact: Arc::clone(exact),
            prefixes: settings
                .gate
                .prefix
                .map(|_| Prefixes::new(settings.prefix.key, settings.prefix.share, Arc::clone(fleet))),
            metrics: Arc::clone(metrics),
            clock: clock.clone(),
        }),
        rule_metrics: Arc::clone(&rule_metrics),
        counting: counting.clone(),
        models: Arc::new(ModelCache::new(
            Arc::clone(fleet),
            models,
            settings.shared.jobs != JobMode::Workers,
            settings.callers.forward_authorization,
            clock.clone(),
        )),
        responses: Arc::clone(responses),
        jobs: jobs.as_ref().map(|(jobs, handling)| {
            Arc::new(JobsSettings {
                jobs: jobs.clone(),
                fleet: Arc::clone(fleet),
                key: settings.redis_key.clone(),
                handling: *handling,
                buffers: Arc::clone(buffers),
                longest: longest(settings),
                turn_wait: settings.gate.queue_wait,
            })
        }),
        fleet: Arc::clone(fleet),
        unserved: Arc::clone(unserved),
        upstream: upstream.clone(),
        clock: clock.clone(),
    };
    Ok(crate::stack::stack(&parts))
}

/// Returns the longest time that a request may wait and be answered.
fn longest(settings: &Settings) -> Duration {
    let total = settings.routes.iter().filter_map(|route| route.timeouts.total).max().unwrap_or_default();
    settings.gate.queue_wait + settings.timeouts.total.max(total) + Duration::from_secs(60)
}

/// Returns the bounds of bodies by kind.
fn body_bounds(settings: &Settings) -> [IntakeBounds; kinds::COUNT] {
    let bounds = &settings.bounds;
    std::array::from_fn(|index| {
        let row = &kinds::TABLE[index];
        let own = bounds.bodies[index].or_else(|| Some(row.beside?.body.min(bounds.body)));
        let setting = if own.is_some() { row.bound } else { "bounds.body" };
        IntakeBounds { bytes: own.unwrap_or(bounds.body), time: bounds.body_read, setting }
    })
}

/// Builds the explain layer. It accepts the admin port's tokens that allow reading.
fn explain(settings: &Settings, clock: &Clock) -> ExplainLayer {
    let tokens = [&settings.admin.token, &settings.admin.read_token].into_iter().flatten();
    ExplainLayer::new(tokens.map(|token| Sha256::digest(token.expose()).into()), clock.clone())
}

/// Builds the table of allowed paths; `jobs` adds those of jobs.
pub(super) fn paths(settings: &Settings, jobs: bool) -> Paths {
    let session = match &settings.sticky {
        SessionSource::Body(pointer) => Some(pointer),
        SessionSource::Header(_) | SessionSource::Cookie(_) => None,
    };
    let paths = Paths::new(&settings.routes, settings.paths.clone(), session)
        .with_kinds(&settings.kinds)
        .with_media_urls(&settings.media_urls);
    if jobs { paths.with_jobs() } else { paths }
}

fn cors(settings: &Settings) -> Option<CorsLayer> {
    let origins = &settings.cors_origins;
    if origins.is_empty() {
        return None;
    }
    let origin = match origins.as_slice() {
        [any] if any == "*" => AllowOrigin::any(),
        _ => AllowOrigin::list(origins.iter().cloned()),
    };
    let layer = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        // Browser code must be able to read the reason of a refusal and `Retry-After`.
        .expose_headers(ExposeHeaders::any());
    Some(layer)
}
