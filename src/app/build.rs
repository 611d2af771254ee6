//! Builds the parts of the gateway from settings.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer, ExposeHeaders};

use super::StartError;
use super::fleet::standing;
use crate::clock::Clock;
use crate::config::Settings;
use crate::config::settings::{CallerSource, JobsFor, Sticky as StickySetting};
use crate::fleet::roster::Roll;
use crate::fleet::{Colours, Fleet};
use crate::layers::buffers::Buffers;
use crate::layers::demand::{Intake, Sticky};
use crate::layers::door::Door;
use crate::layers::exact::Exact;
use crate::layers::explain::ExplainLayer;
use crate::layers::identify::{CallerSettings, Callers, Key, Source};
use crate::layers::intake::Limits;
use crate::layers::jobs::Counter;
use crate::layers::jwt::Tokens;
use crate::layers::limit::{Counting, LimitLayer, RuleMetrics};
use crate::layers::models::Catalogue;
use crate::layers::observe::Observatory;
use crate::layers::paths::{Paths, RouteSettings};
use crate::metrics::Metrics;
use crate::openai::demand::{Pointer, Shape};
use crate::openai::estimate::Estimator;
use crate::redis::callers::StoredCallers;
use crate::redis::jobs::Jobs;
use crate::refusal::Unit;
use crate::request::RouteTimeouts;
use crate::server::Bounds;
use crate::server::admin::{AdminSettings, Token};
use crate::spans::Spans;
use crate::stack::{Parts, Stack};
use crate::upstream::{QueueSettings, RetrySettings, Timeouts, Upstream, UpstreamSettings, tls};

/// State that survives a reload.
pub(super) struct State {
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) door: Arc<Door>,
    pub(super) buffers: Arc<Buffers>,
    pub(super) estimates: Arc<Estimator>,
    pub(super) exact: Arc<Exact>,
    pub(super) paths: Arc<Paths>,
    pub(super) fleet: Arc<ArcSwap<Fleet>>,
    pub(super) upstream: Upstream,
    pub(super) stored_callers: Option<Arc<StoredCallers>>,
    pub(super) jobs: Option<Jobs>,
    /// Fixed at start: a reload does not change it.
    pub(super) only_overflow: bool,
    pub(super) spans: Option<Arc<Spans>>,
}

/// Builds the fleet of the configured workers.
pub(super) fn fleet(settings: &Settings, clock: &Clock) -> Fleet {
    let colours = Colours { everywhere: settings.active_colour.clone(), ..Colours::default() };
    let standing = standing(settings, colours, &Roll::default());
    Fleet::new(settings.workers.clone(), settings.gate.clone(), standing, clock.clone())
}

/// Reads the file of certificate authorities for Redis into the settings.
pub(super) fn with_authorities(mut settings: Settings) -> Result<Settings, StartError> {
    if let Some(file) = &settings.shared.ca {
        let pem = std::fs::read(file).map_err(|source| StartError::RedisCa { file: file.clone(), source })?;
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
    let Settings { timeouts, retry, .. } = settings;
    let authorities = match &settings.worker_ca {
        Some(file) => CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect)
            .map_err(|source| StartError::WorkerCa { file: file.clone(), source })?,
        None => Vec::new(),
    };
    let queue = settings.shared.jobs == JobsFor::Workers;
    let encrypted = (settings.discovery.is_some() && !queue)
        || settings.workers.iter().any(|worker| worker.url.scheme_str() == Some("https"));
    Ok(UpstreamSettings {
        timeouts: Timeouts {
            connect: timeouts.connect,
            first_token: timeouts.first_token,
            hold: timeouts.hold,
            idle: timeouts.idle,
            total: timeouts.total,
        },
        retry: RetrySettings { max: retry.max, budget: retry.budget },
        forward_authorization: settings.callers.forward_authorization,
        // Reading the system's authorities takes 100 ms: only if TLS is needed.
        tls: if encrypted { Some(tls::client_config(authorities)?) } else { None },
        queue: queue
            .then(|| QueueSettings { key: settings.redis_key.clone(), wait: settings.gate.queue_wait }),
    })
}

/// Builds the span exporter. Must be called inside a tokio runtime.
pub(super) fn spans(settings: &Settings) -> Result<Option<Arc<Spans>>, StartError> {
    let Some(told) = &settings.spans else { return Ok(None) };
    let encrypted = told.endpoint.scheme_str() == Some("https");
    let tls = if encrypted { Some(tls::client_config([]).map_err(StartError::SpanTls)?) } else { None };
    Ok(Some(Arc::new(Spans::new(told, tls).map_err(|error| StartError::Spans(error.to_string()))?)))
}

/// Builds the limits of the listener for its peers.
pub(super) fn bounds(settings: &Settings) -> Bounds {
    let bounds = &settings.bounds;
    Bounds {
        headers: bounds.headers,
        header_read: bounds.header_read,
        connections: bounds.connections,
        per_ip: bounds.per_ip.unwrap_or(0),
        per_ip_exempt: settings.callers.trusted_proxies.clone(),
        h2_streams: bounds.h2_streams,
        client_stall: bounds.client_stall,
        ..Bounds::default()
    }
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

/// Builds the stack of these settings around the surviving state.
pub(super) fn stack(
    settings: &Settings,
    counting: &Counting,
    tokens: Option<Tokens>,
    state: &State,
) -> Result<Stack, StartError> {
    let State {
        clock,
        metrics,
        door,
        buffers,
        estimates,
        exact,
        paths,
        fleet,
        upstream,
        stored_callers,
        jobs,
        only_overflow,
        spans,
    } = state;
    let rule_metrics = Arc::new(RuleMetrics::new(Arc::clone(metrics), counting.ladder()));
    let parts = Parts {
        observatory: Arc::new(Observatory {
            metrics: Arc::clone(metrics),
            clock: clock.clone(),
            log_share: settings.log_sample,
            ttft_slo: settings.gate.ttft_slo,
            spans: spans.clone(),
        }),
        cors: cors(settings),
        explain: explain(settings, clock),
        door: Arc::clone(door),
        callers: Arc::new(
            Callers::new(callers(settings)).with_stored(stored_callers.clone()).with_tokens(tokens),
        ),
        intake: Arc::new(Intake {
            paths: Arc::clone(paths),
            rules: LimitLayer::counting(counting.clone(), clock.clone()).counted(Arc::clone(&rule_metrics)),
            limits: Limits { bytes: settings.bounds.body, time: settings.bounds.body_read },
            buffers: Arc::clone(buffers),
            sticky: match &settings.sticky {
                StickySetting::Header(name) => Sticky::Header(name.clone()),
                StickySetting::Cookie(name) => Sticky::Cookie(Arc::clone(name)),
                StickySetting::Body(_) => Sticky::Body,
            },
            wants_usage: settings.rules.iter().any(|rule| rule.unit == Unit::Tokens),
            reserves_max: settings.rules.iter().any(|rule| rule.unit == Unit::Tokens && rule.reserve_max),
            estimates: Arc::clone(estimates),
            exact: Arc::clone(exact),
            metrics: Arc::clone(metrics),
            clock: clock.clone(),
        }),
        rule_metrics: Arc::clone(&rule_metrics),
        counting: counting.clone(),
        models: Arc::new(Catalogue::new(
            Arc::clone(fleet),
            settings.shared.jobs != JobsFor::Workers,
            settings.callers.forward_authorization,
            clock.clone(),
        )),
        jobs: jobs.as_ref().map(|jobs| {
            Arc::new(Counter {
                jobs: jobs.clone(),
                fleet: Arc::clone(fleet),
                key: settings.redis_key.clone(),
                only_overflow: *only_overflow,
            })
        }),
        fleet: Arc::clone(fleet),
        upstream: upstream.clone(),
        clock: clock.clone(),
    };
    Ok(crate::stack::stack(&parts))
}

/// Accepts the tokens that may read on the admin port.
fn explain(settings: &Settings, clock: &Clock) -> ExplainLayer {
    let tokens = [&settings.admin.token, &settings.admin.read_token].into_iter().flatten();
    ExplainLayer::new(tokens.map(|token| Sha256::digest(token.expose()).into()), clock.clone())
}

fn callers(settings: &Settings) -> CallerSettings {
    let callers = &settings.callers;
    CallerSettings {
        from: callers
            .from
            .iter()
            .map(|source| match source {
                CallerSource::ApiKey => Source::ApiKey,
                CallerSource::Header(name) => Source::Header(name.clone()),
                CallerSource::Ip => Source::Ip,
            })
            .collect(),
        trusted_proxies: callers.trusted_proxies.clone(),
        key_headers: callers.key_headers.clone(),
        anonymous: !callers.refuse_anonymous,
        default_class: callers.default_class,
        forward_authorization: callers.forward_authorization,
        keys: callers
            .keys
            .iter()
            .map(|key| Key {
                id: Arc::clone(&key.id),
                team: key.team.clone(),
                sha256: key.digest.0,
                class: key.class,
                weight: key.weight,
                limits: key.limits.clone(),
            })
            .collect(),
    }
}

/// Builds the table of allowed paths, with those of jobs if `jobs`. Pointers were parsed once
/// before, when the settings were validated.
pub(super) fn paths(settings: &Settings, jobs: bool) -> Result<Paths, StartError> {
    let pointer = |text: &Option<Arc<str>>| text.as_deref().map(Pointer::parse).transpose();
    let everywhere = match &settings.sticky {
        StickySetting::Body(text) => Some(Pointer::parse(text)?),
        StickySetting::Header(_) | StickySetting::Cookie(_) => None,
    };
    let mut routes = Vec::with_capacity(settings.routes.len());
    for route in &settings.routes {
        let session = pointer(&route.session)?.or_else(|| everywhere.clone());
        routes.push(RouteSettings {
            path: Arc::clone(&route.path),
            shape: Shape::route(route.kind, pointer(&route.prompt)?, pointer(&route.max_tokens)?)
                .with_session(session),
            retry: route.retry,
            timeouts: RouteTimeouts {
                first_token: Some(route.timeouts.first_token),
                hold: Some(route.timeouts.hold),
                idle: Some(route.timeouts.idle),
                total: Some(route.timeouts.total),
            },
        });
    }
    let paths = Paths::new(&routes, settings.paths.clone(), everywhere.as_ref());
    Ok(if jobs { paths.with_jobs() } else { paths })
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
