//! Workers set aside for their answers: ejected because they fail, or paused because they are busy.
//!
//! After either, trial requests are sent one at a time until one succeeds. An ejection after a
//! failed trial lasts twice as long as the last one; so does a pause if the worker names no time.

use std::time::Duration;

use crate::clock::Nanos;

use super::permit_record::PermitId;
use super::settings::EjectionSettings;

/// First pause of a busy worker that names no time.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause, whatever the worker asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Longest time without a trial while the workers that take requests fail them.
const LONGEST_NEEDED: Duration = Duration::from_secs(10);

/// Why a worker gets no requests, or should get none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerTrouble {
    /// Connections failed, and none has succeeded since.
    Unreachable,
    /// All its streams fell silent, and nothing has come since.
    Silent,
    /// It fails requests and is ejected, or on trial afterwards.
    Ejected,
    /// It fails and is not ejected: it is alone, too many are ejected, or the mode is not `on`.
    Failing,
    /// It answered that it is busy and is paused, or on trial afterwards.
    Busy,
    /// It does not accept the gateway's credentials.
    Rejects,
}

impl WorkerTrouble {
    /// Returns a description for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "connections to it fail",
            Self::Silent => "it sends no tokens on any stream",
            Self::Ejected => {
                "ejected until a trial request succeeds: it failed requests that other workers can serve"
            }
            Self::Failing => {
                "it fails requests but is not ejected: it is the only worker, too many are ejected, or \
                 `workers.ejection.mode` is not `on`"
            }
            Self::Busy => "paused until a trial request succeeds: it answered 429 or 503",
            Self::Rejects => "it rejects the gateway's credentials: it answered 401 or 403",
        }
    }
}

/// Ejection or pause of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WorkerEjection {
    /// The reason, until a request succeeds that was sent after `since`.
    trouble: Option<WorkerTrouble>,
    /// Start of the trouble; requests sent earlier say nothing about the present.
    since: Nanos,
    /// No request is sent before this time.
    until: Nanos,
    /// Length of the last ejection, and the recovery after it.
    term: Duration,
    recovered_at: Option<Nanos>,
    /// Length of the last pause, and what the worker itself asked for with its last refusal.
    pause: Duration,
    asked: Duration,
    /// The trial request in flight.
    trial: Option<PermitId>,
}

impl WorkerEjection {
    /// Ejects it, for twice as long as before unless it was well for as long in between.
    pub(super) fn eject(&mut self, settings: &EjectionSettings, now: Nanos) {
        let forgotten = self.recovered_at.is_some_and(|at| now.since(at) >= self.term);
        let before = if forgotten { Duration::ZERO } else { self.term };
        let term = (before * 2).clamp(settings.base, settings.max.max(settings.base));
        *self = Self {
            trouble: Some(WorkerTrouble::Ejected),
            since: now,
            until: now + term,
            term,
            recovered_at: None,
            asked: Duration::ZERO,
            ..*self
        };
    }

    /// Marks it as failing without ejecting it.
    pub(super) fn mark_failing(&mut self, now: Nanos) {
        if self.trouble.is_none() {
            (self.trouble, self.since) = (Some(WorkerTrouble::Failing), now);
        }
    }

    /// Pauses a busy worker, for twice as long as the last time. `asks` is the time that it names,
    /// which counts once another worker has served the request ([`Self::lengthen`]).
    pub(super) fn pause(&mut self, asks: Option<Duration>, now: Nanos) {
        if now < self.until {
            return;
        }
        let length = (self.pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        let trouble =
            self.trouble.filter(|trouble| *trouble == WorkerTrouble::Ejected).or(Some(WorkerTrouble::Busy));
        let asked = asks.unwrap_or_default().min(LONGEST_PAUSE);
        *self = Self { trouble, since: now, until: now + length, pause: length, asked, ..*self };
    }

    /// Extends the pause to `asks`, now that another worker has served what this one refused.
    pub(super) fn lengthen(&mut self, asks: Duration) {
        if self.is_aside() {
            let length = asks.clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
            (self.until, self.pause) = (self.until.max(self.since + length), length);
        }
    }

    /// Brings the next trial forward, because no other worker serves well. A time that the worker
    /// itself asked for stays. Returns `true` if that changes anything.
    pub(super) fn shorten(&mut self) -> bool {
        let until = self.since + LONGEST_NEEDED.max(self.asked);
        let sooner = self.is_aside() && until < self.until;
        if sooner {
            self.until = until;
        }
        sooner
    }

    /// Delays the next trial, after one failed that is no certain evidence yet.
    pub(super) fn wait(&mut self, now: Nanos) {
        self.until = self.until.max(now + SHORTEST_PAUSE);
    }

    /// Records the success of a request sent at `sent`. Returns `true` if that ends the trouble.
    pub(super) fn succeeded(&mut self, sent: Nanos, now: Nanos) -> bool {
        let over = self.trouble.is_some() && sent >= self.since;
        if over {
            *self = Self { term: self.term, recovered_at: Some(now), ..Self::default() };
        }
        over
    }

    /// Reopens it, because no other worker is left to serve.
    pub(super) fn reopen(&mut self, now: Nanos) {
        let trouble =
            self.trouble.filter(|trouble| *trouble != WorkerTrouble::Busy).map(|_| WorkerTrouble::Failing);
        *self = Self { trouble, until: self.until.min(now), ..*self };
    }

    pub(super) const fn trouble(&self) -> Option<WorkerTrouble> {
        self.trouble
    }

    /// Returns `true` while its ejection lasts and not even trials are sent.
    pub(super) fn is_ejected(&self, now: Nanos) -> bool {
        self.trouble == Some(WorkerTrouble::Ejected) && now < self.since + self.term
    }

    /// Returns `true` if it serves trials at most.
    pub(super) const fn is_aside(&self) -> bool {
        matches!(self.trouble, Some(WorkerTrouble::Ejected | WorkerTrouble::Busy))
    }

    /// Returns `true` if requests may be sent to it.
    pub(super) fn is_open(&self, now: Nanos) -> bool {
        now >= self.until
    }

    /// Returns when it may be tried again; `None` if it may be tried now.
    pub(super) fn closed_until(&self, now: Nanos) -> Option<Nanos> {
        (!self.is_open(now)).then_some(self.until)
    }

    /// Returns `limit`; if it is ejected or paused, room for one trial beside `in_flight`.
    pub(super) fn limit_with_trial(&self, limit: u32, in_flight: u32) -> u32 {
        if self.is_aside() {
            limit.min(in_flight.saturating_add(u32::from(self.trial.is_none()))).max(1)
        } else {
            limit
        }
    }

    /// Makes this request the trial, if it is ejected or paused and has none.
    pub(super) fn begin_trial(&mut self, id: PermitId) {
        if self.is_aside() {
            self.trial.get_or_insert(id);
        }
    }

    /// Ends the trial, if this request was it.
    pub(super) fn end_trial(&mut self, id: PermitId) {
        self.trial.take_if(|trial| *trial == id);
    }

    /// Returns the same without the trial in flight.
    pub(super) const fn without_trial(self) -> Self {
        Self { trial: None, ..self }
    }

    /// Returns `true` if this request is the trial.
    pub(super) fn is_trial(&self, id: PermitId) -> bool {
        self.trial == Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> EjectionSettings {
        EjectionSettings::default()
    }

    #[test]
    fn ejections_double_up_to_the_longest_and_are_forgotten_after_as_long() {
        let mut aside = WorkerEjection::default();
        let mut now = Nanos::ZERO;
        for seconds in [5, 10, 20, 40, 80, 160, 300, 300] {
            aside.eject(&settings(), now);
            let end = now + Duration::from_secs(seconds);
            assert_eq!((aside.closed_until(now), aside.is_open(end)), (Some(end), true));
            now = end;
        }
        assert!(aside.succeeded(now, now));
        let mut soon = aside;
        soon.eject(&settings(), now + Duration::from_secs(299));
        assert_eq!(soon.term, Duration::from_secs(300));
        aside.eject(&settings(), now + Duration::from_secs(300));
        assert_eq!(aside.term, Duration::from_secs(5));
    }

    #[test]
    fn one_request_at_a_time_tries_it_until_one_succeeds() {
        let mut aside = WorkerEjection::default();
        assert_eq!(aside.limit_with_trial(8, 3), 8);
        aside.eject(&settings(), Nanos::ZERO);
        assert_eq!((aside.limit_with_trial(8, 3), aside.limit_with_trial(2, 3)), (4, 2));
        aside.begin_trial(PermitId(4));
        aside.begin_trial(PermitId(5));
        assert!(aside.is_trial(PermitId(4)) && !aside.is_trial(PermitId(5)));
        assert_eq!((aside.limit_with_trial(8, 4), aside.limit_with_trial(8, 0)), (4, 1));
        aside.end_trial(PermitId(5));
        assert_eq!(aside.limit_with_trial(8, 4), 4);
        aside.end_trial(PermitId(4));
        assert_eq!(aside.limit_with_trial(8, 3), 4);
        let back = Nanos::from_secs(6);
        assert!(aside.succeeded(back, back));
        assert_eq!((aside.limit_with_trial(8, 3), aside.trouble()), (8, None));
    }

    #[test]
    fn pauses_last_as_long_as_asked_and_double_where_nothing_is() {
        let mut aside = WorkerEjection::default();
        let mut now = Nanos::ZERO;
        aside.lengthen(Duration::from_secs(7));
        assert!(aside.is_open(now), "it does not say that it is busy");
        for (asks, seconds) in [(None, 1), (None, 2), (None, 4), (Some(20), 20), (None, 40), (Some(3600), 60)]
        {
            aside.pause(None, now);
            // Answers of the same moment add nothing.
            aside.pause(None, now);
            asks.map(Duration::from_secs).into_iter().for_each(|asks| aside.lengthen(asks));
            assert_eq!(aside.closed_until(now), Some(now + Duration::from_secs(seconds)), "{asks:?}");
            now = now + Duration::from_secs(seconds);
        }
        assert!(!aside.succeeded(Nanos::ZERO, now), "it was sent before");
        assert!(aside.succeeded(now, now));
        aside.pause(None, now);
        assert_eq!(aside.closed_until(now), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn no_time_set_aside_is_long_where_it_is_needed_but_what_the_worker_asked_for_stays() {
        for (asks, seconds) in [(None, 10), (Some(3), 10), (Some(25), 25)] {
            let mut aside = WorkerEjection { pause: Duration::from_secs(20), ..WorkerEjection::default() };
            assert!(!aside.shorten(), "it takes requests");
            aside.pause(asks.map(Duration::from_secs), Nanos::ZERO);
            assert!(!aside.is_open(Nanos::from_secs(39)), "{asks:?}");
            assert!(aside.shorten() && !aside.shorten());
            assert_eq!(aside.closed_until(Nanos::ZERO), Some(Nanos::from_secs(seconds)), "{asks:?}");
        }
        let mut ejected = WorkerEjection { term: Duration::from_secs(80), ..WorkerEjection::default() };
        ejected.eject(&settings(), Nanos::ZERO);
        assert!(ejected.shorten() && ejected.is_open(Nanos::from_secs(10)));
    }

    #[test]
    fn a_busy_worker_that_was_ejected_stays_so() {
        let mut aside = WorkerEjection::default();
        aside.eject(&settings(), Nanos::ZERO);
        aside.pause(None, Nanos::from_secs(5));
        assert_eq!(aside.trouble(), Some(WorkerTrouble::Ejected));
        let mut failing = WorkerEjection::default();
        failing.mark_failing(Nanos::ZERO);
        assert_eq!((failing.trouble(), failing.is_aside()), (Some(WorkerTrouble::Failing), false));
    }
}
