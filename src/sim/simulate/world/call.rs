//! One request of one client, from its arrival at the dam to its end.

use std::time::Duration;

use crate::clock::Nanos;
use crate::refusal::Reason;
use crate::shed::{Failure, SeatId, WaiterId};
use crate::sim::simulate::offered::OfferedRequest;

/// In nanoseconds.
pub(in crate::sim::simulate) const SECOND: u64 = 1_000_000_000;

/// How a request ended; each has exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim::simulate) enum CallFate {
    /// It was answered in full.
    Answered,
    /// It was refused.
    Refused(Reason),
    /// It was let in, and a worker failed it.
    Failed(Reason),
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim::simulate) enum Stage {
    /// Has not asked yet.
    New,
    /// In the queue of its dam.
    Waiting(WaiterId),
    /// At a worker; without a seat when there is no dam.
    Running(Option<SeatId>),
    /// At its end.
    Over(CallFate),
}

#[derive(Clone, Debug)]
pub(in crate::sim::simulate) struct Call {
    pub(in crate::sim::simulate) wish: OfferedRequest,
    /// It is one that an event added.
    pub(in crate::sim::simulate) extra: bool,
    /// How often its client had asked before.
    pub(in crate::sim::simulate) before: u32,
    /// It came back when it had been told to.
    pub(in crate::sim::simulate) as_told: bool,
    /// How long it was told to wait when it was refused.
    pub(in crate::sim::simulate) told: Option<Duration>,
    pub(in crate::sim::simulate) dam: usize,
    pub(in crate::sim::simulate) machine: usize,
    pub(in crate::sim::simulate) stage: Stage,
    pub(in crate::sim::simulate) arrived: Nanos,
    /// When it was let in.
    pub(in crate::sim::simulate) granted: Option<Nanos>,
    pub(in crate::sim::simulate) first: Option<Nanos>,
    pub(in crate::sim::simulate) ended: Nanos,
    /// Tokens that have come, of all its answers.
    pub(in crate::sim::simulate) seen: u64,
    /// Those that came in each second, from that of the first one on.
    pub(in crate::sim::simulate) by_second: Vec<u32>,
    /// Answers that are not complete.
    pub(super) unfinished: u32,
    /// How often it was sent to a worker.
    pub(super) sent: u32,
    /// It was sent once more after a worker had failed it.
    pub(super) retried: bool,
    /// The worker that failed it, and how, until it is known whose fault that was.
    pub(super) failed_at: Option<(usize, Failure)>,
    /// When its tokens are next told to the gate.
    pub(super) report_at: Nanos,
    pub(super) latest: Nanos,
}

impl Call {
    pub(super) fn new(wish: OfferedRequest, now: Nanos) -> Self {
        Self {
            wish,
            extra: false,
            before: 0,
            as_told: false,
            told: None,
            dam: 0,
            machine: 0,
            stage: Stage::New,
            arrived: now,
            granted: None,
            first: None,
            ended: Nanos::ZERO,
            seen: 0,
            by_second: Vec::new(),
            unfinished: 0,
            sent: 0,
            retried: false,
            failed_at: None,
            report_at: Nanos::ZERO,
            latest: Nanos::ZERO,
        }
    }

    /// One more token came.
    pub(super) fn token(&mut self, now: Nanos) {
        self.seen += 1;
        self.latest = now;
        let first = *self.first.get_or_insert(now);
        let second = (now.0 / SECOND - first.0 / SECOND) as usize;
        if self.by_second.len() <= second {
            self.by_second.resize(second + 1, 0);
        }
        self.by_second[second] += 1;
    }

    pub(super) fn seat(&self) -> Option<SeatId> {
        if let Stage::Running(seat) = self.stage { seat } else { None }
    }

    /// Whether it is at a worker.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running(_))
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over(_))
    }

    /// Whether something of the answer has reached the client.
    pub(super) fn is_committed(&self) -> bool {
        self.wish.stream && self.first.is_some()
    }
}
