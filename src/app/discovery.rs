//! Runs the discovery sources of the settings, and reports on them.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::App;
use crate::discovery::{
    DiscoveryContext, ScrapeSettings, SourceTarget, UnusedWorkers, ask_models, read_workers,
};
use crate::fleet::discovery::DiscoverySource;
use crate::view::SourceView;

/// How often workers that are not used are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// The tasks of the sources. Each set has one task, which ends with it.
#[derive(Default)]
struct SourceTasks {
    targets: Vec<(SourceTarget, JoinSet<()>)>,
    reading: Option<(ScrapeSettings, JoinSet<()>)>,
    asking: Option<JoinSet<()>>,
}

impl SourceTasks {
    /// Ends the tasks that are not wanted any more, and starts those that are new.
    fn follow(
        &mut self,
        wanted: &[SourceTarget],
        scrape: Option<&ScrapeSettings>,
        context: &DiscoveryContext,
    ) {
        self.targets.retain(|(target, _)| wanted.contains(target));
        for target in wanted {
            if !self.targets.iter().any(|(known, _)| known == target) {
                self.targets.push((target.clone(), one(target.clone().follow(context.clone()))));
            }
        }
        if self.reading.as_ref().map(|(settings, _)| settings) != scrape {
            let start = |scrape: &ScrapeSettings| {
                (scrape.clone(), one(read_workers(scrape.clone(), context.clone())))
            };
            self.reading = scrape.map(start);
        }
        match (&self.asking, wanted.is_empty()) {
            (None, false) => self.asking = Some(one(ask_models(context.clone()))),
            (Some(_), true) => self.asking = None,
            _ => {}
        }
    }
}

fn one(task: impl Future<Output = ()> + Send + 'static) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    tasks
}

impl App {
    /// Follows the discovery sources of the current settings.
    pub(super) async fn follow_sources(self) {
        let fleet_sync = &self.0.fleet_sync;
        let upstream = Arc::clone(&self.0.upstream_settings);
        let context = DiscoveryContext {
            registry: Arc::clone(&fleet_sync.registry),
            changed: Arc::clone(&fleet_sync.changed),
            clock: self.0.clock.clone(),
            tls: Arc::new(move || upstream.load().tls.clone()),
        };
        let mut reloads = fleet_sync.reloaded.subscribe();
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tasks = SourceTasks::default();
        let mut unused = UnusedWorkers::default();
        loop {
            {
                let live = self.0.live.load();
                let settings = &live.settings;
                let targets = &settings.sources.targets;
                let reads = !settings.registry.scraped.is_empty()
                    || targets.iter().any(|target| target.settings().scrape);
                if !reads {
                    fleet_sync.registry.lock().keep_readings(|_| false);
                }
                tasks.follow(targets, reads.then_some(&settings.scrape), &context);
            }
            tokio::select! {
                _ = ticks.tick() => {
                    let refusals = self.0.fleet_sync.registry.lock().discovery_refusals();
                    unused.report(&refusals);
                }
                // The sender lives as long as the gateway.
                changed = reloads.changed() => changed.unwrap_or_default(),
            }
        }
    }

    /// Returns the state of the discovery sources.
    pub(super) fn discovery_sources(&self) -> Vec<SourceView> {
        let registry = self.0.fleet_sync.registry.lock();
        let heartbeats = self.redis().and_then(|_| registry.feed_age(self.0.clock.now()));
        let heartbeats = heartbeats.map(|age| (DiscoverySource::Redis, age));
        let away = registry.targets_away();
        let view = |(source, age): (DiscoverySource, Duration)| SourceView {
            source: source.as_str().into(),
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            away: away.iter().filter(|id| id.source == source).map(|id| Arc::clone(&id.name)).collect(),
        };
        heartbeats.into_iter().chain(registry.source_ages()).map(view).collect()
    }
}
