//! What a gate tells the choice of a worker, and the form of that choice.
//!
//! The gate knows who has room; who should get the request is a matter of the fleet, which stands above this module
//! and hands its choice down as functions.

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

/// All workers that take work at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Sequences in flight.
    pub in_flight: u64,
    /// Sequences that may be in flight.
    pub limit: u64,
}

/// How a worker is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    /// Chooses among candidates, for a request of no session: the index of one that fits, or `None` when none does. It
    /// may be shown two that fit, drawn at random, instead of all.
    pub any: fn(candidates: &[Candidate], random: &mut Rng) -> Option<usize>,
    /// How high the worker of this key ranks for a session; the highest with room gets its requests.
    pub rank: fn(session: u64, key: u64) -> u64,
    /// Whether a worker carries so little of the whole that sessions need not pass it over.
    pub bounded: fn(worker: &Candidate, whole: &Whole) -> bool,
}
