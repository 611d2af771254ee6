//! State of a gateway at one moment.
//!
//! One value for all who look: metrics, the page, `traffic-dam top` and `/api/v1/state`. It is plain
//! data with text keys, so it always serializes; `top` reads the type that the gateway writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::fleet::Light;
use crate::fleet::heartbeat::HealthCheck;
use crate::shed::PrefixFigures;

/// State of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GatewayView {
    /// Version of the program.
    pub version: Arc<str>,
    /// Drain phase; `running` before the drain.
    pub phase: Arc<str>,
    /// `true` if closed for maintenance.
    pub maintenance: bool,
    /// Number of gateways that share quotas or workers.
    pub gateways: u32,
    /// TTFT SLO in milliseconds.
    pub ttft_slo_ms: u64,
    /// Upper bounds of the histogram of TTFT, in seconds.
    pub ttft_buckets: Vec<f64>,
    /// Number of open connections.
    pub connections: u64,
    /// Bytes of request bodies in memory.
    pub buffered_bytes: u64,
    /// Heartbeat feed working; `None` without discovery. While it is lost, the last known fleet stays.
    pub feed: Option<bool>,
    /// The discovery sources.
    #[serde(default)]
    pub discovery: Vec<SourceView>,
    /// Redis reachable; `None` if Redis is not configured.
    pub redis: Option<bool>,
    /// Reloads since the start: applied, refused.
    pub reloads: (u64, u64),
    /// The pools.
    pub pools: Vec<PoolView>,
    /// Number of workers left out because there are too many.
    pub hidden_workers: usize,
    /// The callers with the most requests in the last second.
    pub callers: Vec<CallerView>,
    /// The rules, nearest to their quota first.
    pub rules: Vec<RuleUseView>,
}

/// A pool of workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolView {
    /// Name.
    pub name: Arc<str>,
    /// Active colour; `None` if any colour takes work.
    pub active: Option<Arc<str>>,
    /// Colours of its workers.
    pub colours: Vec<Arc<str>>,
    /// Sequences in flight at its workers.
    pub in_flight: u64,
    /// Maximum total sequences of its workers, if known.
    pub ceiling: Option<f64>,
    /// Waiting requests by class.
    pub queue: BTreeMap<Arc<str>, u64>,
    /// Bytes of the bodies of waiting requests.
    pub queue_bytes: u64,
    /// Requests that it has but cannot start, for an autoscaler.
    pub demand: u64,
    /// Asynchronous jobs that wait in Redis; `None` if it has no jobs.
    pub jobs: Option<JobsView>,
    /// How its workers scale together; `None` until measured.
    pub fleet_factor: Option<FactorView>,
    /// Cached shares of recent prompts.
    pub prefix_hit_ratio: PrefixFigures,
    /// Number of versions of each colour among the workers of its queue.
    pub versions: BTreeMap<Arc<str>, u64>,
    /// Its workers. With a queue: its sides, each followed by its workers.
    pub workers: Vec<WorkerView>,
    /// Processes that take the jobs of its queue and are none of its workers; `None` without a queue.
    pub strangers: Option<Vec<StrangerView>>,
    /// The canary under way, or the last one that this gateway judged.
    #[serde(default)]
    pub canary: Option<CanaryView>,
}

/// Asynchronous jobs that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobsView {
    /// Their number.
    pub waiting: u64,
    /// Wait of the oldest of those that may start, in milliseconds; 0 without one.
    pub oldest_ms: u64,
}

/// Throughput of the workers of a pool relative to the sum of each alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FactorView {
    /// As configured.
    pub configured: f64,
    /// As measured.
    pub measured: f64,
    /// Numbers of workers at which it was measured.
    pub workers: Vec<u32>,
}

/// A side on trial beside the active one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CanaryView {
    /// Epoch of the switch that began it.
    pub epoch: u64,
    /// The side that was active before.
    pub old: Arc<str>,
    /// The side on trial.
    pub new: Arc<str>,
    /// The share of the requests that it gets, 0…1.
    pub share: f64,
    /// How it stands.
    pub state: CanaryState,
    /// Why it ended.
    #[serde(default)]
    pub why: Option<Arc<str>>,
    /// `true` if this gateway judges it. Otherwise the counts are of this gateway alone.
    pub judged_here: bool,
    /// Time after which it is judged, in milliseconds; extended until there are enough answers.
    pub judge_ms: u64,
    /// Time since it began, without that in which Redis did not answer, in milliseconds.
    pub elapsed_ms: u64,
    /// Number of gateways whose counts are in the sums.
    pub gateways: usize,
    /// What became of the requests of the old side.
    pub usual: SideView,
    /// What became of those of the side on trial.
    pub canary: SideView,
}

/// How a canary stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryState {
    /// It gets its share.
    #[default]
    UnderWay,
    /// It gets everything.
    Promoted,
    /// The old side gets everything.
    Reverted,
    /// The old side gets everything, as there were too few requests to judge.
    NoData,
}

impl CanaryState {
    /// Returns the name, as in JSON and in metrics.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::UnderWay => "under_way",
            Self::Promoted => "promoted",
            Self::Reverted => "reverted",
            Self::NoData => "no_data",
        }
    }
}

/// What became of the requests of one side of a canary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SideView {
    /// Requests that have ended.
    pub offered: u64,
    /// Of these, answered or failed by its own workers.
    pub answers: u64,
    /// Answered in time.
    pub good: u64,
    /// Failed, or answered with an error.
    pub failed: u64,
    /// Geometric mean of the times to the first token, in milliseconds.
    pub ttft_ms: Option<f64>,
}

/// A worker of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerView {
    /// Id.
    pub id: Arc<str>,
    /// Blue/green side.
    pub colour: Arc<str>,
    /// Health as a light.
    pub light: Light,
    /// Why the light is not green.
    pub why: Option<Arc<str>>,
    /// The last fault that the gateway found with it; `None` once it has answered well.
    pub trouble: Option<Arc<str>>,
    /// `true` while ejected because it fails where others succeed, or on probation after that.
    pub ejected: bool,
    /// Sequences in flight.
    pub in_flight: u32,
    /// Maximum sequences in flight.
    pub limit: u32,
    /// Factor on its limit, 0…1.
    pub weight: f64,
    /// E: what this gateway has learned of the TTFT of an idle worker, smallest prompts first.
    pub idle_ttft: Vec<IdleTtftView>,
    /// Tokens of all requests in flight.
    pub tokens: u64,
    /// Size of its KV cache in tokens, if known.
    pub kv_tokens: Option<u64>,
    /// `true` if the settings let it take work.
    pub eligible: bool,
    /// `true` if it takes no new work and finishes what it has.
    pub leaving: bool,
    /// What its provider's limits leave, if it is external.
    pub provider: Option<ProviderView>,
    /// Its last heartbeat.
    pub said: Option<HeartbeatView>,
    /// For one worker of a queue, the id of its side, which also has a line: the sums of that line
    /// contain this one. `None` for all others.
    pub member_of: Option<Arc<str>>,
}

/// The time to the first token that an idle worker needs for prompts of one size class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IdleTtftView {
    /// Largest number of prompt tokens of the class, a power of two. Cached tokens do not count.
    pub prompt_tokens: u64,
    /// Milliseconds, to a tenth.
    pub ms: f64,
}

/// What the limits of a provider leave; `None` without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderView {
    /// Requests.
    pub(crate) requests: Option<u64>,
    /// Tokens.
    pub(crate) tokens: Option<u64>,
    /// Time for which nothing is sent to the worker, in milliseconds.
    pub(crate) closed_ms: u64,
}

/// A heartbeat of a worker; `None` fields were not reported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeartbeatView {
    /// The state that it reports.
    pub state: Arc<str>,
    /// Age in milliseconds, not counting outages of Redis.
    pub age_ms: u64,
    /// Age in intervals between heartbeats; `None` if it announced that it leaves.
    pub missed: Option<f64>,
    /// `true` if this gateway read it from the worker: then it is no heartbeat.
    #[serde(default)]
    pub scraped: bool,
    /// Time by the worker's clock, in milliseconds since 1970.
    pub at_ms: Option<u64>,
    /// Software version.
    pub version: Option<Arc<str>>,
    /// Requests that it decodes at once.
    pub slots: Option<u32>,
    /// Requests that it runs.
    pub running: Option<u32>,
    /// Requests in its own queue.
    pub waiting: Option<u32>,
    /// Used share of its KV cache, 0…1.
    pub kv_used: Option<f64>,
    /// 90th percentile of its time to the first token, in milliseconds.
    pub ttft_p90_ms: Option<f64>,
    /// 90th percentile of its time between tokens, in milliseconds.
    pub itl_p90_ms: Option<f64>,
    /// Its own checks.
    pub checks: Vec<HealthCheck>,
}

/// A discovery source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    /// Its name in the settings.
    pub source: Arc<str>,
    /// Time since it last answered, in milliseconds, for the one of its targets for which that is
    /// longest.
    pub age_ms: u64,
    /// Names for which it does not answer. Their workers stay as they were.
    pub away: Vec<Arc<str>>,
}

/// A process that takes jobs of a pool which are not its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrangerView {
    /// Name, as Redis or an answer has it.
    pub worker: Arc<str>,
    /// What it does, in words.
    pub why: Arc<str>,
}

/// A caller, with rates per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CallerView {
    /// Namespaced id.
    pub id: Arc<str>,
    /// Requests.
    pub requests: f64,
    /// Refused requests.
    pub refused: f64,
    /// Tokens of answered requests.
    pub tokens: f64,
}

/// A rule and its use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleUseView {
    /// Name.
    pub name: Arc<str>,
    /// Unit that it counts.
    pub unit: Arc<str>,
    /// `true` if it observes only.
    pub observes: bool,
    /// Number of keys in memory.
    pub keys: u64,
    /// Highest used share of a quota in the last seconds, 0…1.
    pub used: Option<f64>,
    /// Caller of the request that reached this share.
    pub caller: Option<Arc<str>>,
    /// Requests refused in the last second, or that would have been in observe mode.
    pub refused: u64,
}
