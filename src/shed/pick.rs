//! The policy that chooses a worker, and what the gate tells it.
//!
//! The gate knows which workers have room. The fleet decides which of them gets the request: it is
//! above this module and passes its policy down as functions.

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
    /// Tokens of all requests in flight (K).
    pub tokens: u64,
    /// Whether it has room for the request.
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
    /// if none does. It may get two random ones that fit instead of all.
    pub any: fn(candidates: &[Candidate], random: &mut Rng) -> Option<usize>,
    /// Ranks a worker by its key for a session; the highest with room gets the session's requests.
    pub rank: fn(session: u64, key: u64) -> u64,
    /// Returns `true` if a worker's share of the load is so small that sessions need not skip it.
    pub below_session_share: fn(worker: &Candidate, whole: &CandidateSums) -> bool,
}
