//! What a worker is given, and what it is told.

use std::time::Duration;

use bytes::Bytes;

/// A place in the stream that leads to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The entry's id.
    pub id: String,
    /// The job's.
    pub job: String,
    /// How often it was given out, this time included: who was given it before must not end what began since.
    pub given: u64,
}

/// What came of taking a job.
#[derive(Debug)]
pub enum Taken {
    /// It is this worker's to run.
    Run(Run),
    /// There is nothing to run any more.
    Gone,
    /// Its runs are used up, for this reason.
    Dead(String),
    /// It is another's by now.
    Leave,
}

/// A run of a job, as it was begun.
#[derive(Debug)]
pub struct Run {
    /// Which run of the job this is.
    pub epoch: u64,
    /// The time until its deadline.
    pub left: Duration,
    /// What was asked.
    pub path: String,
    /// A JSON object of strings.
    pub headers: String,
    /// The request's body.
    pub body: Bytes,
    /// Whether this worker has no key, or the job is signed with it.
    pub genuine: bool,
    /// Whether the answer is to be signed.
    pub sealed: bool,
}

/// What Redis says to a part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It was added.
    Ok,
    /// Somebody else runs the job.
    Fenced,
    /// Nobody wants the rest.
    Cancelled,
}
