//! The events of a gateway in one second, and its state, for viewers.
//!
//! The gateway writes and `traffic-dam top` reads the same types, so that they cannot diverge.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::view::{GatewayView, WorkerView};

/// Maximum workers shown: what fits a screen, and what a slow line carries in a second.
const MOST_WORKERS: usize = 200;
/// Maximum strangers shown per pool.
const MOST_STRANGERS: usize = 16;

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

/// Keeps at most [`MOST_WORKERS`] workers: those in trouble, then those with most in flight.
pub(super) fn trimmed(view: &GatewayView) -> GatewayView {
    let mut trimmed = view.clone();
    for strangers in trimmed.pools.iter_mut().filter_map(|pool| pool.strangers.as_mut()) {
        strangers.truncate(MOST_STRANGERS);
    }
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
