//! The composition root: owns the state that outlives a request, the tasks, reload and drain.
//!
//! `build` makes everything that depends on settings, from them and from the state that survives a
//! reload. A reload swaps in a new stack; a request ends in the stack in which it began.

mod build;
mod canaries;
mod changes;
mod colours;
mod discovery;
mod embedded;
mod exchange;
mod explain;
mod factor;
mod fleet;
mod lifecycle_log;
mod pause_recovery;
mod promote;
mod redis_parts;
mod report;
mod run;
mod sampler;
mod sides;
mod snapshot;
mod stack_service;
mod start_error;
mod ticker;
mod tokenizers;
mod tokens;
mod why;

pub use run::{BoundListeners, Certificates};
pub use start_error::StartError;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use self::canaries::Canaries;
use self::changes::Changes;
use self::factor::Factors;
use self::fleet::FleetSync;
use self::pause_recovery::PauseRecovery;
use self::promote::Backlog;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use self::redis_parts::RedisParts;
use self::sampler::LastSecond;
use self::tokens::KeySource;
use crate::clock::Clock;
use crate::config::Settings;
use crate::config::settings::JobMode;
use crate::estimate::Estimator;
use crate::fleet::Fleet;
use crate::layers::buffers::Buffers;
use crate::layers::limit::RuleCounting;
use crate::layers::maintenance::MaintenanceSwitch;
use crate::layers::paths::Paths;
use crate::layers::responses::ResponseHomes;
use crate::layers::tokenizers::Tokenizers;
use crate::layers::unserved::UnservedCallers;
use crate::limit::RuleSet;
use crate::metrics::Metrics;
use crate::redis::gateways::new_name;
use crate::server::admin::AdminSettings;
use crate::server::admin::live::Live as Shown;
use crate::server::{Drain, ListenerBounds};
use crate::spans::Spans;
use crate::stack::Stack;
use crate::upstream::{Upstream, UpstreamSettings};

/// A gateway. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct App(Arc<AppInner>);

#[derive(Debug)]
struct AppInner {
    clock: Clock,
    metrics: Arc<Metrics>,
    maintenance: Arc<MaintenanceSwitch>,
    drain: Drain,
    buffers: Arc<Buffers>,
    responses: Arc<ResponseHomes>,
    estimates: Arc<Estimator>,
    fleet: Arc<ArcSwap<Fleet>>,
    fleet_sync: FleetSync,
    canaries: Canaries,
    pause_recovery: PauseRecovery,
    unserved: Arc<UnservedCallers>,
    /// Waiting jobs by pool, as last read from Redis.
    backlog: Mutex<BTreeMap<Arc<str>, Backlog>>,
    upstream: Upstream,
    upstream_settings: Arc<ArcSwap<UpstreamSettings>>,
    bounds: Arc<ArcSwap<ListenerBounds>>,
    admin: Arc<ArcSwap<AdminSettings>>,
    /// Number of lost log lines.
    lost_lines: OnceLock<Arc<AtomicU64>>,
    /// What was measured in the last second.
    second: Mutex<LastSecond>,
    /// Data for viewers of the admin page.
    shown: Arc<Shown>,
    /// How well workers scale together.
    factors: Mutex<Factors>,
    /// `None` if nothing is shared. Fixed at start.
    redis_parts: Option<RedisParts>,
    /// Changes of rules since the settings were read.
    changes: Changes,
    /// Current source of the keys that verify tokens.
    key_source: watch::Sender<Option<Arc<KeySource>>>,
    live: ArcSwap<LiveSettings>,
    /// One reload at a time: two would each build on a state that the other replaces.
    reloading: Mutex<()>,
}

/// Everything built from one set of settings.
#[derive(Debug)]
struct LiveSettings {
    settings: Settings,
    rule_set: Arc<RuleSet>,
    counting: RuleCounting,
    spans: Option<Arc<Spans>>,
    exact: Arc<Tokenizers>,
    paths: Arc<Paths>,
    stack: Stack,
}

impl App {
    /// Creates a gateway that does not serve yet.
    ///
    /// # Errors
    /// If a file that the settings name cannot be read, or a setting cannot be used.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, StartError> {
        let settings = build::with_authorities(settings)?;
        let metrics = Arc::new(Metrics::new());
        metrics.watch_process();
        let fleet = Arc::new(ArcSwap::from_pointee(build::fleet(&settings, &clock)));
        let upstream_settings = Arc::new(ArcSwap::from_pointee(build::upstream(&settings)?));
        let redis_parts = RedisParts::new(&settings, &clock, &metrics)?;
        // The same name for all purposes.
        let name = match &redis_parts {
            Some(redis_parts) => redis_parts.store.gateways().id().to_owned(),
            None => new_name(),
        };
        let fleet_sync = FleetSync::new(&settings, name.into(), clock.lag());
        let jobs = redis_parts.as_ref().and_then(|redis_parts| redis_parts.jobs.clone());
        let has_jobs = jobs.is_some();
        let upstream =
            Upstream::with_jobs(Arc::clone(&fleet), Arc::clone(&upstream_settings), clock.clone(), jobs)
                .counting(&metrics);
        let stored = redis_parts.as_ref().map(RedisParts::responses);
        let chooses = settings.shared.jobs != JobMode::Workers;
        let responses = Arc::new(ResponseHomes::new(Arc::clone(&fleet), stored, chooses, clock.clone()));
        let state = build::SurvivingState {
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            maintenance: Arc::default(),
            buffers: Arc::new(Buffers::new(settings.bounds.buffered)),
            estimates: Arc::default(),
            exact: Arc::new(tokenizers::load(&settings, None)?),
            fleet: Arc::clone(&fleet),
            unserved: Arc::default(),
            upstream: upstream.clone(),
            stored_callers: redis_parts.as_ref().and_then(|redis_parts| redis_parts.callers.clone()),
            responses: Arc::clone(&responses),
            paths: Arc::new(build::paths(&settings, has_jobs)),
            jobs: redis_parts.as_ref().map(RedisParts::job_handling),
            spans: build::spans(&settings)?,
        };
        let rule_set = Arc::new(RuleSet::new(settings.rules.clone()));
        let counting = counting(redis_parts.as_ref(), &rule_set, None);
        let key_source = KeySource::of(&settings, None)?;
        let stack =
            build::stack(&settings, &counting, tokens::tokens(&settings, key_source.as_ref()), &state)?;
        Ok(Self(Arc::new(AppInner {
            clock,
            metrics,
            maintenance: Arc::clone(&state.maintenance),
            drain: Drain::new(),
            buffers: Arc::clone(&state.buffers),
            responses,
            estimates: Arc::clone(&state.estimates),
            fleet,
            fleet_sync,
            canaries: Canaries::default(),
            pause_recovery: PauseRecovery::default(),
            unserved: Arc::clone(&state.unserved),
            backlog: Mutex::default(),
            upstream,
            upstream_settings,
            bounds: Arc::new(ArcSwap::from_pointee(settings.bounds.listener.clone())),
            admin: Arc::new(ArcSwap::from_pointee(build::admin(&settings))),
            lost_lines: OnceLock::new(),
            second: Mutex::default(),
            shown: Arc::default(),
            factors: Mutex::default(),
            redis_parts,
            changes: Changes::default(),
            key_source: watch::Sender::new(key_source),
            live: ArcSwap::from_pointee(LiveSettings {
                settings,
                rule_set,
                counting,
                spans: state.spans,
                exact: state.exact,
                paths: state.paths,
                stack,
            }),
            reloading: Mutex::new(()),
        })))
    }

    /// Adds the number of lost log lines to the metrics.
    pub fn watch_log(&self, lost: Arc<AtomicU64>) {
        self.0.lost_lines.get_or_init(|| lost);
    }
}

/// Returns the counters for the rules of `rule_set`.
fn counting(
    redis_parts: Option<&RedisParts>,
    rule_set: &Arc<RuleSet>,
    before: Option<&RuleCounting>,
) -> RuleCounting {
    match redis_parts {
        Some(redis_parts) => redis_parts.counting(rule_set, before),
        None => RuleCounting::Memory(Arc::clone(rule_set)),
    }
}
