//! Why a worker's light is not green, in words.

use std::sync::Arc;

use crate::fleet::registry::WorkerReport;
use crate::shed::{ProviderLevel, WorkerSnapshot};

/// Returns the reason for a red or yellow light. The gate's view comes before the report, worse
/// before better.
pub(super) fn why(worker: &WorkerSnapshot, report: Option<&WorkerReport>) -> Option<Arc<str>> {
    let said = || report.and_then(WorkerReport::reason);
    let reason = if worker.leaving {
        "it is leaving and only finishes its current requests".to_owned()
    } else if let Some(trouble) = worker.trouble {
        trouble.as_str().to_owned()
    } else if let Some((true, reason)) = said() {
        reason
    } else if report.is_none() && !worker.eligible {
        "it takes no new requests and sends no heartbeats".to_owned()
    } else if worker.in_flight >= worker.limit {
        format!("full: {} of {} in flight", worker.in_flight, worker.limit)
    } else if let Some(level) = worker.provider.filter(ProviderLevel::is_used_up) {
        match level.closed_for.as_millis().div_ceil(1000) {
            0 => "its provider's limit is used up".to_owned(),
            seconds => format!("its provider's limit is used up for {seconds} s"),
        }
    } else {
        said()?.1
    };
    Some(reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shed::WorkerTrouble;
    use std::time::Duration;

    #[test]
    fn a_light_that_is_not_green_has_a_reason_of_which_the_worst_counts() {
        let well = WorkerSnapshot {
            id: "w1".into(),
            in_flight: 1,
            limit: 4,
            eligible: true,
            reachable: true,
            weight: 1.0,
            ..WorkerSnapshot::default()
        };
        let why = |worker: WorkerSnapshot| why(&worker, None).map(|why| why.to_string());
        assert_eq!(why(well.clone()), None);
        let full = WorkerSnapshot { in_flight: 4, ..well.clone() };
        assert_eq!(why(full.clone()).as_deref(), Some("full: 4 of 4 in flight"));
        let used_up = ProviderLevel { closed_for: Duration::from_millis(6100), ..ProviderLevel::default() };
        let closed = WorkerSnapshot { provider: Some(used_up), ..well.clone() };
        assert_eq!(why(closed).as_deref(), Some("its provider's limit is used up for 7 s"));
        let away = WorkerSnapshot { trouble: Some(WorkerTrouble::Unreachable), ..full };
        assert_eq!(why(away.clone()).as_deref(), Some(WorkerTrouble::Unreachable.as_str()));
        assert!(why(WorkerSnapshot { leaving: true, ..away }).unwrap().starts_with("it is leaving"));
        assert!(why(WorkerSnapshot { eligible: false, ..well }).unwrap().contains("no heartbeats"));
    }
}
