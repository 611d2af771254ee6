//! What there is to see, for the documentation: `docs/metrics.md` is made from it, and so cannot fall behind.

use crate::refusal::Reason;
use crate::request::{Class, Ending, Promise};

/// What a metric is, as Prometheus knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// A state.
    Gauge,
    /// Observations, counted by size.
    Histogram,
}

impl MetricKind {
    /// The type as Prometheus writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Its name, without the prefix.
    pub name: String,
    /// What it is.
    pub kind: MetricKind,
    /// Its labels.
    pub labels: Vec<String>,
    /// What it says.
    pub help: String,
    /// The upper bounds of a histogram's buckets; what is beyond the last is counted under `+Inf`.
    pub buckets: Vec<f64>,
}

/// The values of a label that has a closed set of them; the others take names from the settings or of workers.
#[must_use]
pub fn label_values(label: &str) -> Option<Vec<&'static str>> {
    Some(match label {
        "class" => Class::ALL.map(Class::as_str).to_vec(),
        "outcome" => Ending::ALL.map(Ending::as_str).to_vec(),
        "reason" => Reason::ALL.into_iter().map(Reason::as_str).chain([super::series::NO_REASON]).collect(),
        "promise" => Promise::ALL.map(Promise::as_str).to_vec(),
        "decision" => super::series::DECISIONS.to_vec(),
        "op" => super::RedisOp::ALL.map(super::RedisOp::as_str).to_vec(),
        "direction" => super::DIRECTIONS.to_vec(),
        "kind" => super::reading::FACTOR_KINDS.to_vec(),
        _ => return None,
    })
}
