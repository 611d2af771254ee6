//! One client's request, from its arrival at the gateway to its end.

use std::time::Duration;

use crate::simulate::offered::OfferedRequest;
use traffic_dam_core::clock::Nanos;
use traffic_dam_core::refusal::Reason;
use traffic_dam_core::shed::{PermitId, WaiterId, WorkerFailure};

/// In nanoseconds.
pub(in crate::simulate) const SECOND: u64 = 1_000_000_000;

/// How a request ended; each request has exactly one fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::simulate) enum CallFate {
    Answered,
    Refused(Reason),
    /// Admitted, then failed by a worker.
    Failed(Reason),
}

/// The stage of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::simulate) enum Stage {
    /// Has not asked its gateway yet.
    New,
    Waiting(WaiterId),
    /// At a worker; `None` if no gate limits requests.
    Running(Option<PermitId>),
    Over(CallFate),
}

#[derive(Clone, Debug)]
pub(in crate::simulate) struct Call {
    pub(in crate::simulate) wish: OfferedRequest,
    /// `true` if an event of the scenario added this request.
    pub(in crate::simulate) extra: bool,
    /// Number of times its client had asked before.
    pub(in crate::simulate) before: u32,
    /// `true` if its client came back after the `Retry-After` time.
    pub(in crate::simulate) at_retry_after: bool,
    /// `Retry-After` time of its refusal.
    pub(in crate::simulate) retry_after: Option<Duration>,
    pub(in crate::simulate) gateway: usize,
    pub(in crate::simulate) machine: usize,
    pub(in crate::simulate) stage: Stage,
    pub(in crate::simulate) arrived: Nanos,
    pub(in crate::simulate) granted: Option<Nanos>,
    pub(in crate::simulate) first: Option<Nanos>,
    pub(in crate::simulate) ended: Nanos,
    /// Tokens received so far, of all its answers.
    pub(in crate::simulate) seen: u64,
    /// Tokens received in each second, beginning with the second of the first token.
    pub(in crate::simulate) by_second: Vec<u32>,
    /// Tokens of its prompt that its worker had cached.
    pub(in crate::simulate) cached: Option<u64>,
    /// Number of answers that are not complete.
    pub(super) unfinished: u32,
    /// Number of times it was sent to a worker.
    pub(super) sent: u32,
    /// `true` if it was sent again after a worker had failed it.
    pub(super) retried: bool,
    /// The worker that failed it and how, until it is known if the worker was at fault.
    pub(super) failed_at: Option<(usize, WorkerFailure)>,
    /// Time of the next token report to the gate.
    pub(super) report_at: Nanos,
    pub(super) latest: Nanos,
}

impl Call {
    pub(super) fn new(wish: OfferedRequest, now: Nanos) -> Self {
        Self {
            wish,
            extra: false,
            before: 0,
            at_retry_after: false,
            retry_after: None,
            gateway: 0,
            machine: 0,
            stage: Stage::New,
            arrived: now,
            granted: None,
            first: None,
            ended: Nanos::ZERO,
            seen: 0,
            by_second: Vec::new(),
            cached: None,
            unfinished: 0,
            sent: 0,
            retried: false,
            failed_at: None,
            report_at: Nanos::ZERO,
            latest: Nanos::ZERO,
        }
    }

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

    pub(super) fn permit(&self) -> Option<PermitId> {
        if let Stage::Running(permit) = self.stage { permit } else { None }
    }

    /// Returns `true` if it is at a worker.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running(_))
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over(_))
    }

    /// Returns `true` if part of the answer has reached the client.
    pub(super) fn is_committed(&self) -> bool {
        self.wish.stream && self.first.is_some()
    }
}
