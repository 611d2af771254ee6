//! What is shown of a gateway: as it is now, and what happened in one second.
//!
//! The same shapes are written by the gateway and read by `traffic-dam top`, so that the two cannot differ.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::metrics::Light;

/// The most workers that are shown: what an eye takes in, and what one second of a slow line carries.
const MOST_WORKERS: usize = 200;

/// A gateway as it is now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// The version of the program.
    pub version: Arc<str>,
    /// How far its way down has come; `running` before it begins.
    pub phase: Arc<str>,
    /// Whether it is closed for maintenance.
    pub maintenance: bool,
    /// Gateways that share quotas or workers.
    pub dams: u32,
    /// The promise, in milliseconds.
    pub ttft_slo_ms: u64,
    /// The upper bounds of [`Point::ttft`], in seconds.
    pub ttft_buckets: Vec<f64>,
    /// Connections open.
    pub connections: u64,
    /// Bytes of request bodies in memory.
    pub buffered_bytes: u64,
    /// Whether heartbeats are heard; nothing when none are listened for.
    pub feed: Option<bool>,
    /// Whether what is used of Redis works; nothing when nothing is.
    pub redis: Option<bool>,
    /// Settings taken since the start, and refused.
    pub reloads: (u64, u64),
    /// The pools.
    pub pools: Vec<PoolScene>,
    /// Workers that are not shown, because there are too many.
    pub hidden_workers: usize,
    /// The callers who ask most.
    pub callers: Vec<CallerScene>,
    /// The rules, those first that are nearest to their quota.
    pub rules: Vec<RuleScene>,
}

/// A pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolScene {
    /// Its name.
    pub name: Arc<str>,
    /// The colour that takes its work; nothing for any.
    pub active: Option<Arc<str>>,
    /// The colours its workers have.
    pub colours: Vec<Arc<str>>,
    /// Sequences at its workers.
    pub in_flight: u64,
    /// Sequences its workers may have together, where that is known.
    pub ceiling: Option<f64>,
    /// Requests waiting, by class.
    pub queue: BTreeMap<Arc<str>, u64>,
    /// Its workers.
    pub workers: Vec<WorkerScene>,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerScene {
    /// Its id.
    pub id: Arc<str>,
    /// The blue/green side it is on.
    pub colour: Arc<str>,
    /// How it is.
    pub light: Light,
    /// Why its light is not green.
    #[serde(default)]
    pub why: Option<Arc<str>>,
    /// Sequences it has.
    pub in_flight: u32,
    /// Sequences it may have.
    pub limit: u32,
    /// Whether the settings let it take work.
    pub eligible: bool,
    /// Whether it only finishes what it has.
    pub leaving: bool,
    /// Share of its KV cache in use, as it says.
    pub kv_used: Option<f64>,
    /// How old its last heartbeat is, in milliseconds.
    pub age_ms: Option<u64>,
}

/// A caller, per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CallerScene {
    /// Its namespaced id.
    pub id: Arc<str>,
    /// Requests.
    pub requests: f64,
    /// Of these, refused.
    pub refused: f64,
    /// Tokens of answered requests.
    pub tokens: f64,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleScene {
    /// Its name.
    pub name: Arc<str>,
    /// What it counts.
    pub unit: Arc<str>,
    /// Whether it only observes.
    pub observes: bool,
    /// Keys it remembers.
    pub keys: u64,
    /// The fullest share of a quota in the last seconds, 0…1.
    pub used: Option<f64>,
    /// The caller whose request found it so.
    pub caller: Option<Arc<str>>,
    /// What it refused in the last second, or would have.
    pub refused: u64,
}

/// What happened in one second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// When it ended, in milliseconds since 1970. Where a clock was set back, later points have earlier times.
    pub at_ms: u64,
    /// How long it was, in seconds: a busy machine's seconds are longer.
    pub seconds: f64,
    /// Requests that came.
    pub offered: u64,
    /// Requests that a worker began to answer.
    pub admitted: u64,
    /// Streams that completed within the promise.
    pub good: u64,
    /// Answers that broke off.
    pub failed: u64,
    /// Requests whose client left before its answer was whole.
    pub gone: u64,
    /// Refused requests, by reason.
    pub refused: BTreeMap<Arc<str>, u64>,
    /// Sequences at all workers, at its end.
    pub in_flight: u64,
    /// Sequences that all workers may have, at its end.
    pub limit: u64,
    /// Requests waiting, by class, at its end.
    pub queue: BTreeMap<Arc<str>, u64>,
    /// First contents by how long they took, as counts below the bounds of [`Scene::ttft_buckets`] and one beyond.
    pub ttft: Vec<u64>,
}

/// Something worth a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub text: String,
}

/// What a viewer gets each second, and at first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Whether this is all there is, in place of what was sent before.
    pub whole: bool,
    /// The seconds that are new.
    pub points: Vec<Point>,
    /// The events that are new.
    pub events: Vec<Event>,
    /// The gateway as it is now.
    pub scene: Scene,
}

impl Scene {
    /// The same with at most [`MOST_WORKERS`] workers: those in trouble, then the fullest.
    pub(super) fn trimmed(&self) -> Self {
        let mut trimmed = self.clone();
        let all = || trimmed.pools.iter().flat_map(|pool| &pool.workers);
        let count = all().count();
        if count <= MOST_WORKERS {
            return trimmed;
        }
        let rank = |worker: &WorkerScene| (worker.light, std::cmp::Reverse(worker.in_flight));
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
