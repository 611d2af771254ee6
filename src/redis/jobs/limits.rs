//! Limits for jobs: the operator's, and that of sessions.

use std::time::Duration;

/// How long a session is remembered after its last turn.
pub(super) const SESSION_REMEMBERED: Duration = Duration::from_secs(3600);

/// Limits for jobs. Each job keeps those under which it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobLimits {
    /// Runs of a job before it becomes a dead letter.
    pub(crate) attempts: u32,
    /// Waiting jobs per pool. All gateways read them once a second.
    pub(crate) waiting: usize,
    /// Waiting jobs per caller and pool.
    pub(crate) per_caller: usize,
    /// Time limit of an asynchronous job, from its acceptance to its last reply entry.
    pub(crate) ttl: Duration,
    /// How long an asynchronous, repeatable or dead job is remembered after its end.
    pub(crate) keep: Duration,
    /// How long a reply is kept after its end.
    pub(crate) answers: Duration,
    /// `true` if `x-traffic-dam-not-before` delays a job; `false` if the header is ignored.
    pub(crate) not_before: bool,
    /// Bytes of answers over HTTP that all gateways store within `keep` for repeats of their requests,
    /// each its share; 0 leaves `Idempotency-Key` to the workers. With queue workers it does not apply.
    pub(crate) idempotency: u64,
}

impl Default for JobLimits {
    fn default() -> Self {
        Self {
            // A retry after bad luck, and one more.
            attempts: 3,
            waiting: 4096,
            per_caller: 256,
            ttl: Duration::from_secs(3600),
            keep: Duration::from_secs(24 * 3600),
            answers: Duration::from_secs(600),
            not_before: true,
            // A quarter of a small Redis, for 64 answers of the longest kind and many thousands of usual ones.
            idempotency: 64 << 20,
        }
    }
}
