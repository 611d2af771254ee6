//! Descriptions of all metrics. `docs/metrics.md` is generated from them, so it is always current.

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
