//! Descriptions of all metrics. `docs/metrics.md` is generated from them, so it is always current.

use crate::refusal::Reason;
use crate::request::{Class, Ending, SloOutcome};

/// Prometheus type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// A current value.
    Gauge,
    /// Counts of observations by size.
    Histogram,
}

impl MetricKind {
    /// Returns the type as written in the text format.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Description of one metric, for the documentation.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Name without the prefix.
    pub name: String,
    /// Type.
    pub kind: MetricKind,
    /// Label names.
    pub labels: Vec<String>,
    /// Help text.
    pub help: String,
    /// Upper bounds of a histogram's buckets; larger observations count under `+Inf`.
    pub buckets: Vec<f64>,
}

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
        "direction" => super::DIRECTIONS.to_vec(),
        "kind" => super::reading::FACTOR_KINDS.to_vec(),
        _ => return None,
    })
}
