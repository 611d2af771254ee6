//! Reads the health and the metrics of workers, and reports them like heartbeats.
//!
//! Each worker is read once per interval, at a random time within it. A check that fails is a red
//! one, not a failed worker: a worker whose check is red is left out only while another of its pool
//! can serve (`fleet::registry`).
//!
//! **Trade-off.** A path that a worker does not have is not asked again until the worker is replaced
//! or the settings change: asking a thousand workers for it each second would help nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::handle::DiscoveryContext;
use crate::clock::unix_millis;
use crate::fleet::heartbeat::{CheckStatus, DesiredState, HealthCheck, Heartbeat, INTERVAL};
use crate::fleet::spec::WorkerSpec;
use crate::scrape::{EngineSignals, ProbeTarget, ProbedHealth, ProbedMetrics, TIMEOUT, WorkerProbe};

/// How often new workers are looked for.
const LOOK: Duration = Duration::from_millis(200);
/// Workers that are read at once, each page at most 4 MiB.
const AT_ONCE: usize = 32;

/// How workers are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScrapeSettings {
    /// Time between two readings of a worker.
    pub interval: Duration,
    /// Path of its Prometheus metrics.
    pub path: String,
    /// Path that answers 200 while it is healthy.
    pub health: String,
}

/// The task that reads one worker; ends when dropped.
struct ReaderTask {
    spec: WorkerSpec,
    _task: JoinSet<()>,
}

/// Reads the workers that the registry names, until dropped.
pub(crate) async fn read_workers(settings: ScrapeSettings, context: DiscoveryContext) {
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut running: HashMap<Arc<str>, ReaderTask> = HashMap::new();
    loop {
        ticks.tick().await;
        let wanted: HashMap<Arc<str>, WorkerSpec> = {
            let mut registry = context.registry.lock();
            let wanted = registry.workers_to_read().into_iter();
            let wanted: HashMap<_, _> = wanted.map(|spec| (Arc::clone(&spec.id), spec)).collect();
            registry.keep_readings(|id| wanted.contains_key(id));
            wanted
        };
        running.retain(|id, task| {
            wanted.get(id).is_some_and(|spec| {
                let known = &task.spec;
                (&spec.url, spec.address, &spec.headers) == (&known.url, known.address, &known.headers)
            })
        });
        for (id, spec) in wanted {
            running.entry(id).or_insert_with(|| {
                let mut task = JoinSet::new();
                let reading = WorkerScrape::new(spec.clone(), settings.clone(), context.clone());
                task.spawn(reading.run(Arc::clone(&at_once)));
                ReaderTask { spec, _task: task }
            });
        }
    }
}

/// Readings of one worker.
struct WorkerScrape {
    spec: WorkerSpec,
    settings: ScrapeSettings,
    context: DiscoveryContext,
    probe: WorkerProbe,
    boot: Arc<str>,
    seq: u64,
    has_health: bool,
    has_metrics: bool,
    /// Sizes that it last reported: a page that fails once changes none.
    slots: Option<u32>,
    kv_tokens: Option<u64>,
    /// `true` if it was said that the metrics are of no known engine.
    unknown_told: bool,
}

impl WorkerScrape {
    fn new(spec: WorkerSpec, settings: ScrapeSettings, context: DiscoveryContext) -> Self {
        let target = ProbeTarget {
            url: spec.url.clone(),
            address: spec.address,
            headers: spec.headers.clone(),
            health: settings.health.clone(),
            metrics: settings.path.clone(),
            patience: settings.interval.min(TIMEOUT),
        };
        Self {
            probe: WorkerProbe::new(target, Vec::new()),
            boot: format!("{:016x}", fastrand::u64(..)).into(),
            seq: 0,
            has_health: true,
            has_metrics: true,
            slots: None,
            kv_tokens: None,
            unknown_told: false,
            spec,
            settings,
            context,
        }
    }

    async fn run(mut self, at_once: Arc<Semaphore>) {
        // Not all workers, and not all gateways, at the same time.
        sleep(self.settings.interval.mul_f64(fastrand::f64())).await;
        let mut ticks = interval(self.settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.has_health || self.has_metrics {
            ticks.tick().await;
            // It is never closed.
            let Ok(_turn) = at_once.acquire().await else { return };
            let reading = self.read().await;
            let mut registry = self.context.registry.lock();
            match reading {
                Some(reading) => registry.take_reading(reading, self.context.clock.now()),
                // What was read before means nothing now.
                None => registry.forget_reading(&self.spec.id),
            }
            drop(registry);
            self.context.changed.notify_one();
        }
    }

    /// Reads the worker once; `None` if it has nothing that can be read.
    async fn read(&mut self) -> Option<Heartbeat> {
        let tls = (self.context.tls)();
        let mut checks = Vec::new();
        let mut signals = EngineSignals::default();
        let mut well = true;
        if self.has_health {
            match self.probe.health(tls.as_ref()).await {
                ProbedHealth::Well => {}
                ProbedHealth::Absent(status) => {
                    self.has_health = false;
                    self.warn(&self.settings.health, status.as_u16(), "its health is not watched");
                }
                ProbedHealth::Failed(error) => {
                    well = false;
                    checks.push(check("health", CheckStatus::Red, &error.to_string()));
                }
            }
        }
        if well && self.has_metrics {
            match self.probe.metrics(tls.as_ref()).await {
                ProbedMetrics::Signals(found) => {
                    signals = found;
                    self.slots = self.probe.slots(tls.as_ref()).await.or(self.slots);
                    self.kv_tokens = signals.kv_tokens.or(self.kv_tokens);
                }
                ProbedMetrics::Unknown if self.unknown_told => {}
                ProbedMetrics::Unknown => {
                    self.unknown_told = true;
                    self.warn(&self.settings.path, 200, "none of its metrics is known");
                }
                ProbedMetrics::Absent(status) => {
                    self.has_metrics = false;
                    self.warn(&self.settings.path, status.as_u16(), "its metrics are not read");
                }
                ProbedMetrics::Failed(error) => {
                    checks.push(check("metrics", CheckStatus::Yellow, &error.to_string()));
                }
            }
        }
        let says = self.has_health || !signals.is_empty() || !checks.is_empty();
        says.then(|| self.heartbeat(&signals, checks))
    }

    fn warn(&self, path: &str, status: u16, what: &str) {
        let worker = &*self.spec.id;
        tracing::warn!(worker, path, status, "{what}; see `workers.scrape`");
    }

    fn heartbeat(&mut self, signals: &EngineSignals, checks: Vec<HealthCheck>) -> Heartbeat {
        self.seq += 1;
        let length = |seconds: Option<f64>| seconds.and_then(|it| Duration::try_from_secs_f64(it).ok());
        Heartbeat {
            worker: Arc::clone(&self.spec.id),
            boot: Arc::clone(&self.boot),
            seq: self.seq,
            at_ms: Some(unix_millis()),
            // A worker that is slow to answer is no silent one.
            interval: (self.settings.interval + TIMEOUT * 2).min(INTERVAL.1),
            url: None,
            pool: None,
            model: None,
            colour: None,
            version: None,
            state: DesiredState::Ready,
            slots: self.slots,
            running: signals.running,
            waiting: signals.waiting,
            kv_used: signals.kv_used,
            kv_tokens: self.kv_tokens,
            ttft_p90: length(signals.ttft),
            itl_p90: length(signals.itl),
            checks,
        }
    }
}

fn check(name: &str, status: CheckStatus, message: &str) -> HealthCheck {
    HealthCheck { name: name.into(), status, message: message.into() }
}
