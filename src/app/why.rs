//! Why a worker's light is not green, in words.

use std::sync::Arc;

use crate::fleet::roster::Report;
use crate::shed::WorkerSnapshot;

/// The reason for a red or yellow light. What the gate sees goes before what the worker says of itself, the worse
/// before the better.
pub(super) fn why(worker: &WorkerSnapshot, report: Option<&Report>) -> Option<Arc<str>> {
    let said = || report.and_then(Report::reason);
    let reason = if worker.leaving {
        "it leaves, and only finishes what it has".to_owned()
    } else if !worker.reachable {
        "it cannot be reached".to_owned()
    } else if let Some((true, reason)) = said() {
        reason
    } else if report.is_none() && !worker.eligible {
        "it gets no work by the settings, and says nothing of itself".to_owned()
    } else if worker.in_flight >= worker.limit {
        format!("full: {} of {} in flight", worker.in_flight, worker.limit)
    } else {
        said()?.1
    };
    Some(reason.into())
}
