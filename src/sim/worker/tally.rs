//! Counts each request once at its start and once at its end, by outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndedAs {
    Cancelled,
    Finished,
    /// A fault closed the connection.
    Cut,
    Refused,
}

/// Counters shown by `GET /debug/requests`.
#[derive(Debug, Default)]
pub(super) struct OutcomeTally {
    received: AtomicU64,
    /// By `EndedAs as usize`.
    ended: [AtomicU64; 4],
}

impl OutcomeTally {
    /// Counts a new request.
    pub(super) fn open(self: &Arc<Self>) -> InFlightTicket {
        self.received.fetch_add(1, Ordering::AcqRel);
        InFlightTicket { tally: Arc::clone(self), outcome: EndedAs::Cancelled }
    }

    pub(super) fn json(&self) -> String {
        let of = |outcome: EndedAs| self.ended[outcome as usize].load(Ordering::Acquire);
        let finished = of(EndedAs::Finished);
        let (cancelled, cut, refused) = (of(EndedAs::Cancelled), of(EndedAs::Cut), of(EndedAs::Refused));
        // Read last: a request that ends meanwhile counts as in flight; the sum is never too great.
        let received = self.received.load(Ordering::Acquire);
        let in_flight = received.saturating_sub(finished + cancelled + cut + refused);
        format!(
            "{{\"received\":{received},\"finished\":{finished},\"cancelled\":{cancelled},\"cut\":{cut},\
             \"refused\":{refused},\"in_flight\":{in_flight}}}"
        )
    }
}

/// One request in flight. Counts a disconnect if dropped without a call of `set`.
#[derive(Debug)]
pub(super) struct InFlightTicket {
    tally: Arc<OutcomeTally>,
    outcome: EndedAs,
}

impl InFlightTicket {
    /// Sets the outcome that is counted when the ticket is dropped.
    pub(super) fn set(&mut self, outcome: EndedAs) {
        self.outcome = outcome;
    }
}

impl Drop for InFlightTicket {
    fn drop(&mut self) {
        self.tally.ended[self.outcome as usize].fetch_add(1, Ordering::AcqRel);
    }
}
