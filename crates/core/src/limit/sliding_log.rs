//! The sliding log: remembers every admission, so that no window ever exceeds the limit.
//!
//! It is exact, but takes 16 bytes per admission in the window, so up to 16·limit bytes per key
//! (calls in the same nanosecond share an entry). For large quotas use the sliding window.
//!
//! **Corrections** apply to the charged entry. If it has left the window, unused units are dropped
//! and an excess is added now, to the newest entry if there are already as many as the limit.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use super::meter::{CellMark, Level, Meter, QuotaOverride, Shortage};
use super::rule::Quota;
use crate::clock::{Nanos, saturating_nanos};

/// A quota counted with a log of admissions.
#[derive(Clone, Copy, Debug)]
pub struct SlidingLog {
    limit: u64,
    /// The window's length in ns.
    window: u64,
}

/// The admissions of the last window, oldest first.
#[derive(Clone, Debug, Default)]
pub struct AdmissionLog {
    /// Time in ns, and units. Units are never zero, and times strictly increase.
    entries: VecDeque<(u64, u64)>,
    used: u64,
}

impl AdmissionLog {
    /// Adds units at `now`, or at the newest time if the clock of another thread was ahead.
    fn add(&mut self, amount: u64, now: u64) -> CellMark {
        self.used = self.used.saturating_add(amount);
        match self.entries.back_mut() {
            Some((time, units)) if *time >= now => {
                *units = units.saturating_add(amount);
                CellMark(*time)
            }
            _ => {
                self.entries.push_back((now, amount));
                CellMark(now)
            }
        }
    }
}

impl SlidingLog {
    /// Creates a window of `quota.period` with room for `quota.limit` units. A zero counts as one.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self { limit: quota.limit.max(1), window: saturating_nanos(quota.period).max(1) }
    }

    /// Returns `true` if an admission at `time` no longer counts: the window excludes its old end.
    fn is_over(&self, time: u64, now: u64) -> bool {
        time.saturating_add(self.window) <= now
    }

    fn forget(&self, log: &mut AdmissionLog, now: u64) {
        while let Some(&(time, units)) = log.entries.front() {
            if !self.is_over(time, now) {
                return;
            }
            log.entries.pop_front();
            log.used = log.used.saturating_sub(units);
        }
        log.used = 0;
    }

    /// Returns the units that still count at `now`.
    fn used(&self, log: &AdmissionLog, now: u64) -> u64 {
        let over =
            log.entries.iter().take_while(|(time, _)| self.is_over(*time, now)).map(|(_, units)| units);
        over.fold(log.used, |used, units| used.saturating_sub(*units))
    }
}

impl Meter for SlidingLog {
    type Cell = AdmissionLog;
    type SharedCell = Mutex<AdmissionLog>;

    fn of(by: QuotaOverride) -> Self {
        Self::new(by.quota)
    }

    fn charge(&self, log: &mut AdmissionLog, amount: u64, now: Nanos) -> Result<CellMark, Shortage> {
        self.forget(log, now.0);
        match self.shortage(log, amount, now) {
            Some(shortage) => Err(shortage),
            None => Ok(log.add(amount, now.0)),
        }
    }

    fn shortage(&self, log: &AdmissionLog, amount: u64, now: Nanos) -> Option<Shortage> {
        let Some(room) = self.limit.checked_sub(amount) else { return Some(Shortage::Never) };
        let mut used = log.used;
        let mut until = None;
        for &(time, units) in &log.entries {
            if used <= room {
                break;
            }
            used = used.saturating_sub(units);
            until = Some(Nanos(time.saturating_add(self.window)));
        }
        until.filter(|until| *until > now).map(|until| Shortage::Wait(until.since(now)))
    }

    fn correct(&self, log: &mut AdmissionLog, mark: CellMark, reserved: u64, actual: u64, now: Nanos) {
        self.forget(log, now.0);
        let index = log.entries.partition_point(|(time, _)| *time < mark.0);
        if let Some((_, units)) = log.entries.get_mut(index).filter(|(time, _)| *time == mark.0) {
            let corrected = units.saturating_sub(reserved).saturating_add(actual);
            log.used = log.used.saturating_sub(*units).saturating_add(corrected);
            *units = corrected;
            if corrected == 0 {
                log.entries.remove(index);
            }
        } else if actual > reserved {
            if log.entries.len() as u64 >= self.limit
                && let Some((time, _)) = log.entries.back_mut()
            {
                *time = now.0.max(*time);
            }
            log.add(actual - reserved, now.0);
        }
    }

    fn is_idle(&self, log: &AdmissionLog, now: Nanos) -> bool {
        log.entries.back().is_none_or(|(time, _)| self.is_over(*time, now.0))
    }

    fn level(&self, log: &AdmissionLog, now: Nanos) -> Level {
        let reset = match log.entries.back() {
            Some((time, _)) => Nanos(time.saturating_add(self.window)).since(now),
            None => Duration::ZERO,
        };
        Level { remaining: self.limit.saturating_sub(self.used(log, now.0)), reset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_per_second() -> SlidingLog {
        SlidingLog::new(Quota { limit: 3, period: Duration::from_secs(1), burst: 3 })
    }

    #[test]
    fn corrections_go_to_the_entry_that_was_charged() {
        let meter = three_per_second();
        let mut log = AdmissionLog::default();
        let mark = meter.charge(&mut log, 2, Nanos::from_millis(100)).unwrap();
        meter.charge(&mut log, 1, Nanos::from_millis(200)).unwrap();
        meter.correct(&mut log, mark, 2, 0, Nanos::from_millis(300));
        assert_eq!(log.entries, [(200_000_000, 1)]);
        meter.correct(&mut log, mark, 2, 1, Nanos::from_millis(400));
        assert_eq!(log.used, 1, "a rest of a forgotten entry is dropped");
        meter.correct(&mut log, mark, 2, 4, Nanos::from_millis(400));
        assert_eq!(meter.level(&log, Nanos::from_millis(400)).remaining, 0, "an excess is owed now");
        assert_eq!(meter.level(&log, Nanos::from_millis(1_200)).remaining, 1);
    }

    #[test]
    fn late_excesses_never_make_the_log_longer_than_the_limit() {
        let meter = three_per_second();
        let mut log = AdmissionLog::default();
        for at in 0..100 {
            meter.correct(&mut log, CellMark(7), 0, 5, Nanos::from_millis(at * 5));
            assert!(log.entries.len() <= 3);
        }
        assert_eq!(log.used, 500);
        assert_eq!(log.used, log.entries.iter().map(|(_, units)| units).sum::<u64>());
        assert!(
            !meter.is_idle(&log, Nanos::from_millis(1_494)) && meter.is_idle(&log, Nanos::from_millis(1_495))
        );
    }

    #[test]
    fn a_clock_that_lags_behind_the_log_changes_nothing_in_the_order() {
        let meter = three_per_second();
        let mut log = AdmissionLog::default();
        meter.charge(&mut log, 1, Nanos::from_millis(500)).unwrap();
        meter.charge(&mut log, 1, Nanos::from_millis(400)).unwrap();
        assert_eq!(log.entries, [(500_000_000, 2)]);
        assert_eq!(meter.charge(&mut log, 4, Nanos::MAX), Err(Shortage::Never));
    }
}
