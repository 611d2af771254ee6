//! Metrics of Redis.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::label::Family;
use super::{Maker, buckets, fixed};

/// Kind of a Redis command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RedisOp {
    /// Evaluates all rules of a caller.
    Rules,
    /// Leases a part of a wider rule's quota.
    Lease,
    /// Settles the actual use of a request.
    Settle,
    /// Probes Redis and lists the live gateways.
    Probe,
    /// Reads or writes stored callers and changed rules.
    Callers,
    /// Reads or writes which worker made a response.
    Responses,
    /// Reads or writes what gateways charged to callers.
    Exchange,
    /// Puts a job into the queue of the workers.
    Enqueue,
    /// All other commands for jobs.
    Jobs,
}

impl RedisOp {
    /// All kinds, for tables.
    pub(crate) const ALL: [Self; 9] = [
        Self::Rules,
        Self::Lease,
        Self::Settle,
        Self::Probe,
        Self::Callers,
        Self::Responses,
        Self::Exchange,
        Self::Enqueue,
        Self::Jobs,
    ];

    /// Returns the value of the metric label `op`.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Lease => "lease",
            Self::Settle => "settle",
            Self::Probe => "probe",
            Self::Callers => "callers",
            Self::Responses => "responses",
            Self::Exchange => "exchange",
            Self::Enqueue => "enqueue",
            Self::Jobs => "jobs",
        }
    }
}

/// Metrics of Redis.
#[derive(Debug)]
pub struct RedisSeries {
    fallbacks: IntCounter,
    commands: [Histogram; RedisOp::ALL.len()],
    jobs_total: IntCounterVec,
    jobs: Family<[IntCounter; JobEnd::ALL.len()]>,
    side_changes: IntCounterVec,
    sides: Family<IntCounter>,
    canary_ends: IntCounterVec,
    session_turns: [IntCounter; MOVED.len()],
    idempotency_keys: [IntCounter; KeyUse::ALL.len()],
}

/// What became of a request with an `Idempotency-Key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyUse {
    /// The first one with this key, or the first since another came to nothing.
    First,
    /// A repeat that got the stored answer, or the same job.
    Repeated,
    /// A repeat while the first one runs.
    Running,
    /// A repeat with another body.
    Reused,
    /// A repeat whose answer is no longer stored.
    Expired,
    /// Redis did not answer. Over HTTP it was served all the same.
    Unchecked,
    /// Its answer over HTTP was too long to be stored, or there was no room.
    NotStored,
}

impl KeyUse {
    /// All uses, for tables.
    pub(crate) const ALL: [Self; 7] = [
        Self::First,
        Self::Repeated,
        Self::Running,
        Self::Reused,
        Self::Expired,
        Self::Unchecked,
        Self::NotStored,
    ];

    /// Returns the value of the metric label `use`.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Repeated => "repeated",
            Self::Running => "running",
            Self::Reused => "reused",
            Self::Expired => "expired",
            Self::Unchecked => "unchecked",
            Self::NotStored => "not_stored",
        }
    }
}

/// Values of the label `moved`.
pub(super) const MOVED: [&str; 2] = ["no", "yes"];

/// How a job ended whose answer this gateway read or produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobEnd {
    /// With a complete answer.
    Answered,
    /// With an error.
    Failed,
    /// Its caller no longer wanted the answer.
    Cancelled,
    /// It exceeded its time limit.
    Expired,
}

impl JobEnd {
    const ALL: [Self; 4] = [Self::Answered, Self::Failed, Self::Cancelled, Self::Expired];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

impl RedisSeries {
    pub(super) fn new(make: &Maker<'_>) -> Self {
        let commands = make.histograms(
            "redis_command_seconds",
            "Time from sending a command to Redis to its answer or timeout.",
            &["op"],
            buckets::OWN,
        );
        let turns = make.counters(
            "session_turns_total",
            "Answered turns of sessions after the first, in a queue; moved: answered by another worker than the turn before.",
            &["moved"],
        );
        let keys = make.counters(
            "idempotency_keys_total",
            "Requests with an Idempotency-Key, by what they found; not_stored counts answers over HTTP that repeats cannot get.",
            &["use"],
        );
        Self {
            session_turns: MOVED.map(|moved| fixed(turns.get_metric_with_label_values(&[moved]))),
            idempotency_keys: KeyUse::ALL.map(|with| fixed(keys.get_metric_with_label_values(&[with.as_str()]))),
            fallbacks: make
                .counter("redis_fallback_total", "Requests whose rules were evaluated without Redis."),
            jobs_total: make.counters(
                "jobs_total",
                "Jobs whose answers this gateway read or made itself, by outcome.",
                &["pool", "outcome"],
            ),
            jobs: Family::default(),
            side_changes: make.counters(
                "queue_side_changes_total",
                "Changes of a pool's active colour or version that this gateway made by itself, because the workers of the one before were gone.",
                &["pool"],
            ),
            sides: Family::default(),
            canary_ends: make.counters(
                "canary_ends_total",
                "Canaries of a pool that this gateway ended, by outcome: promoted, reverted, or no_data for too few requests.",
                &["pool", "outcome"],
            ),
            commands: RedisOp::ALL.map(|op| fixed(commands.get_metric_with_label_values(&[op.as_str()]))),
        }
    }

    /// Counts a request decided without Redis.
    pub fn fallback(&self) {
        self.fallbacks.inc();
    }

    /// Counts a finished job of `pool`.
    pub(crate) fn job(&self, pool: &str, end: JobEnd) {
        let make = |pool: &str| {
            JobEnd::ALL.map(|end| fixed(self.jobs_total.get_metric_with_label_values(&[pool, end.as_str()])))
        };
        if let Some(counter) = self.jobs.get(pool, make).get(end as usize) {
            counter.inc();
        }
    }

    /// Counts a request with an `Idempotency-Key`.
    pub(crate) fn idempotency_key(&self, with: KeyUse) {
        if let Some(counter) = self.idempotency_keys.get(with as usize) {
            counter.inc();
        }
    }

    /// Counts a turn of a session after the first one.
    pub(crate) fn session_turn(&self, moved: bool) {
        if let Some(counter) = self.session_turns.get(usize::from(moved)) {
            counter.inc();
        }
    }

    /// Counts a change of the active side of `pool` that this gateway made.
    pub(crate) fn side_change(&self, pool: &str) {
        let make = |pool: &str| fixed(self.side_changes.get_metric_with_label_values(&[pool]));
        self.sides.get(pool, make).inc();
    }

    /// Counts a canary of `pool` that this gateway ended; at most one a few seconds.
    pub(crate) fn canary_end(&self, pool: &str, outcome: &str) {
        fixed(self.canary_ends.get_metric_with_label_values(&[pool, outcome])).inc();
    }

    /// Records the duration of a command.
    pub(crate) fn command(&self, op: RedisOp, took: Duration) {
        if let Some(histogram) = self.commands.get(op as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }
}
