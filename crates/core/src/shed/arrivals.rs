//! What arrives from a worker, and what that says about it: answers, tokens, stalls and silence.
//!
//! A gap in everything from a worker is a stall, for which its limit algorithm must not blame the
//! load (`stall`). A longer one is silence, for which the gate sets the worker aside (`gate::silence`).

use crate::clock::Nanos;

use super::algorithm::WorkerSample;
use super::permit_record::PermitRecord;
use super::unanswered::UnansweredRequests;
use super::worker::GateWorker;

impl GateWorker {
    /// Records that the worker answered a request.
    pub(super) fn on_answer(&mut self, now: Nanos) {
        self.look_for_stall(now);
        self.unanswered = UnansweredRequests::default();
        self.health.answered(now);
        self.flow.arrived(now);
        self.flow.hang_no_more();
    }

    /// Records tokens of a request: of a `stream` they arrive one by one, of others all at once.
    pub(super) fn on_tokens(&mut self, stream: bool, now: Nanos) {
        self.look_for_stall(now);
        self.unanswered = UnansweredRequests::default();
        if stream {
            self.flow.tokens_arrived(now);
        } else {
            self.flow.arrived(now);
        }
        if self.health.silent_since().is_some() {
            self.health.flowed(now);
            self.flow.hang_no_more();
        }
    }

    /// Corrects the expected output of a request by the `seen` output tokens, and counts the new ones.
    pub(super) fn count_output(&mut self, permit: &mut PermitRecord, seen: u64) {
        let (new, beyond) = permit.see(seen);
        // The tokens of a whole answer arrive at once, which does not show when they were decoded.
        if permit.stream {
            self.streamed += new;
        }
        self.ledger.grow(beyond);
    }

    /// Checks on an arrival if the gap before was a stall.
    fn look_for_stall(&mut self, now: Nanos) {
        if self.ledger.in_flight() > 0
            && let Some(since) = self.flow.stalled_since(self.first_tokens.read_by(), now)
        {
            self.stalled(since, now);
        }
        self.stalls.advance(self.first_tokens.oldest(), now);
    }

    /// Records a stall from `from` to `to`, which says nothing about the worker's capacity.
    pub(super) fn stalled(&mut self, from: Nanos, to: Nanos) {
        if self.stalls.add(from, to) {
            self.suspicion = None;
            self.law.observe(WorkerSample::Stalled { from, to }, to);
        }
    }

    /// Returns `true` if it has sent nothing for so long that it counts as silent.
    pub(super) fn is_silent(&self, now: Nanos) -> bool {
        self.flow.is_silent(now) && !self.first_tokens.may_be_reading(now)
    }

    /// Returns `true` if a first token is overdue for so long that it shows a silence.
    pub(super) fn owes_first_token(&self, now: Nanos) -> bool {
        self.prefill.is_known() && self.first_tokens.are_overdue_for(self.flow.silence_limit(), now)
    }
}
