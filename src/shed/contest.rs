//! The virtual time of one class, and the contest in which it counts.
//!
//! A *contest* begins with the first request that has to wait or is refused, and ends when none has waited or
//! been refused for [`CREDIT`]. What callers take between two contests does not count: each contest begins
//! with equals.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Nanos;

/// The time for which a caller is owed what it asked for in vain. A longer time would be fairer to it, but in
/// the worst case the caller takes everything for this long, divided by the number of callers.
pub(super) const CREDIT: Duration = Duration::from_secs(5);
/// Marks of the virtual time kept within [`CREDIT`].
const MARKS: usize = 10;
/// Admissions over which the mean counter is taken.
const LATELY: u64 = 8;

/// How far the callers of one class have come.
#[derive(Debug, Default)]
pub(super) struct Contest {
    /// The number of the present contest.
    number: u32,
    /// The last moment at which a request waited or was refused.
    contended_at: Option<Nanos>,
    virtual_time: u64,
    /// See [`Contest::level`].
    level: u64,
    /// The virtual time at some moments of the last [`CREDIT`], the earliest first.
    marks: VecDeque<(Nanos, u64)>,
}

impl Contest {
    /// The number of the present contest.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// How far the foremost of those served has come, in virtual tokens.
    pub(super) fn virtual_time(&self) -> u64 {
        self.virtual_time
    }

    /// The virtual time is at least `level`.
    pub(super) fn reach(&mut self, level: u64) {
        self.virtual_time = self.virtual_time.max(level);
    }

    /// A caller whose counter is `counter` is served; without estimates it has come as far as `level`.
    pub(super) fn served(&mut self, counter: u64, level: u64) {
        self.reach(level);
        let change = (counter / LATELY).abs_diff(self.level / LATELY);
        self.level = if counter > self.level { self.level + change } else { self.level - change };
    }

    /// How far the others have come: the mean counter at which requests were admitted of late, estimates included.
    pub(super) fn level(&self) -> u64 {
        self.level.max(self.virtual_time)
    }

    /// A request has to wait or is refused while no other waits: a new contest, unless the last one has hardly ended.
    pub(super) fn begin(&mut self, now: Nanos) {
        if self.contended_at.is_none_or(|at| now.since(at) > CREDIT) {
            self.number = self.number.wrapping_add(1);
            self.marks.clear();
            self.level = self.virtual_time;
        }
        self.contended_at = Some(now);
    }

    /// The contest goes on.
    pub(super) fn continues(&mut self, now: Nanos) {
        self.contended_at = Some(now);
    }

    /// Remembers the virtual time now and then.
    pub(super) fn mark(&mut self, now: Nanos) {
        if self.marks.back().is_some_and(|(at, _)| now.since(*at) < CREDIT / MARKS as u32) {
            return;
        }
        if self.marks.len() > MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back((now, self.virtual_time));
    }

    /// The virtual time as it was [`CREDIT`] ago, or the earliest of this contest that is remembered.
    pub(super) fn before(&self, now: Nanos) -> u64 {
        let at = now - CREDIT;
        let mark = self.marks.iter().rev().find(|(marked, _)| *marked <= at).or(self.marks.front());
        mark.map_or(self.virtual_time, |(_, virtual_time)| *virtual_time)
    }
}
