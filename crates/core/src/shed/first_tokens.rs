//! The first tokens that a worker owes, and the times from which each is late.
//!
//! A worker reads prompts one after another, so the first token that is due next shows whether it
//! keeps up. A stream that a later one overtook is lost or special: it says nothing about the others.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use crate::clock::Nanos;

use super::algorithm::SLACK;
use super::ledger::RequestLoad;
use super::permit_record::PermitId;
use super::prefill::Prefill;
use super::settings::GateSettings;

/// Share of the TTFT SLO after which a first token is overdue, however late they usually are.
const LATEST: f64 = 0.6;

/// The streams of one worker that wait for their first token.
#[derive(Debug, Default)]
pub(super) struct FirstTokens {
    /// Their deadlines, in the order of dispatch.
    awaited: BTreeMap<(Nanos, PermitId), FirstTokenDeadlines>,
    /// Dispatch time of the latest request that has had its first token.
    answered: Nanos,
}

impl FirstTokens {
    /// Adds a request that was sent at `sent`.
    pub(super) fn wait_for(&mut self, id: PermitId, sent: Nanos, deadlines: FirstTokenDeadlines) {
        self.awaited.insert((sent, id), deadlines);
    }

    /// Removes a request that was sent at `sent`: it has its first token, or has left.
    pub(super) fn forget(&mut self, id: PermitId, sent: Nanos) {
        self.awaited.remove(&(sent, id));
    }

    /// Records the first token of a request sent at `sent`, which overtakes all that were sent before.
    pub(super) fn arrived(&mut self, sent: Nanos) {
        self.answered = self.answered.max(sent);
    }

    /// Lets no request that was sent up to `now` be evidence about later ones.
    pub(super) fn disregard_all(&mut self, now: Nanos) {
        self.answered = now;
    }

    /// Adds `length`, a time for which the worker is not responsible, to all deadlines.
    pub(super) fn extend(&mut self, length: Duration) {
        self.awaited.values_mut().for_each(|deadlines| deadlines.extend(length));
    }

    /// Adds `length` to the deadlines of a request that was sent at `sent`.
    pub(super) fn extend_one(&mut self, id: PermitId, sent: Nanos, length: Duration) {
        if let Some(deadlines) = self.awaited.get_mut(&(sent, id)) {
            deadlines.extend(length);
        }
    }

    /// Counts a request that was sent at `sent` as sent at `begun`; its deadlines stay.
    pub(super) fn count_from(&mut self, id: PermitId, sent: Nanos, begun: Nanos) {
        if let Some(deadlines) = self.awaited.remove(&(sent, id)) {
            self.awaited.insert((begun, id), deadlines);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Returns `true` if the worker has answered none of its requests, nor any sent later, for so
    /// long that a request sent now would miss its SLO too.
    pub(super) fn are_stalled(&self, now: Nanos) -> bool {
        self.next_due().is_some_and(|(_, deadlines)| now >= deadlines.stalled_at)
    }

    /// Returns `true` if this request, sent at `sent`, has waited for longer than the worker needs by
    /// all estimates, and none that was sent later has been answered.
    pub(super) fn is_stalled(&self, id: PermitId, sent: Nanos, now: Nanos) -> bool {
        let stalled = |deadlines: &FirstTokenDeadlines| now >= deadlines.stalled_at;
        sent > self.answered && self.awaited.get(&(sent, id)).is_some_and(stalled)
    }

    /// Returns `true` if the worker has a prompt to read that may well take until now.
    pub(super) fn may_be_reading(&self, now: Nanos) -> bool {
        self.next_due().is_some_and(|(_, deadlines)| now < deadlines.stalled_at)
    }

    /// Returns `true` if one is missing `length` after the latest time by all estimates.
    pub(super) fn are_overdue_for(&self, length: Duration, now: Nanos) -> bool {
        self.next_due().is_some_and(|(_, deadlines)| now >= deadlines.stalled_at + length)
    }

    /// Returns the dispatch time of the request whose first token is overdue, if any.
    pub(super) fn overdue(&self, now: Nanos) -> Option<Nanos> {
        self.next_due().filter(|(_, deadlines)| now >= deadlines.late_at).map(|((sent, _), _)| *sent)
    }

    /// Returns the dispatch time of the oldest request without a first token.
    pub(super) fn oldest(&self) -> Option<Nanos> {
        self.awaited.first_key_value().map(|((sent, _), _)| *sent)
    }

    /// Returns when the next prompt in line should have been read; `None` if there is none.
    pub(super) fn read_by(&self) -> Option<Nanos> {
        self.next_due().map(|(_, deadlines)| deadlines.read_at)
    }

    /// Returns the stream whose first token is due next, except those that a later one overtook.
    fn next_due(&self) -> Option<(&(Nanos, PermitId), &FirstTokenDeadlines)> {
        let overtaken = (self.answered, PermitId(u64::MAX));
        self.awaited.range((Bound::Excluded(overtaken), Bound::Unbounded)).next()
    }
}

/// Times at which a missing first token leads to conclusions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FirstTokenDeadlines {
    /// When the prompt should have been read.
    read_at: Nanos,
    /// Later than prefill explains: the worker has a queue of its own.
    late_at: Nanos,
    /// So late that nothing more should be sent until something arrives.
    stalled_at: Nanos,
}

impl FirstTokenDeadlines {
    /// Returns the deadlines of a request sent at `now` behind `ahead` unread tokens.
    pub(super) fn new(
        prefill: &Prefill,
        ahead: u64,
        load: &RequestLoad,
        settings: &GateSettings,
        now: Nanos,
    ) -> Self {
        let slo = settings.slo(load.prompt);
        match prefill.reading(ahead, load.unread()) {
            None => Self { read_at: Nanos::MAX, late_at: Nanos::MAX, stalled_at: now + slo },
            Some(reading) => {
                let late = (reading + slo.mul_f64(SLACK)).max(prefill.usual(reading));
                let late_at = now + late.min(reading + slo.mul_f64(LATEST));
                let stalled_at = late_at.max(now + reading + slo / 2);
                Self { read_at: now + reading, late_at, stalled_at }
            }
        }
    }

    fn extend(&mut self, length: Duration) {
        self.read_at = self.read_at + length;
        self.late_at = self.late_at + length;
        self.stalled_at = self.stalled_at + length;
    }
}

/// A first token that is overdue while other streams flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspicion {
    /// When it was noticed.
    pub(super) since: Nanos,
    /// Maximum of sequences that have flowed since.
    pub(super) flowing: u32,
}
