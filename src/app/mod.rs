//! The composition root: owns the state that outlives a request, the tasks, reload and drain.
//!
//! Everything that settings decide is built in `build`, from settings and from the state that must survive a reload.
//! A reload builds a new stack and swaps it in; a request runs to its end in the stack it began in.

mod build;
mod colours;
mod entrance;
mod fleet;
mod report;
mod run;

pub use entrance::Entrance;
pub use run::{Certificates, Listeners, StartError};

use std::sync::Arc;

use self::fleet::Following;
use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::config::Settings;
use crate::fleet::Fleet;
use crate::layers::door::Door;
use crate::layers::intake::Buffers;
use crate::limit::Ladder;
use crate::metrics::Metrics;
use crate::openai::estimate::Estimator;
use crate::server::admin::AdminSettings;
use crate::server::{Bounds, Drain};
use crate::stack::Stack;
use crate::upstream::{Upstream, UpstreamSettings};

/// A gateway. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct App(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    metrics: Arc<Metrics>,
    door: Arc<Door>,
    drain: Drain,
    buffers: Arc<Buffers>,
    estimates: Arc<Estimator>,
    fleet: Arc<ArcSwap<Fleet>>,
    following: Following,
    upstream: Upstream,
    upstream_settings: Arc<ArcSwap<UpstreamSettings>>,
    bounds: Arc<ArcSwap<Bounds>>,
    admin: Arc<ArcSwap<AdminSettings>>,
    live: ArcSwap<Live>,
    /// One reload at a time: two would each build on what the other replaces.
    reloading: Mutex<()>,
}

/// What one set of settings came to.
#[derive(Debug)]
struct Live {
    settings: Settings,
    ladder: Arc<Ladder>,
    stack: Stack,
}

impl App {
    /// A gateway with these settings, which serves nobody yet.
    ///
    /// # Errors
    /// When the certificate authorities for workers cannot be read.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new());
        let following = Following::new(&settings);
        let fleet = Arc::new(ArcSwap::from_pointee(build::fleet(&settings, &clock)));
        let upstream_settings = Arc::new(ArcSwap::from_pointee(build::upstream(&settings)?));
        let upstream = Upstream::new(Arc::clone(&fleet), Arc::clone(&upstream_settings), clock.clone());
        let state = build::State {
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            door: Arc::default(),
            buffers: Arc::new(Buffers::new(settings.bounds.buffered)),
            estimates: Arc::default(),
            fleet: Arc::clone(&fleet),
            upstream: upstream.clone(),
        };
        let ladder = Arc::new(Ladder::new(settings.rules.clone()));
        let stack = build::stack(&settings, &ladder, &state)?;
        Ok(Self(Arc::new(Inner {
            clock,
            metrics,
            door: Arc::clone(&state.door),
            drain: Drain::new(),
            buffers: Arc::clone(&state.buffers),
            estimates: Arc::clone(&state.estimates),
            fleet,
            following,
            upstream,
            upstream_settings,
            bounds: Arc::new(ArcSwap::from_pointee(build::bounds(&settings))),
            admin: Arc::new(ArcSwap::from_pointee(build::admin(&settings))),
            live: ArcSwap::from_pointee(Live { settings, ladder, stack }),
            reloading: Mutex::new(()),
        })))
    }
}
