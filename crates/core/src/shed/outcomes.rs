//! Recent outcomes of a worker's requests, to tell a worker that fails from requests that fail.
//!
//! A request may fail wherever it is sent: a prompt that crashes the engine must not eject every
//! worker. So a failure counts against the worker only with further evidence: the same request
//! succeeded elsewhere, two callers met failures, or different requests of one caller fail here
//! while other workers serve that caller. Until then it is only counted.
//!
//! Successes elsewhere are those of the same caller: others that do well say nothing about this one's
//! requests. They are not compared by number: a worker that fails at once fails more than any serves.

use std::time::Duration;

use smallvec::SmallVec;

use crate::clock::{Nanos, saturating_nanos};

use super::settings::EjectionSettings;

/// Parts of the interval, so that it moves in steps of a tenth.
const PARTS: u64 = 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OutcomeCounts {
    pub(super) succeeded: u32,
    pub(super) failed: u32,
}

impl OutcomeCounts {
    pub(super) const fn total(self) -> u32 {
        self.succeeded.saturating_add(self.failed)
    }

    pub(super) const fn add(&mut self, other: Self) {
        self.succeeded = self.succeeded.saturating_add(other.succeeded);
        self.failed = self.failed.saturating_add(other.failed);
    }

    const fn one(well: bool) -> Self {
        Self { succeeded: well as u32, failed: !well as u32 }
    }
}

/// Who sent a request, and what bound it to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestSource {
    /// Hash of the caller's id.
    pub(super) caller: u64,
    /// Hash of its session, else of the beginning of its prompt: equal ones tend to go to the same
    /// worker. `None` if any worker may get it.
    pub(super) bound_by: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureEvidence {
    /// The same request succeeded at another worker.
    Elsewhere,
    /// Only this request failed.
    Request(RequestSource),
}

/// Number of different requests of one caller of which no single one can be to blame.
const DIFFERENT: u32 = 3;

/// Failures of one caller's requests, for which the caller may be to blame.
#[derive(Clone, Debug)]
struct CallerFailures {
    caller: u64,
    /// The last failure.
    at: Nanos,
    /// What bound the failed requests: the first few.
    bound_by: SmallVec<[u64; DIFFERENT as usize]>,
    /// Number of different requests that failed.
    different: u32,
    /// Outcomes of the caller's requests at other workers since the first failure.
    elsewhere: OutcomeCounts,
}

impl CallerFailures {
    const fn of(caller: u64, now: Nanos) -> Self {
        Self {
            caller,
            at: now,
            bound_by: SmallVec::new_const(),
            different: 0,
            elsewhere: OutcomeCounts { succeeded: 0, failed: 0 },
        }
    }

    fn failed(&mut self, bound_by: Option<u64>, now: Nanos) {
        self.at = now;
        if bound_by.is_some_and(|bound_by| self.bound_by.contains(&bound_by)) {
            return;
        }
        self.different = self.different.saturating_add(1);
        if self.bound_by.len() < DIFFERENT as usize {
            self.bound_by.extend(bound_by);
        }
    }

    /// Returns `true` if other workers serve the caller: as many requests as eject a worker, at most
    /// one in five of which failed. On `trial` a worker has been convicted before.
    fn is_certain(&self, settings: &EjectionSettings, failed: u32, trial: bool) -> bool {
        let OutcomeCounts { succeeded, failed: failed_too } = self.elsewhere;
        (trial || self.different >= DIFFERENT)
            && succeeded >= failed.min(settings.consecutive).max(1)
            && failed_too.saturating_mul(4) <= succeeded
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Outcomes {
    /// Number of the current part of the interval, and the counts of it and the parts before.
    part: u64,
    parts: [OutcomeCounts; PARTS as usize],
    /// Failures since the last success.
    in_a_row: u32,
    /// Last failure that was certainly the worker's.
    certain_at: Option<Nanos>,
    /// The caller of the last [`FailureEvidence::Request`].
    of_caller: Option<CallerFailures>,
}

impl Outcomes {
    pub(super) fn succeeded(&mut self, interval: Duration, now: Nanos) {
        self.in_a_row = 0;
        self.count(OutcomeCounts::one(true), interval, now);
    }

    pub(super) fn failed(&mut self, evidence: FailureEvidence, interval: Duration, now: Nanos) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.count(OutcomeCounts::one(false), interval, now);
        let certain = match evidence {
            FailureEvidence::Elsewhere => true,
            FailureEvidence::Request(source) => self.note_caller(source, interval, now),
        };
        if certain {
            self.certain_at = Some(now);
        }
    }

    /// Returns `true` if another caller met a failure as well.
    fn note_caller(&mut self, source: RequestSource, interval: Duration, now: Nanos) -> bool {
        let known = self.of_caller.take().filter(|known| now.since(known.at) <= interval);
        let another = known.as_ref().is_some_and(|known| known.caller != source.caller);
        let known = known.filter(|known| known.caller == source.caller);
        let failures = self.of_caller.insert(known.unwrap_or_else(|| CallerFailures::of(source.caller, now)));
        failures.failed(source.bound_by, now);
        another
    }

    /// Records the outcome of a request at another worker.
    pub(super) fn elsewhere(&mut self, source: RequestSource, well: bool, now: Nanos) {
        let failures = self.of_caller.as_mut().filter(|failures| failures.caller == source.caller);
        let Some(failures) = failures else { return };
        failures.elsewhere.add(OutcomeCounts::one(well));
        if well && source.bound_by.is_some_and(|bound_by| failures.bound_by.contains(&bound_by)) {
            self.certain_at = Some(now);
        }
    }

    /// Returns `true` while outcomes elsewhere matter: it failed requests that may be to blame.
    pub(super) fn is_suspected(&self, interval: Duration, now: Nanos) -> bool {
        self.of_caller.as_ref().is_some_and(|failures| now.since(failures.at) <= interval)
    }

    /// Returns `true` if all of its last requests failed, so that one more says nothing new.
    pub(super) const fn fails_all(&self, settings: &EjectionSettings) -> bool {
        self.in_a_row >= settings.consecutive
    }

    /// Returns `true` if it fails so often that it should be ejected, or shown as failing if it is
    /// `alone`: then no evidence can come from elsewhere. On `trial` one failure is enough.
    pub(super) fn should_eject(
        &mut self,
        settings: &EjectionSettings,
        alone: bool,
        trial: bool,
        now: Nanos,
    ) -> bool {
        let here = self.tally(settings.interval, now);
        let in_a_row = self.in_a_row >= if trial { 1 } else { settings.consecutive };
        let share = here.total() >= settings.request_volume
            && u64::from(here.failed) * 100
                > u64::from(here.total()) * u64::from(settings.failure_percentage);
        let certain = self.certain_at.is_some_and(|at| now.since(at) <= settings.interval);
        let by_others = || {
            let failures = self.of_caller.as_ref().filter(|known| now.since(known.at) <= settings.interval);
            failures.is_some_and(|failures| failures.is_certain(settings, here.failed, trial))
        };
        (in_a_row || share) && (alone || certain || by_others())
    }

    /// Returns the outcomes of the last interval.
    pub(super) fn tally(&mut self, interval: Duration, now: Nanos) -> OutcomeCounts {
        self.turn(interval, now);
        let mut sum = OutcomeCounts::default();
        self.parts.iter().for_each(|part| sum.add(*part));
        sum
    }

    /// Forgets what led to an ejection, but not whose requests failed: a trial may fail one more.
    pub(super) fn forget(&mut self) {
        *self = Self { part: self.part, of_caller: self.of_caller.take(), ..Self::default() };
    }

    fn count(&mut self, one: OutcomeCounts, interval: Duration, now: Nanos) {
        self.turn(interval, now);
        self.parts[0].add(one);
    }

    /// Closes the parts of the interval that are over.
    fn turn(&mut self, interval: Duration, now: Nanos) {
        let part = now.0 / (saturating_nanos(interval) / PARTS).max(1);
        let passed = part.saturating_sub(self.part).min(PARTS);
        for _ in 0..passed {
            self.parts.rotate_right(1);
            self.parts[0] = OutcomeCounts::default();
        }
        self.part = self.part.max(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: OutcomeCounts = OutcomeCounts { succeeded: 0, failed: 0 };

    fn at(millis: u64) -> Nanos {
        Nanos::from_millis(millis)
    }

    fn settings() -> EjectionSettings {
        EjectionSettings::default()
    }

    fn failed(outcomes: &mut Outcomes, count: u64, evidence: FailureEvidence) {
        for i in 0..count {
            outcomes.failed(evidence, settings().interval, at(i));
        }
    }

    fn request(caller: u64, bound_by: impl Into<Option<u64>>) -> RequestSource {
        RequestSource { caller, bound_by: bound_by.into() }
    }

    fn ejects(outcomes: &mut Outcomes, now: Nanos) -> bool {
        outcomes.should_eject(&settings(), false, false, now)
    }

    #[test]
    fn one_callers_failures_say_nothing_unless_others_serve_that_caller() {
        let mut outcomes = Outcomes::default();
        failed(&mut outcomes, 50, FailureEvidence::Request(request(1, None)));
        assert!(!ejects(&mut outcomes, at(60)));
        for (caller, well, count, ejected) in [
            (2, true, 50, false),
            (1, true, 4, false),
            (1, true, 1, true),
            (1, false, 2, false),
            (1, true, 3, true),
        ] {
            (0..count).for_each(|_| outcomes.elsewhere(request(caller, None), well, at(60)));
            assert_eq!(ejects(&mut outcomes, at(60)), ejected, "{caller} {well} {count}");
        }
        assert!(!ejects(&mut outcomes, at(10_061)), "that is long ago");
        let mut outcomes = Outcomes::default();
        failed(&mut outcomes, 5, FailureEvidence::Request(request(1, None)));
        outcomes.failed(FailureEvidence::Request(request(2, None)), settings().interval, at(60));
        assert!(ejects(&mut outcomes, at(60)), "two callers met it");
        assert!(!ejects(&mut outcomes, at(10_061)), "that is long ago");
    }

    #[test]
    fn one_prompt_that_fails_where_it_is_bound_to_says_nothing() {
        let interval = settings().interval;
        for (prompts, elsewhere, ejected) in [(1, 9, false), (2, 9, false), (3, 9, true), (1, 0, true)] {
            let mut outcomes = Outcomes::default();
            for number in 0..50 {
                outcomes.failed(FailureEvidence::Request(request(1, number % prompts)), interval, at(number));
            }
            // Prompt 0 is one of those that failed.
            (0..5).for_each(|_| outcomes.elsewhere(request(1, elsewhere), true, at(60)));
            assert_eq!(ejects(&mut outcomes, at(60)), ejected, "{prompts} prompts, {elsewhere} elsewhere");
        }
    }

    #[test]
    fn who_is_alone_is_shown_as_failing_without_evidence() {
        let mut outcomes = Outcomes::default();
        failed(&mut outcomes, 4, FailureEvidence::Request(request(1, 1)));
        assert!(!outcomes.should_eject(&settings(), true, false, at(10)));
        failed(&mut outcomes, 1, FailureEvidence::Request(request(1, 1)));
        assert!(outcomes.should_eject(&settings(), true, false, at(10)));
        assert!(!ejects(&mut outcomes, at(10)));
    }

    #[test]
    fn five_in_a_row_are_enough_and_a_success_between_them_is_not_one_of_them() {
        let mut outcomes = Outcomes::default();
        failed(&mut outcomes, 4, FailureEvidence::Elsewhere);
        assert!(!ejects(&mut outcomes, at(10)));
        assert!(outcomes.should_eject(&settings(), false, true, at(10)), "one is enough on trial");
        outcomes.succeeded(settings().interval, at(10));
        failed(&mut outcomes, 4, FailureEvidence::Elsewhere);
        assert!(!ejects(&mut outcomes, at(10)));
        failed(&mut outcomes, 1, FailureEvidence::Elsewhere);
        assert!(ejects(&mut outcomes, at(10)));
    }

    #[test]
    fn more_than_half_of_twenty_in_ten_seconds_are_enough() {
        let mut outcomes = Outcomes::default();
        for i in 0..10 {
            outcomes.succeeded(settings().interval, at(i * 100));
            outcomes.failed(FailureEvidence::Elsewhere, settings().interval, at(i * 100));
        }
        assert!(!ejects(&mut outcomes, at(1000)), "half");
        outcomes.failed(FailureEvidence::Elsewhere, settings().interval, at(1000));
        assert!(ejects(&mut outcomes, at(1000)));
        assert_eq!(
            outcomes.tally(settings().interval, at(10_999)),
            OutcomeCounts { succeeded: 0, failed: 1 }
        );
        assert_eq!(outcomes.tally(settings().interval, at(60_000)), NONE);
    }
}
