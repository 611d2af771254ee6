//! Moments in which nothing of a worker flows, and what they spoil.
//!
//! A worker that is stopped for a moment, or a gateway that is, makes first tokens late and says nothing of how many
//! sequences the worker decodes at once. A queue inside the worker looks different: some streams flow while others wait.
//! So a gap in *everything* that comes from a worker, on streams that flowed until then, is a stall. What was sent
//! before its end is no sample for the worker's limit, and neither is what is sent while the backlog of the stall is
//! still being read, for at most a second.
//!
//! * **Failure mode.** A worker with a single stream cannot be told from that stream: a pause of it counts as a stall.
//! * **Trade-off.** What is suspended is bounded to half of any ten seconds, so that a worker that stops again and again
//!   is judged by what it does.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Nanos;

/// The backlog of a stall is waited for so long at most.
const BACKLOG: Duration = Duration::from_secs(1);
/// Of the last ten seconds, five may be suspended.
const MEMORY: Duration = Duration::from_secs(10);
const MOST: Duration = Duration::from_secs(5);
/// A stall takes this much of that at most: what is longer is silence, which is dealt with as such.
const LONGEST: Duration = Duration::from_secs(1);

/// The stalls of one worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Stalls {
    /// Ended at, and how much of the bound it took. The last ten seconds.
    recent: VecDeque<(Nanos, Duration)>,
    /// The last stall, until its backlog is read.
    last: Option<(Nanos, Nanos)>,
    /// What was sent before is no sample.
    judged_from: Nanos,
}

impl Stalls {
    /// Nothing flowed from `from` to `to`. False when so much is suspended already that this does not count.
    pub(super) fn add(&mut self, from: Nanos, to: Nanos) -> bool {
        while self.recent.front().is_some_and(|(ended, _)| to.since(*ended) > MEMORY) {
            self.recent.pop_front();
        }
        let suspended: Duration = self.recent.iter().map(|(_, length)| *length).sum();
        if suspended >= MOST || to <= from {
            return false;
        }
        // Two accounts of one stall, the gateway's own and the worker's, count once.
        let known = self.last.map_or(Nanos::ZERO, |(_, to)| to);
        let length = to.since(from.max(known)).min(LONGEST);
        self.recent.push_back((to, length));
        self.last = Some((from, to.max(known)));
        true
    }

    /// Ends the time in which nothing is judged, once nothing is left `unread` that was sent before the stall ended.
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

    /// Whether what is seen of a request that was sent at `sent` says nothing of the worker's limit.
    pub(super) fn spoil(&self, sent: Nanos) -> bool {
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
        assert!(!stalls.spoil(at(0)));
        assert!(stalls.add(at(1000), at(1500)));
        stalls.advance(Some(at(1400)), at(1600));
        assert!(stalls.spoil(at(1600)), "something is unread that was sent during the stall");
        stalls.advance(Some(at(1550)), at(1700));
        assert!(stalls.spoil(at(1600)) && !stalls.spoil(at(1700)));
    }

    #[test]
    fn a_backlog_that_is_never_read_ends_after_a_second() {
        let mut stalls = Stalls::default();
        assert!(stalls.add(at(1000), at(1500)));
        stalls.advance(Some(at(1400)), at(2499));
        assert!(stalls.spoil(at(2499)));
        stalls.advance(Some(at(1400)), at(2500));
        assert!(!stalls.spoil(at(2500)));
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
