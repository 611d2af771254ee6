//! What became of every request: each is counted once when it comes and once when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its client went away.
    Cancelled,
    /// It was answered in full.
    Finished,
    /// A fault cut its connection.
    Cut,
    /// It was answered with an error.
    Refused,
}

/// Counters by outcome, as `GET /debug/requests` shows them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    received: AtomicU64,
    /// By `Outcome as usize`.
    ended: [AtomicU64; 4],
}

impl Tally {
    /// Counts a request that came in.
    pub(super) fn open(self: &Arc<Self>) -> Ticket {
        self.received.fetch_add(1, Ordering::AcqRel);
        Ticket { tally: Arc::clone(self), outcome: Outcome::Cancelled }
    }

    pub(super) fn json(&self) -> String {
        let of = |outcome: Outcome| self.ended[outcome as usize].load(Ordering::Acquire);
        let finished = of(Outcome::Finished);
        let (cancelled, cut, refused) = (of(Outcome::Cancelled), of(Outcome::Cut), of(Outcome::Refused));
        // Read last, so that what ends meanwhile still counts as in flight instead of making the sum too great.
        let received = self.received.load(Ordering::Acquire);
        let in_flight = received.saturating_sub(finished + cancelled + cut + refused);
        format!(
            "{{\"received\":{received},\"finished\":{finished},\"cancelled\":{cancelled},\"cut\":{cut},\
             \"refused\":{refused},\"in_flight\":{in_flight}}}"
        )
    }
}

/// One request in flight. Dropped without another word, its client went away.
#[derive(Debug)]
pub(super) struct Ticket {
    tally: Arc<Tally>,
    outcome: Outcome,
}

impl Ticket {
    /// Says how it will have ended when the ticket is dropped.
    pub(super) fn set(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tally.ended[self.outcome as usize].fetch_add(1, Ordering::AcqRel);
    }
}
