//! The agent: publishes heartbeats for a worker that cannot do so itself.
//!
//! Each interval it reads the worker's health endpoint and Prometheus metrics (vLLM, SGLang,
//! llama.cpp, TGI) and publishes a heartbeat. Asked to end, it publishes `draining` until the
//! worker is gone or the drain time is over. A worker that does not answer is `failed`.
//!
//! * **Failure mode.** If the agent dies, its worker looks silent: gateways reduce its load, unless
//!   they see themselves that it works. Unreadable metrics are only a yellow check.

mod checks;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Uri};
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::unix_millis;
use crate::fleet::heartbeat::{DesiredState, HealthCheck, Heartbeat};
use crate::redis::publisher::HeartbeatPublisher;
use crate::scrape::{EngineSignals, ProbeTarget, ProbedHealth, ProbedMetrics, Rename, TIMEOUT, WorkerProbe};

/// Options of an agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// `http` URL at which the agent reaches the worker.
    pub worker: Uri,
    /// URL at which gateways reach it.
    pub advertise: Uri,
    /// Id of the worker.
    pub id: Arc<str>,
    /// Its pool.
    pub pool: Option<Arc<str>>,
    /// The model it serves, or a pattern.
    pub model: Option<Arc<str>>,
    /// Its blue/green side.
    pub colour: Option<Arc<str>>,
    /// Version of the worker, for display.
    pub version: Option<Arc<str>>,
    /// Requests it decodes at once; if `None`, llama.cpp is asked.
    pub slots: Option<u32>,
    /// KV cache size in tokens, if its metrics do not report it.
    pub kv_tokens: Option<u64>,
    /// Heartbeat interval.
    pub interval: Duration,
    /// Path that answers 200 while the worker is healthy.
    pub health: String,
    /// Path of its metrics.
    pub metrics: String,
    /// Overrides of its metric names.
    pub renames: Vec<Rename>,
    /// Load per core at which the machine counts as overloaded; `None` disables the check.
    pub max_load: Option<f64>,
    /// Maximum time to publish `draining`.
    pub drain: Duration,
}

/// Agent of one worker.
#[derive(Debug)]
struct Agent {
    options: AgentOptions,
    boot: Arc<str>,
    seq: u64,
    probe: WorkerProbe,
    last_state: Option<DesiredState>,
}

/// Publishes heartbeats until `end` completes and the worker has drained.
pub async fn run(options: AgentOptions, mut publisher: HeartbeatPublisher, end: impl Future<Output = ()>) {
    let id = Arc::clone(&options.id);
    let mut ticks = interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut agent = Agent::new(options);
    let mut redis_failing = false;
    let mut end = std::pin::pin!(end);
    // Remaining heartbeats after `end` has completed.
    let mut left: Option<u128> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Published at once, not with the next heartbeat.
            () = &mut end, if left.is_none() => {
                left = Some(agent.options.drain.as_millis() / agent.options.interval.as_millis().max(1));
            }
        }
        let beat = agent.beat(left.is_some()).await;
        if left.is_some() && beat.state == DesiredState::Failed {
            // It ended after the drain, as wanted: `draining` stays its last state.
            break;
        }
        let said = publisher.publish(&beat).await;
        match &said {
            Err(error) if !redis_failing => tracing::warn!(%error, "cannot publish heartbeats to Redis"),
            Ok(()) if redis_failing => tracing::info!("heartbeats are published to Redis again"),
            _ => {}
        }
        redis_failing = said.is_err();
        left = match left {
            Some(0) => break,
            left => left.map(|left| left - 1),
        };
    }
    if let Err(error) = publisher.leave(&id).await {
        tracing::debug!(%error, "cannot remove the worker's entry from Redis; it stays until it expires");
    }
}

impl Agent {
    fn new(options: AgentOptions) -> Self {
        let target = ProbeTarget {
            url: options.worker.clone(),
            address: None,
            headers: HeaderMap::new(),
            health: options.health.clone(),
            metrics: options.metrics.clone(),
            patience: options.interval.min(TIMEOUT),
        };
        let probe = WorkerProbe::new(target, options.renames.clone());
        let boot = format!("{:016x}", fastrand::u64(..)).into();
        Self { options, boot, seq: 0, probe, last_state: None }
    }

    /// Probes the worker and builds its heartbeat.
    async fn beat(&mut self, draining: bool) -> Heartbeat {
        let mut checks = Vec::new();
        let mut signals = EngineSignals::default();
        let mut slots = self.options.slots;
        let well = self.is_well().await;
        if well {
            signals = self.scrape(&mut checks).await;
            if slots.is_none() {
                slots = self.probe.slots(None).await;
            }
        }
        if let (Some(red), Some(average)) = (self.options.max_load, checks::load_average()) {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            checks.push(checks::load(average, cores, red));
        }
        let state = match (well, draining) {
            (false, _) => DesiredState::Failed,
            (true, true) => DesiredState::Draining,
            (true, false) => DesiredState::Ready,
        };
        if self.last_state.replace(state) != Some(state) {
            tracing::info!(worker = %self.options.id, state = state.as_str(), "worker state");
        }
        self.heartbeat(state, slots, &signals, checks)
    }

    async fn is_well(&mut self) -> bool {
        let fault = match self.probe.health(None).await {
            ProbedHealth::Well => return true,
            ProbedHealth::Absent(status) => format!("it answered with status {status}"),
            ProbedHealth::Failed(error) => error.to_string(),
        };
        tracing::debug!(fault, "the worker's health check failed");
        false
    }

    async fn scrape(&mut self, checks: &mut Vec<HealthCheck>) -> EngineSignals {
        let doubt = match self.probe.metrics(None).await {
            ProbedMetrics::Signals(signals) => return signals,
            ProbedMetrics::Unknown => "no known vLLM, SGLang, llama.cpp or TGI metric found".to_owned(),
            ProbedMetrics::Absent(status) => format!("it answered with status {status}"),
            ProbedMetrics::Failed(error) => error.to_string(),
        };
        checks.push(checks::doubt("metrics", &doubt));
        EngineSignals::default()
    }

    fn heartbeat(
        &mut self,
        state: DesiredState,
        slots: Option<u32>,
        signals: &EngineSignals,
        checks: Vec<HealthCheck>,
    ) -> Heartbeat {
        self.seq += 1;
        let options = &self.options;
        let length = |seconds: Option<f64>| seconds.and_then(|it| Duration::try_from_secs_f64(it).ok());
        Heartbeat {
            worker: Arc::clone(&options.id),
            boot: Arc::clone(&self.boot),
            seq: self.seq,
            at_ms: Some(unix_millis()),
            interval: options.interval,
            url: Some(options.advertise.clone()),
            pool: options.pool.clone(),
            model: options.model.clone(),
            colour: options.colour.clone(),
            version: options.version.clone(),
            state,
            slots,
            running: signals.running,
            waiting: signals.waiting,
            kv_used: signals.kv_used,
            kv_tokens: options.kv_tokens.or(signals.kv_tokens),
            ttft_p90: length(signals.ttft),
            itl_p90: length(signals.itl),
            checks,
        }
    }
}
