//! What became of every request: each is counted once when it comes and once when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndedAs {
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
pub(super) struct OutcomeTally {
    received: AtomicU64,
    /// By `EndedAs as usize`.
    ended: [AtomicU64; 4],
}

impl OutcomeTally {
    /// Counts a request that came in.
    pub(super) fn open(self: &Arc<Self>) -> InFlightTicket {
        self.received.fetch_add(1, Ordering::AcqRel);
        InFlightTicket { tally: Arc::clone(self), outcome: EndedAs::Cancelled }
    }

    pub(super) fn json(&self) -> String {
        let of = |outcome: EndedAs| self.ended[outcome as usize].load(Ordering::Acquire);
        let finished = of(EndedAs::Finished);
        let (cancelled, cut, refused) = (of(EndedAs::Cancelled), of(EndedAs::Cut), of(EndedAs::Refused));
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
pub(super) struct InFlightTicket {
    tally: Arc<OutcomeTally>,
    outcome: EndedAs,
}

impl InFlightTicket {
    /// Says how it will have ended when the ticket is dropped.
    pub(super) fn set(&mut self, outcome: EndedAs) {
        self.outcome = outcome;
    }
}

impl Drop for InFlightTicket {
    fn drop(&mut self) {
        self.tally.ended[self.outcome as usize].fetch_add(1, Ordering::AcqRel);
    }
}
