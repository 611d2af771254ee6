//! The series of Redis.

use std::time::Duration;

use prometheus::{Histogram, IntCounter};

use super::{Maker, buckets, fixed};

/// What Redis is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisOp {
    /// All of a caller's rules.
    Rules,
    /// A part of a wider rule's quota.
    Lease,
    /// What a request really used.
    Settle,
    /// The probe, and which gateways live.
    Probe,
    /// Callers that are kept there.
    Callers,
    /// Putting a job where workers find it.
    Enqueue,
    /// Whatever else is done about jobs.
    Jobs,
}

impl RedisOp {
    /// Every one, for tables.
    pub const ALL: [Self; 7] =
        [Self::Rules, Self::Lease, Self::Settle, Self::Probe, Self::Callers, Self::Enqueue, Self::Jobs];

    /// The value of the metric label `op`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Lease => "lease",
            Self::Settle => "settle",
            Self::Probe => "probe",
            Self::Callers => "callers",
            Self::Enqueue => "enqueue",
            Self::Jobs => "jobs",
        }
    }
}

/// The series of Redis.
#[derive(Debug)]
pub struct Redis {
    fallbacks: IntCounter,
    commands: [Histogram; RedisOp::ALL.len()],
}

impl Redis {
    pub(super) fn new(make: &Maker<'_>) -> Self {
        let commands = make.histograms(
            "redis_command_seconds",
            "From sending a command to Redis to its answer, or to giving up.",
            &["op"],
            buckets::OWN,
        );
        Self {
            fallbacks: make
                .counter("redis_fallback_total", "Requests whose rules were decided without Redis."),
            commands: RedisOp::ALL.map(|op| fixed(commands.get_metric_with_label_values(&[op.as_str()]))),
        }
    }

    /// A request was decided without Redis.
    pub fn fallback(&self) {
        self.fallbacks.inc();
    }

    /// A command took so long.
    pub fn command(&self, op: RedisOp, took: Duration) {
        if let Some(histogram) = self.commands.get(op as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }
}
