//! Requests whose clients left before the worker sent anything: evidence that it hangs.
//!
//! What clients wait for is often shorter than any time limit here. If a request that has left were
//! forgotten, a worker that hangs would look idle whenever its callers give up, and draw the next.
//! But one that leaves says little: its prompt may be special, the client may be the slow one, and
//! a moment in which the worker paused spoils all requests of that moment. So a worker is
//! convicted only after several, of which one was sent after another had left.

use crate::clock::Nanos;

/// Requests left unanswered that convict a worker.
const ENOUGH: u32 = 3;

/// Requests that left a worker unanswered since its last sign of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UnansweredRequests {
    count: u32,
    /// When the first of them left.
    first_left: Option<Nanos>,
    /// One was sent after another had left: the worker said nothing in two separate waits.
    apart: bool,
    /// It is convicted: it is tried with one request at a time.
    convicted: bool,
}

impl UnansweredRequests {
    /// Records that a request sent at `sent` leaves at `now`, after it waited for longer than its
    /// prompt explains. Returns `true` if the worker surely hangs.
    pub(super) fn left(&mut self, sent: Nanos, now: Nanos) -> bool {
        self.count = self.count.saturating_add(1);
        self.apart |= self.first_left.is_some_and(|left| left <= sent);
        self.first_left.get_or_insert(now);
        self.count >= ENOUGH && self.apart
    }

    /// Records that the worker is treated as one that hangs, until its next sign of life.
    pub(super) const fn convict(&mut self) {
        self.convicted = true;
    }

    pub(super) const fn has_convicted(&self) -> bool {
        self.convicted
    }

    /// Returns `limit`, or room for one trial: its client may wait in vain.
    pub(super) fn bound(&self, limit: u32) -> u32 {
        if self.convicted { limit.min(1) } else { limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Nanos {
        Nanos::from_millis(millis)
    }

    #[test]
    fn one_bad_moment_convicts_nobody_and_neither_do_two_requests() {
        let mut unanswered = UnansweredRequests::default();
        assert!((0..50).all(|i| !unanswered.left(at(i), at(2000 + i))));
        assert!(unanswered.left(at(2000), at(4000)), "the second wait in vain");

        let mut unanswered = UnansweredRequests::default();
        let left: Vec<_> = (0..3).map(|i| unanswered.left(at(i * 5000), at(i * 5000 + 2000))).collect();
        assert_eq!(left, [false, false, true]);
        assert_eq!(unanswered.bound(8), 8);
        unanswered.convict();
        assert_eq!(unanswered.bound(8), 1);
    }
}
