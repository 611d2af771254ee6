//! Jobs as a worker gets them, and the answers of Redis.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// An entry of the job stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEntry {
    /// The entry's id in the stream of `side`.
    pub id: String,
    /// The side whose stream it is in: the worker's colour, or its version of the colour.
    pub side: Arc<str>,
    /// Id of the job.
    pub job: String,
    /// Delivery count, this delivery included. It tells an outdated delivery from the current one,
    /// so that a suspended worker does not end a run started since.
    pub given: u64,
}

/// Result of taking a job.
#[derive(Debug)]
pub enum TakenJob {
    /// A run for this worker.
    Run(JobRun),
    /// The job has ended.
    Gone,
    /// No attempts are left: the job becomes a dead letter.
    Dead(DeadEnd),
    /// What the job holds cannot be read, for this reason.
    IllFormed(String),
    /// Another worker holds the job by now.
    Leave,
    /// The job belongs to this side, not to the one whose stream its entry is in.
    Other(String),
}

/// End of a job as a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadEnd {
    /// The error of its last run.
    pub error: String,
    /// How long dead letters are kept, in ms; `None` if the gateway does not say it.
    pub keep_ms: Option<u64>,
}

/// A started run of a job.
#[derive(Debug)]
pub struct JobRun {
    /// Number of the run.
    pub epoch: u64,
    /// Time until the deadline of the job.
    pub left: Duration,
    /// The request path.
    pub path: String,
    /// Request headers, as a JSON object of strings.
    pub headers: String,
    /// The request body.
    pub body: Bytes,
    /// Why this worker may not run the job, if so: its signature is wrong, or that of its answer
    /// would be.
    pub refused: Option<String>,
    /// `true` if the reply must be signed.
    pub sealed: bool,
    /// How long its entry waited in the stream, in milliseconds.
    pub waited_ms: u64,
}

/// Answer of Redis to an `emit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitReply {
    /// The parts were added.
    Ok,
    /// Another worker runs the job.
    Fenced,
    /// The rest of the reply is not wanted.
    Cancelled,
}
