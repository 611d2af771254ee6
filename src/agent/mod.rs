//! The agent: publishes heartbeats for a worker that cannot do so itself.
//!
//! Each interval it reads the worker's health endpoint and Prometheus metrics (vLLM, SGLang,
//! llama.cpp, TGI) and publishes a heartbeat. Asked to end, it publishes `draining` until the
//! worker is gone or the drain time is over. A worker that does not answer is `failed`.
//!
//! * **Failure mode.** If the agent dies, its worker looks silent: gateways reduce its load, unless
//!   they see themselves that it works. Unreadable metrics are only a yellow check.
//! * **Trade-off.** One probe timeout is forgiven: a worker with a busy Python thread is not gone.
//!   A refused connection or an error counts at once.

mod checks;
mod engine;
mod text;
mod window;

pub use engine::Rename;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use tokio::time::{MissedTickBehavior, interval};

use self::engine::{EngineSignals, ScrapeReader};
use crate::clock::unix_millis;
use crate::fleet::heartbeat::{DesiredState, HealthCheck, Heartbeat};
use crate::net::fetch::{Fetch, FetchError};
use crate::redis::publisher::HeartbeatPublisher;

/// Maximum time of a probe; shorter if the heartbeat interval is.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum bytes of a metrics page.
const MAX_BYTES: usize = 8 << 20;
/// Path where llama.cpp reports its slots.
const PROPS: &str = "/props";
/// Consecutive probe timeouts after which the worker counts as failed.
const TIMEOUTS: u32 = 2;

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
    reader: ScrapeReader,
    timeouts: u32,
    last_state: Option<DesiredState>,
    props: Props,
}

/// Result of a worker's `/props`, which only llama.cpp has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Props {
    /// Not asked yet, or no answer.
    Unknown,
    /// The slots, if it reported them.
    Told(Option<u32>),
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
        let reader = ScrapeReader::new(options.renames.clone());
        let boot = format!("{:016x}", fastrand::u64(..)).into();
        Self { options, boot, seq: 0, reader, timeouts: 0, last_state: None, props: Props::Unknown }
    }

    /// Probes the worker and builds its heartbeat.
    async fn beat(&mut self, draining: bool) -> Heartbeat {
        let mut checks = Vec::new();
        let mut signals = EngineSignals::default();
        let well = self.is_well().await;
        if well {
            signals = self.scrape(&mut checks).await;
            self.ask_for_slots().await;
        } else {
            // The worker may come back as another process with other slots.
            self.props = Props::Unknown;
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
        self.heartbeat(state, &signals, checks)
    }

    async fn is_well(&mut self) -> bool {
        match self.get(&self.options.health).await {
            Ok(_) => {
                self.timeouts = 0;
                true
            }
            Err(FetchError::TimedOut(_)) => {
                self.timeouts += 1;
                self.timeouts < TIMEOUTS
            }
            Err(fault) => {
                tracing::debug!(%fault, "the worker's health check failed");
                false
            }
        }
    }

    async fn scrape(&mut self, checks: &mut Vec<HealthCheck>) -> EngineSignals {
        let text = match self.get(&self.options.metrics).await {
            Ok(text) => text,
            Err(fault) => {
                checks.push(checks::doubt("metrics", &fault.to_string()));
                return EngineSignals::default();
            }
        };
        let signals = self.reader.read(&String::from_utf8_lossy(&text));
        if signals.is_empty() {
            checks.push(checks::doubt("metrics", "no known vLLM, SGLang, llama.cpp or TGI metric found"));
        }
        signals
    }

    /// Asks for the slots, once per worker process, unless the options give them.
    async fn ask_for_slots(&mut self) {
        if self.options.slots.is_some() || self.props != Props::Unknown {
            return;
        }
        self.props = match self.get(PROPS).await {
            Ok(text) => Props::Told(engine::slots(&text)),
            Err(FetchError::TimedOut(_)) => Props::Unknown,
            Err(_) => Props::Told(None),
        };
    }

    /// Fetches `path`, appended to the path of the worker's URL.
    async fn get(&self, path: &str) -> Result<Bytes, FetchError> {
        let server = &self.options.worker;
        let path = format!("{}{path}", server.path().trim_end_matches('/'));
        let patience = self.options.interval.min(TIMEOUT);
        Fetch { server, path: &path, tls: None, timeout: patience, max_bytes: MAX_BYTES }.get().await
    }

    fn heartbeat(
        &mut self,
        state: DesiredState,
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
            slots: options.slots.or(match self.props {
                Props::Told(slots) => slots,
                Props::Unknown => None,
            }),
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
