//! Recent outcomes of a worker's requests, to tell a worker that fails from requests that fail.
//!
//! A request may fail wherever it is sent: a prompt that crashes the engine must not eject every
//! worker. So a failure counts against the worker only with further evidence: the same request
//! succeeded elsewhere, two callers met failures, or the other workers do well meanwhile. Until
//! then it is only counted.

use std::time::Duration;

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureEvidence {
    /// The same request succeeded at another worker.
    Elsewhere,
    /// Only this request of this caller failed; holds the hash of the caller's id.
    Caller(u64),
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
    /// Caller and time of the last [`FailureEvidence::Caller`].
    caller: Option<(u64, Nanos)>,
}

impl Outcomes {
    pub(super) fn succeeded(&mut self, interval: Duration, now: Nanos) {
        self.in_a_row = 0;
        self.count(OutcomeCounts { succeeded: 1, failed: 0 }, interval, now);
    }

    pub(super) fn failed(&mut self, evidence: FailureEvidence, interval: Duration, now: Nanos) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.count(OutcomeCounts { succeeded: 0, failed: 1 }, interval, now);
        let certain = match evidence {
            FailureEvidence::Elsewhere => true,
            FailureEvidence::Caller(caller) => {
                let before = self.caller.replace((caller, now));
                before.is_some_and(|(other, at)| other != caller && now.since(at) <= interval)
            }
        };
        if certain {
            self.certain_at = Some(now);
        }
    }

    /// Returns `true` if it fails so often that it should be ejected. `others` are the outcomes of
    /// the pool's other workers in the interval. On `trial` one failure is enough.
    pub(super) fn should_eject(
        &mut self,
        settings: &EjectionSettings,
        others: OutcomeCounts,
        trial: bool,
        now: Nanos,
    ) -> bool {
        let here = self.tally(settings.interval, now);
        let in_a_row = self.in_a_row >= if trial { 1 } else { settings.consecutive };
        let share = here.total() >= settings.request_volume
            && u64::from(here.failed) * 100
                > u64::from(here.total()) * u64::from(settings.failure_percentage);
        let certain = self.certain_at.is_some_and(|at| now.since(at) <= settings.interval);
        // At least as many succeeded elsewhere, and at most one in five failed there.
        let others_well =
            others.succeeded >= here.failed.max(1) && others.failed.saturating_mul(4) <= others.succeeded;
        (in_a_row || share) && (certain || others_well)
    }

    /// Returns the outcomes of the last interval.
    pub(super) fn tally(&mut self, interval: Duration, now: Nanos) -> OutcomeCounts {
        self.turn(interval, now);
        let mut sum = OutcomeCounts::default();
        self.parts.iter().for_each(|part| sum.add(*part));
        sum
    }

    pub(super) fn forget(&mut self) {
        *self = Self { part: self.part, ..Self::default() };
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

    #[test]
    fn one_callers_failures_say_nothing_unless_others_do_well() {
        let mut outcomes = Outcomes::default();
        failed(&mut outcomes, 50, FailureEvidence::Caller(1));
        assert!(!outcomes.should_eject(&settings(), NONE, false, at(60)));
        assert!(!outcomes.should_eject(
            &settings(),
            OutcomeCounts { succeeded: 49, failed: 0 },
            false,
            at(60)
        ));
        assert!(!outcomes.should_eject(
            &settings(),
            OutcomeCounts { succeeded: 60, failed: 20 },
            false,
            at(60)
        ));
        assert!(outcomes.should_eject(
            &settings(),
            OutcomeCounts { succeeded: 60, failed: 15 },
            false,
            at(60)
        ));
        outcomes.failed(FailureEvidence::Caller(2), settings().interval, at(60));
        assert!(outcomes.should_eject(&settings(), NONE, false, at(60)), "two callers met it");
        assert!(!outcomes.should_eject(&settings(), NONE, false, at(10_061)), "that is long ago");
    }

    #[test]
    fn five_in_a_row_are_enough_and_a_success_between_them_is_not_one_of_them() {
        let mut outcomes = Outcomes::default();
        failed(&mut outcomes, 4, FailureEvidence::Elsewhere);
        assert!(!outcomes.should_eject(&settings(), NONE, false, at(10)));
        assert!(outcomes.should_eject(&settings(), NONE, true, at(10)), "one is enough on trial");
        outcomes.succeeded(settings().interval, at(10));
        failed(&mut outcomes, 4, FailureEvidence::Elsewhere);
        assert!(!outcomes.should_eject(&settings(), NONE, false, at(10)));
        failed(&mut outcomes, 1, FailureEvidence::Elsewhere);
        assert!(outcomes.should_eject(&settings(), NONE, false, at(10)));
    }

    #[test]
    fn more_than_half_of_twenty_in_ten_seconds_are_enough() {
        let mut outcomes = Outcomes::default();
        for i in 0..10 {
            outcomes.succeeded(settings().interval, at(i * 100));
            outcomes.failed(FailureEvidence::Elsewhere, settings().interval, at(i * 100));
        }
        assert!(!outcomes.should_eject(&settings(), NONE, false, at(1000)), "half");
        outcomes.failed(FailureEvidence::Elsewhere, settings().interval, at(1000));
        assert!(outcomes.should_eject(&settings(), NONE, false, at(1000)));
        assert_eq!(
            outcomes.tally(settings().interval, at(10_999)),
            OutcomeCounts { succeeded: 0, failed: 1 }
        );
        assert_eq!(outcomes.tally(settings().interval, at(60_000)), NONE);
    }
}
