//! The virtual time of one class, and the contests in which it counts.
//!
//! A *contest* begins with the first request that waits or is refused. It ends when none has waited
//! or been refused for [`CREDIT`]. What callers take between contests does not count, so each
//! contest begins with equals.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Nanos;

/// How long a refused caller keeps its credit. A longer time would be fairer to it, but in the
/// worst case the caller takes everything for this long, divided by the number of callers.
pub(super) const CREDIT: Duration = Duration::from_secs(5);
/// Samples of the virtual time kept within [`CREDIT`].
const MARKS: usize = 10;
/// Admissions over which the mean counter is taken.
const LATELY: u64 = 8;

/// Progress of the callers of one class.
#[derive(Debug, Default)]
pub(super) struct Contest {
    number: u32,
    /// Last time a request waited or was refused.
    contended_at: Option<Nanos>,
    virtual_time: u64,
    /// See [`Contest::level`].
    level: u64,
    /// Samples of the virtual time over the last [`CREDIT`], the earliest first.
    marks: VecDeque<(Nanos, u64)>,
}

impl Contest {
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Returns the progress of the foremost caller served, in virtual tokens.
    pub(super) fn virtual_time(&self) -> u64 {
        self.virtual_time
    }

    /// Raises the virtual time to at least `level`.
    pub(super) fn reach(&mut self, level: u64) {
        self.virtual_time = self.virtual_time.max(level);
    }

    /// Records that a caller at `counter` is served; `level` is its counter without estimates.
    pub(super) fn served(&mut self, counter: u64, level: u64) {
        self.reach(level);
        let change = (counter / LATELY).abs_diff(self.level / LATELY);
        self.level = if counter > self.level { self.level + change } else { self.level - change };
    }

    /// Returns the mean counter at which requests were recently admitted, estimates included.
    pub(super) fn level(&self) -> u64 {
        self.level.max(self.virtual_time)
    }

    /// Records that a request waits or is refused while no other waits; may start a new contest.
    pub(super) fn begin(&mut self, now: Nanos) {
        if !self.is_on(now) {
            self.number = self.number.wrapping_add(1);
            self.marks.clear();
            self.level = self.virtual_time;
        }
        self.contended_at = Some(now);
    }

    /// Returns `true` if a request has waited or was refused within the last [`CREDIT`].
    pub(super) fn is_on(&self, now: Nanos) -> bool {
        self.contended_at.is_some_and(|at| now.since(at) <= CREDIT)
    }

    pub(super) fn continues(&mut self, now: Nanos) {
        self.contended_at = Some(now);
    }

    /// Samples the virtual time, at most [`MARKS`] times per [`CREDIT`].
    pub(super) fn mark(&mut self, now: Nanos) {
        if self.marks.back().is_some_and(|(at, _)| now.since(*at) < CREDIT / MARKS as u32) {
            return;
        }
        if self.marks.len() > MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back((now, self.virtual_time));
    }

    /// Returns the virtual time [`CREDIT`] ago, or the earliest known of this contest.
    pub(super) fn before(&self, now: Nanos) -> u64 {
        let at = now - CREDIT;
        let mark = self.marks.iter().rev().find(|(marked, _)| *marked <= at).or(self.marks.front());
        mark.map_or(self.virtual_time, |(_, virtual_time)| *virtual_time)
    }
}
