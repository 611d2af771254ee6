//! Stalls: moments in which nothing flows from a worker, and the samples that they spoil.
//!
//! When a worker or the gateway stops for a moment, first tokens are late. That says nothing about
//! how many sequences the worker decodes at once: with a queue inside it, some streams flow while
//! others wait. So a gap in *everything* from a worker, on streams that flowed until then, is a
//! stall. Requests sent before its end are no samples for the limit. Neither are those sent while
//! its backlog is still being read, for at most a second.
//!
//! * **Failure mode.** The pause of a single stream counts as a stall of its worker.
//! * **Trade-off.** At most half of any ten seconds is suspended, so a worker that stops again and
//!   again is still judged.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Nanos;

/// Longest wait for the backlog of a stall.
const BACKLOG: Duration = Duration::from_secs(1);
/// Of the last ten seconds, at most five are suspended.
const MEMORY: Duration = Duration::from_secs(10);
const MOST: Duration = Duration::from_secs(5);
/// Maximum that one stall uses of that; anything longer is silence (see `gate::silence`).
const LONGEST: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default)]
pub(super) struct Stalls {
    /// End of each stall in the last ten seconds, and how much of the bound it used.
    recent: VecDeque<(Nanos, Duration)>,
    /// Start and end of the last stall, until its backlog is read.
    last: Option<(Nanos, Nanos)>,
    /// Requests sent earlier are no samples.
    judged_from: Nanos,
}

impl Stalls {
    /// Records a stall from `from` to `to`. Returns `false` if too much is suspended already.
    pub(super) fn add(&mut self, from: Nanos, to: Nanos) -> bool {
        while self.recent.front().is_some_and(|(ended, _)| to.since(*ended) > MEMORY) {
            self.recent.pop_front();
        }
        let suspended: Duration = self.recent.iter().map(|(_, length)| *length).sum();
        if suspended >= MOST || to <= from {
            return false;
        }
        // Two records of one stall, the gateway's own and the worker's, count once.
        let known = self.last.map_or(Nanos::ZERO, |(_, to)| to);
        let length = to.since(from.max(known)).min(LONGEST);
        self.recent.push_back((to, length));
        self.last = Some((from, to.max(known)));
        true
    }

    /// Ends the suspension once no request sent before the end of the stall is unread.
    pub(super) fn advance(&mut self, oldest_unread: Option<Nanos>, now: Nanos) {
        let Some((_, to)) = self.last else { return };
        let backlog = oldest_unread.is_some_and(|sent| sent <= to);
        if !backlog || now.since(to) >= BACKLOG {
            self.last = None;
            self.judged_from = now;
            let backlog = now.since(to).min(BACKLOG);
            self.recent.push_back((now, backlog));
        }
    }

    /// Returns `true` if a request sent at `sent` is no sample for the worker's limit.
    pub(super) fn invalidates(&self, sent: Nanos) -> bool {
        self.last.is_some() || sent < self.judged_from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Nanos {
        Nanos::from_millis(millis)
    }

    #[test]
    fn what_was_sent_before_the_backlog_is_read_is_spoilt() {
        let mut stalls = Stalls::default();
        assert!(!stalls.invalidates(at(0)));
        assert!(stalls.add(at(1000), at(1500)));
        stalls.advance(Some(at(1400)), at(1600));
        assert!(stalls.invalidates(at(1600)), "something is unread that was sent during the stall");
        stalls.advance(Some(at(1550)), at(1700));
        assert!(stalls.invalidates(at(1600)) && !stalls.invalidates(at(1700)));
    }

    #[test]
    fn a_backlog_that_is_never_read_ends_after_a_second() {
        let mut stalls = Stalls::default();
        assert!(stalls.add(at(1000), at(1500)));
        stalls.advance(Some(at(1400)), at(2499));
        assert!(stalls.invalidates(at(2499)));
        stalls.advance(Some(at(1400)), at(2500));
        assert!(!stalls.invalidates(at(2500)));
    }

    #[test]
    fn no_more_than_half_of_ten_seconds_is_suspended() {
        let mut stalls = Stalls::default();
        let mut suspended = 0;
        for tick in 0..20 {
            let start = tick * 1000;
            suspended += u32::from(stalls.add(at(start), at(start + 600)));
            stalls.advance(None, at(start + 600));
        }
        assert!((14..=18).contains(&suspended), "{suspended} of 20");
        assert!(!stalls.add(at(30_000), at(30_000)), "a moment of no length is none");
    }
}
