//! The agent: stands beside a worker that knows nothing of heartbeats, and says them for it.
//!
//! Each interval it asks the worker's health endpoint and its Prometheus metrics, under the names of vLLM, SGLang,
//! llama.cpp and TGI, and says what it learned. When it is told to end it says `draining` until the worker is gone or
//! the time for that is over; a worker that does not answer is said to have `failed`.
//!
//! * **Failure mode.** The agent dies: its worker looks silent. Gateways then give it less and less, but for what they
//!   see of it themselves. The metrics cannot be read: that is a yellow check, and the worker goes on.
//! * **Trade-off.** One probe that times out is forgiven, for a worker whose Python thread is busy is not gone; a refused
//!   connection or an error is believed at once.

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
use crate::fleet::heartbeat::{Check, Heartbeat, State};
use crate::net::fetch::{Fetch, FetchFault};
use crate::redis::speaker::Speaker;

/// The longest a probe may take; less, when heartbeats are due more often.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest page of metrics that is read.
const LARGEST: usize = 8 << 20;
/// Where llama.cpp tells its slots.
const PROPS: &str = "/props";
/// Probes in a row that may time out before the worker counts as gone.
const TIMEOUTS: u32 = 2;

/// What an agent is told.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Where the agent reaches the worker: an `http` URL.
    pub worker: Uri,
    /// Where gateways reach it.
    pub advertise: Uri,
    /// What the worker is called.
    pub id: Arc<str>,
    /// The pool it belongs to.
    pub pool: Option<Arc<str>>,
    /// The model it serves, or a pattern.
    pub model: Option<Arc<str>>,
    /// The blue/green side it is on.
    pub colour: Option<Arc<str>>,
    /// What it runs, for people.
    pub version: Option<Arc<str>>,
    /// Requests it decodes at once; without them llama.cpp is asked.
    pub slots: Option<u32>,
    /// Tokens its KV cache holds, when its metrics do not tell.
    pub kv_tokens: Option<u64>,
    /// How often a heartbeat is said.
    pub interval: Duration,
    /// The path that answers 200 while the worker is well.
    pub health: String,
    /// The path of its metrics.
    pub metrics: String,
    /// Other names for its metrics.
    pub renames: Vec<Rename>,
    /// Load per core at which the machine counts as overloaded; nothing to not look at it.
    pub max_load: Option<f64>,
    /// How long `draining` is said at most.
    pub drain: Duration,
}

/// One worker's agent.
#[derive(Debug)]
struct Agent {
    options: AgentOptions,
    boot: Arc<str>,
    seq: u64,
    reader: ScrapeReader,
    timeouts: u32,
    told: Option<State>,
    props: Props,
}

/// What a worker's `/props` says, which only llama.cpp has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Props {
    /// It was not asked yet, or its answer did not come.
    Unknown,
    /// Its slots, if it named them.
    Told(Option<u32>),
}

/// Says heartbeats until `end` completes and the worker has drained.
pub async fn run(options: AgentOptions, mut speaker: Speaker, end: impl Future<Output = ()>) {
    let id = Arc::clone(&options.id);
    let mut ticks = interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut agent = Agent::new(options);
    let mut deaf = false;
    let mut end = std::pin::pin!(end);
    // Once it is told to end: how many heartbeats more.
    let mut left: Option<u128> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            // Said at once, not with the next heartbeat.
            () = &mut end, if left.is_none() => {
                left = Some(agent.options.drain.as_millis() / agent.options.interval.as_millis().max(1));
            }
        }
        let beat = agent.beat(left.is_some()).await;
        if left.is_some() && beat.state == State::Failed {
            // It has gone as it was told to: that it drains is the last word about it.
            break;
        }
        let said = speaker.say(&beat).await;
        match &said {
            Err(error) if !deaf => tracing::warn!(%error, "Redis takes no heartbeats"),
            Ok(()) if deaf => tracing::info!("Redis takes heartbeats again"),
            _ => {}
        }
        deaf = said.is_err();
        left = match left {
            Some(0) => break,
            left => left.map(|left| left - 1),
        };
    }
    if let Err(error) = speaker.leave(&id).await {
        tracing::debug!(%error, "what is kept of the worker stays until it expires");
    }
}

impl Agent {
    fn new(options: AgentOptions) -> Self {
        let reader = ScrapeReader::new(options.renames.clone());
        let boot = format!("{:016x}", fastrand::u64(..)).into();
        Self { options, boot, seq: 0, reader, timeouts: 0, told: None, props: Props::Unknown }
    }

    /// Looks at the worker, and tells what there is to say.
    async fn beat(&mut self, draining: bool) -> Heartbeat {
        let mut checks = Vec::new();
        let mut signals = EngineSignals::default();
        let well = self.is_well().await;
        if well {
            signals = self.scrape(&mut checks).await;
            self.ask_for_slots().await;
        } else {
            // What comes back may be another process, with other slots.
            self.props = Props::Unknown;
        }
        if let (Some(red), Some(average)) = (self.options.max_load, checks::load_average()) {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            checks.push(checks::load(average, cores, red));
        }
        let state = match (well, draining) {
            (false, _) => State::Failed,
            (true, true) => State::Draining,
            (true, false) => State::Ready,
        };
        if self.told.replace(state) != Some(state) {
            tracing::info!(worker = %self.options.id, state = state.as_str(), "the worker's state");
        }
        self.heartbeat(state, &signals, checks)
    }

    async fn is_well(&mut self) -> bool {
        match self.get(&self.options.health).await {
            Ok(_) => {
                self.timeouts = 0;
                true
            }
            Err(FetchFault::TimedOut(_)) => {
                self.timeouts += 1;
                self.timeouts < TIMEOUTS
            }
            Err(fault) => {
                tracing::debug!(%fault, "the worker is not well");
                false
            }
        }
    }

    async fn scrape(&mut self, checks: &mut Vec<Check>) -> EngineSignals {
        let text = match self.get(&self.options.metrics).await {
            Ok(text) => text,
            Err(fault) => {
                checks.push(checks::doubt("metrics", &fault.to_string()));
                return EngineSignals::default();
            }
        };
        let signals = self.reader.read(&String::from_utf8_lossy(&text));
        if signals.is_empty() {
            checks.push(checks::doubt(
                "metrics",
                "none of the names of vLLM, SGLang, llama.cpp or TGI is there",
            ));
        }
        signals
    }

    /// Asks for the slots, once in a worker's life, unless the options tell them.
    async fn ask_for_slots(&mut self) {
        if self.options.slots.is_some() || self.props != Props::Unknown {
            return;
        }
        self.props = match self.get(PROPS).await {
            Ok(text) => Props::Told(engine::slots(&text)),
            Err(FetchFault::TimedOut(_)) => Props::Unknown,
            Err(_) => Props::Told(None),
        };
    }

    /// What the worker has at `path`, after the path of its own URL.
    async fn get(&self, path: &str) -> Result<Bytes, FetchFault> {
        let server = &self.options.worker;
        let path = format!("{}{path}", server.path().trim_end_matches('/'));
        let patience = self.options.interval.min(PATIENCE);
        Fetch { server, path: &path, tls: None, patience, largest: LARGEST }.get().await
    }

    fn heartbeat(&mut self, state: State, signals: &EngineSignals, checks: Vec<Check>) -> Heartbeat {
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
