//! What a gate tells the choice of a worker, and the form of that choice.
//!
//! The gate knows who has room; who should get the request is a matter of the fleet, which stands above this module
//! and hands its choice down as a function.

use fastrand::Rng;

/// One worker that takes work at present, as the choice sees it.
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

/// Chooses among `candidates`: the index of one that fits, or `None` when none does.
pub type Pick = fn(candidates: &[Candidate], session: Option<u64>, random: &mut Rng) -> Option<usize>;
