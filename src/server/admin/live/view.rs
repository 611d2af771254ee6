//! Snapshot of a gateway, and its events of one second, for viewers.
//!
//! The gateway writes and `traffic-dam top` reads the same types, so that they cannot diverge.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::fleet::Light;

/// Maximum workers shown: what fits a screen, and what a slow line carries in a second.
const MOST_WORKERS: usize = 200;

/// Snapshot of a gateway.
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
    /// Upper bounds of [`SecondPoint::ttft`], in seconds.
    pub ttft_buckets: Vec<f64>,
    /// Number of open connections.
    pub connections: u64,
    /// Bytes of request bodies in memory.
    pub buffered_bytes: u64,
    /// Heartbeat feed working; `None` without discovery.
    pub feed: Option<bool>,
    /// Redis reachable; `None` if Redis is not configured.
    pub redis: Option<bool>,
    /// Reloads since the start: applied, refused.
    pub reloads: (u64, u64),
    /// The pools.
    pub pools: Vec<PoolView>,
    /// Number of workers left out because there are too many.
    pub hidden_workers: usize,
    /// The callers with the most requests.
    pub callers: Vec<CallerView>,
    /// The rules, nearest to their quota first.
    pub rules: Vec<RuleRates>,
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
    /// Its workers. With a queue: its sides, each followed by its workers.
    pub workers: Vec<WorkerView>,
    /// Processes that take its jobs and are none of its workers.
    #[serde(default)]
    pub strangers: Vec<StrangerView>,
}

/// A worker of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Id.
    pub id: Arc<str>,
    /// Blue/green side.
    pub colour: Arc<str>,
    /// Health as a light.
    pub light: Light,
    /// Why the light is not green.
    #[serde(default)]
    pub why: Option<Arc<str>>,
    /// Sequences in flight.
    pub in_flight: u32,
    /// Maximum sequences in flight.
    pub limit: u32,
    /// `true` if the settings let it take work.
    pub eligible: bool,
    /// `true` if it takes no new work and finishes what it has.
    pub leaving: bool,
    /// Used share of its KV cache, 0…1, from its heartbeat.
    pub kv_used: Option<f64>,
    /// Age of its last heartbeat, in milliseconds.
    pub age_ms: Option<u64>,
    /// Software version, from its heartbeat.
    #[serde(default)]
    pub version: Option<Arc<str>>,
    /// For one worker of a queue, the id of its side, which also has a line: the sums of that line
    /// contain this one. `None` for all others.
    #[serde(default)]
    pub member_of: Option<Arc<str>>,
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
pub struct RuleRates {
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

/// Events of one second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SecondPoint {
    /// End, in milliseconds since 1970. If the clock is set back, later points have earlier times.
    pub at_ms: u64,
    /// Length in seconds; more than 1 on a busy machine.
    pub seconds: f64,
    /// Requests received.
    pub offered: u64,
    /// Requests that a worker began to answer.
    pub admitted: u64,
    /// Streams completed within the SLO.
    pub good: u64,
    /// Answers that failed midway or timed out.
    pub failed: u64,
    /// Requests whose client left before the answer was complete.
    pub gone: u64,
    /// Refused requests by reason.
    pub refused: BTreeMap<Arc<str>, u64>,
    /// Sequences in flight at all workers, at the end.
    pub in_flight: u64,
    /// Maximum sequences of all workers, at the end.
    pub limit: u64,
    /// Waiting requests by class, at the end.
    pub queue: BTreeMap<Arc<str>, u64>,
    /// Histogram of TTFT: counts per bucket of [`GatewayView::ttft_buckets`], and one beyond.
    pub ttft: Vec<u64>,
}

/// A line for the event list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveEvent {
    /// Time, in milliseconds since 1970.
    pub at_ms: u64,
    /// Message.
    pub text: String,
}

/// Message to viewers: everything at first, then one per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// `true` if it replaces everything sent before.
    pub whole: bool,
    /// New seconds.
    pub points: Vec<SecondPoint>,
    /// New events.
    pub events: Vec<LiveEvent>,
    /// Current snapshot.
    pub scene: GatewayView,
}

impl GatewayView {
    /// Keeps at most [`MOST_WORKERS`] workers: those in trouble, then those with most in flight.
    pub(super) fn trimmed(&self) -> Self {
        let mut trimmed = self.clone();
        let all = || trimmed.pools.iter().flat_map(|pool| &pool.workers);
        let count = all().count();
        if count <= MOST_WORKERS {
            return trimmed;
        }
        let rank = |worker: &WorkerView| (worker.light, std::cmp::Reverse(worker.in_flight));
        let mut ranks: Vec<_> = all().map(rank).collect();
        ranks.sort_unstable();
        let last = ranks.get(MOST_WORKERS - 1).copied();
        let mut left = MOST_WORKERS;
        for pool in &mut trimmed.pools {
            pool.workers.retain(|worker| {
                let shown = left > 0 && Some(rank(worker)) <= last;
                left -= usize::from(shown);
                shown
            });
        }
        trimmed.hidden_workers = count - (MOST_WORKERS - left);
        trimmed
    }
}
