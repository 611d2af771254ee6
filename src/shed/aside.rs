//! A worker that is put aside for what it answers: ejected because it fails, or paused because it says that it is busy.
//!
//! After either it is tried with one request at a time until one succeeds. An ejection that follows on a failed trial
//! lasts twice as long as the one before, and so does a pause without a time of its own.

use std::time::Duration;

use crate::clock::Nanos;

use super::ejection::EjectionSettings;
use super::seat::SeatId;

/// A busy worker that names no time is left alone for so long at first.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// And for so long at most, whatever it asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why a worker gets no requests, or should get none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerTrouble {
    /// No connection could be made, and none was since.
    Unreachable,
    /// It said nothing on any of its streams, and has not since.
    Silent,
    /// It fails, and is ejected or on trial after that.
    Ejected,
    /// It fails, and is not ejected: it is alone, too many are ejected already, or the mode is not `on`.
    Failing,
    /// It answered that it is busy, and is left alone or on trial after that.
    Busy,
}

impl WorkerTrouble {
    /// What is wrong, for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "no connection could be made, and none was since",
            Self::Silent => "it fell silent on all its streams",
            Self::Ejected => "it failed requests that others can serve, and is ejected until one succeeds",
            Self::Failing => "it fails requests, and is not ejected",
            Self::Busy => "it answered 429 or 503, and is left alone for a while",
        }
    }
}

/// Whether and until when one worker is put aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Aside {
    /// Why, until a request succeeds that was sent after it began.
    trouble: Option<WorkerTrouble>,
    /// When that began: what was sent before says nothing of the present.
    since: Nanos,
    /// Nothing is sent before.
    until: Nanos,
    /// The last ejection's length, and when the worker was well again after it.
    term: Duration,
    well_at: Option<Nanos>,
    /// The last pause's length.
    pause: Duration,
    /// The request that tries it.
    trial: Option<SeatId>,
}

impl Aside {
    /// Puts it aside because it fails, for twice as long as before unless it was well for as long in between.
    pub(super) fn eject(&mut self, settings: &EjectionSettings, now: Nanos) {
        let forgotten = self.well_at.is_some_and(|at| now.since(at) >= self.term);
        let before = if forgotten { Duration::ZERO } else { self.term };
        let term = (before * 2).clamp(settings.base, settings.max.max(settings.base));
        *self = Self {
            trouble: Some(WorkerTrouble::Ejected),
            since: now,
            until: now + term,
            term,
            well_at: None,
            ..*self
        };
    }

    /// It fails, and keeps its work.
    pub(super) fn fails(&mut self, now: Nanos) {
        if self.trouble.is_none() {
            (self.trouble, self.since) = (Some(WorkerTrouble::Failing), now);
        }
    }

    /// It is busy: for twice as long as it was before.
    pub(super) fn pause(&mut self, now: Nanos) {
        if now < self.until {
            return;
        }
        let length = (self.pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        let trouble =
            self.trouble.filter(|trouble| *trouble == WorkerTrouble::Ejected).or(Some(WorkerTrouble::Busy));
        *self = Self { trouble, since: now, until: now + length, pause: length, ..*self };
    }

    /// It asked to be left alone for so long, and others serve what it did not.
    pub(super) fn lengthen(&mut self, asks: Duration) {
        if self.is_aside() {
            let length = asks.clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
            (self.until, self.pause) = (self.until.max(self.since + length), length);
        }
    }

    /// A trial failed; what that says is not yet certain.
    pub(super) fn wait(&mut self, now: Nanos) {
        self.until = self.until.max(now + SHORTEST_PAUSE);
    }

    /// A request succeeded that was sent at `sent`. True when that ends its trouble.
    pub(super) fn succeeded(&mut self, sent: Nanos, now: Nanos) -> bool {
        let over = self.trouble.is_some() && sent >= self.since;
        if over {
            *self = Self { term: self.term, well_at: Some(now), ..Self::default() };
        }
        over
    }

    /// Nobody else is left to serve: it takes what comes, whatever became of it before.
    pub(super) fn lift(&mut self, now: Nanos) {
        let trouble =
            self.trouble.filter(|trouble| *trouble != WorkerTrouble::Busy).map(|_| WorkerTrouble::Failing);
        *self = Self { trouble, until: self.until.min(now), ..*self };
    }

    /// What is wrong with it.
    pub(super) const fn trouble(&self) -> Option<WorkerTrouble> {
        self.trouble
    }

    /// Whether its ejection lasts, so that not even a trial is sent there.
    pub(super) fn is_ejected(&self, now: Nanos) -> bool {
        self.trouble == Some(WorkerTrouble::Ejected) && now < self.since + self.term
    }

    /// Whether it serves no more than trials.
    pub(super) const fn is_aside(&self) -> bool {
        matches!(self.trouble, Some(WorkerTrouble::Ejected | WorkerTrouble::Busy))
    }

    /// Whether it may be sent anything.
    pub(super) fn is_open(&self, now: Nanos) -> bool {
        now >= self.until
    }

    /// When it may be tried, while it may not.
    pub(super) fn closed_until(&self, now: Nanos) -> Option<Nanos> {
        (!self.is_open(now)).then_some(self.until)
    }

    /// `limit`, or room for one more than is `in_flight` while there is no trial.
    pub(super) fn bound(&self, limit: u32, in_flight: u32) -> u32 {
        if self.is_aside() {
            limit.min(in_flight.saturating_add(u32::from(self.trial.is_none()))).max(1)
        } else {
            limit
        }
    }

    /// A request is sent there: while it is aside, as the trial.
    pub(super) fn begin_trial(&mut self, id: SeatId) {
        if self.is_aside() {
            self.trial.get_or_insert(id);
        }
    }

    /// A request is there no more.
    pub(super) fn end_trial(&mut self, id: SeatId) {
        self.trial.take_if(|trial| *trial == id);
    }

    /// Whether this request tries it.
    pub(super) fn is_trial(&self, id: SeatId) -> bool {
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
        let mut aside = Aside::default();
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
        let mut aside = Aside::default();
        assert_eq!(aside.bound(8, 3), 8);
        aside.eject(&settings(), Nanos::ZERO);
        assert_eq!((aside.bound(8, 3), aside.bound(2, 3)), (4, 2));
        aside.begin_trial(SeatId(4));
        aside.begin_trial(SeatId(5));
        assert!(aside.is_trial(SeatId(4)) && !aside.is_trial(SeatId(5)));
        assert_eq!((aside.bound(8, 4), aside.bound(8, 0)), (4, 1));
        aside.end_trial(SeatId(5));
        assert_eq!(aside.bound(8, 4), 4);
        aside.end_trial(SeatId(4));
        assert_eq!(aside.bound(8, 3), 4);
        let back = Nanos::from_secs(6);
        assert!(aside.succeeded(back, back));
        assert_eq!((aside.bound(8, 3), aside.trouble()), (8, None));
    }

    #[test]
    fn pauses_last_as_long_as_asked_and_double_where_nothing_is() {
        let mut aside = Aside::default();
        let mut now = Nanos::ZERO;
        aside.lengthen(Duration::from_secs(7));
        assert!(aside.is_open(now), "it does not say that it is busy");
        for (asks, seconds) in [(None, 1), (None, 2), (None, 4), (Some(20), 20), (None, 40), (Some(3600), 60)]
        {
            aside.pause(now);
            // Answers of the same moment add nothing.
            aside.pause(now);
            asks.map(Duration::from_secs).into_iter().for_each(|asks| aside.lengthen(asks));
            assert_eq!(aside.closed_until(now), Some(now + Duration::from_secs(seconds)), "{asks:?}");
            now = now + Duration::from_secs(seconds);
        }
        assert!(!aside.succeeded(Nanos::ZERO, now), "it was sent before");
        assert!(aside.succeeded(now, now));
        aside.pause(now);
        assert_eq!(aside.closed_until(now), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn a_busy_worker_that_was_ejected_stays_so() {
        let mut aside = Aside::default();
        aside.eject(&settings(), Nanos::ZERO);
        aside.pause(Nanos::from_secs(5));
        assert_eq!(aside.trouble(), Some(WorkerTrouble::Ejected));
        let mut failing = Aside::default();
        failing.fails(Nanos::ZERO);
        assert_eq!((failing.trouble(), failing.is_aside()), (Some(WorkerTrouble::Failing), false));
    }
}
