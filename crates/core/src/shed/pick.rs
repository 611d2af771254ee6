//! The policy that chooses a worker, and the data that the gate passes to it.
//!
//! The gate knows which workers have room. The fleet decides which of them gets the request. The
//! module `fleet` depends on this one, so it passes its policy in as functions.

use fastrand::Rng;

/// A worker that takes work now, as the policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// A hash of the worker's id, the same in every gateway and after every restart.
    pub key: u64,
    /// Sequences in flight.
    pub in_flight: u32,
    /// Sequences that may be in flight.
    pub limit: u32,
    /// K: prompt and output tokens of all requests in flight.
    pub tokens: u64,
    /// `true` if it has room for the request.
    pub fits: bool,
}

/// Totals over all workers that take work now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandidateSums {
    /// Sequences in flight.
    pub in_flight: u64,
    /// Sequences that may be in flight.
    pub limit: u64,
}

/// The policy that chooses a worker.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    /// Chooses for a request without a session. Returns the index of a candidate that fits; `None`
    /// if none does. `candidates` are all eligible workers, or only two that fit, drawn at random.
    pub any: fn(candidates: &[Candidate], random: &mut Rng) -> Option<usize>,
    /// Returns a worker's rank for a session. The highest with room gets the session's requests.
    pub rank: fn(session: u64, key: u64) -> u64,
    /// Returns `true` if a worker's load is low enough that its sessions stay on it.
    pub below_session_share: fn(worker: &Candidate, whole: &CandidateSums) -> bool,
}
