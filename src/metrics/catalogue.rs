//! The values of labels with closed sets, for the documentation.

use crate::fleet::discovery::DiscoverySource;
use crate::refusal::Reason;
use crate::request::{Class, Ending, SloOutcome};

/// Returns the values of a label with a closed set, `None` for configured or worker names.
#[must_use]
pub fn label_values(label: &str) -> Option<Vec<&'static str>> {
    Some(match label {
        "class" => Class::ALL.map(Class::as_str).to_vec(),
        "outcome" => Ending::ALL.map(Ending::as_str).to_vec(),
        "reason" => Reason::ALL.into_iter().map(Reason::as_str).chain([super::series::NO_REASON]).collect(),
        "promise" => SloOutcome::ALL.map(SloOutcome::as_str).to_vec(),
        "decision" => super::series::DECISIONS.to_vec(),
        "op" => super::RedisOp::ALL.map(super::RedisOp::as_str).to_vec(),
        "cause" => super::series::REFUSAL_CAUSES.to_vec(),
        "unit" => super::reading::UNITS.to_vec(),
        "direction" => super::DIRECTIONS.to_vec(),
        "kind" => super::reading::FACTOR_KINDS.to_vec(),
        "use" => super::KeyUse::ALL.map(super::KeyUse::as_str).to_vec(),
        "moved" => super::redis::MOVED.to_vec(),
        // Of a prefix cache's hits, and of the fleet.
        "source" => {
            let fleet = DiscoverySource::ALL.map(DiscoverySource::as_str);
            super::reading::HIT_SOURCES.into_iter().chain(fleet).collect()
        }
        _ => return None,
    })
}
