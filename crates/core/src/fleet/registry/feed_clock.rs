//! The feed clock: time in which the heartbeat feed worked.
//!
//! If no heartbeat comes, either the worker is silent or the connection is broken, and only other
//! messages on the same connection can tell. So ages are counted on a clock that runs from one sign
//! of life of the feed to the next, and stands still while there is none. A Redis that dies, is
//! paused or cut off thus freezes every age, without a need to detect it in time.
//!
//! Time in which the gateway itself was late does not count, either.
//!
//! **Trade-off.** A worker's silence is seen later, by the time between two signs of life.

use std::time::Duration;

use crate::clock::{Lag, Nanos};

/// Longest gap between two signs of life without an outage. The feed asks every quarter of it.
pub const GAP: Duration = Duration::from_secs(1);

/// Start of the clock: so late that earlier heartbeats can have a time before it.
const START: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug)]
pub(super) struct FeedClock {
    ran: Duration,
    last: Option<Nanos>,
    /// Pauses of the gateway itself: a sign of life may have been unread meanwhile.
    lag: Lag,
}

impl Default for FeedClock {
    fn default() -> Self {
        Self::with_lag(Lag::default())
    }
}

impl FeedClock {
    pub(super) const fn with_lag(lag: Lag) -> Self {
        Self { ran: START, last: None, lag }
    }

    /// Returns the time from one sign of life to another, or to the present, without own pauses.
    fn gap(&self, from: Nanos, to: Nanos) -> Duration {
        to.since(from).saturating_sub(self.lag.overlap(from, to))
    }

    /// Records a sign of life at `at`. Returns `true` if it ends an outage.
    pub(super) fn beat(&mut self, at: Nanos) -> bool {
        let Some(last) = self.last.replace(at.max(self.last.unwrap_or_default())) else { return false };
        let gap = self.gap(last, at);
        if gap <= GAP {
            self.ran += gap;
        }
        gap > GAP
    }

    /// Returns `true` if the feed works, as far as is known at `now`.
    pub(super) fn works(&self, now: Nanos) -> bool {
        self.last.is_some_and(|last| self.gap(last, now) <= GAP)
    }

    /// Returns the time since the last sign of life; `None` if there was none.
    pub(super) fn age(&self, now: Nanos) -> Option<Duration> {
        self.last.map(|last| self.gap(last, now))
    }

    pub(super) const fn time(&self) -> Duration {
        self.ran
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_still_without_signs_of_life() {
        let mut pulse = FeedClock::default();
        assert!(!pulse.works(Nanos::ZERO));
        for (at, back, ran) in [(0, false, 0), (250, false, 250), (1250, false, 1250), (2251, true, 1250)] {
            assert_eq!(pulse.beat(Nanos::from_millis(at)), back, "at {at}");
            assert_eq!(pulse.time() - START, Duration::from_millis(ran), "at {at}");
        }
        // A sign of life that is older than the last one changes nothing.
        assert!(!pulse.beat(Nanos::from_millis(2000)));
        assert!(!pulse.beat(Nanos::from_millis(2351)));
        assert_eq!(pulse.time() - START, Duration::from_millis(1350));
        assert!(pulse.works(Nanos::from_millis(3351)) && !pulse.works(Nanos::from_millis(3352)));
    }
    #[test]
    fn it_stands_still_while_the_gateway_does() {
        let lag = Lag::default();
        let mut pulse = FeedClock::with_lag(lag.clone());
        let tick = |from: u64, to: u64| {
            for at in (from..=to).step_by(10) {
                lag.tick(Nanos::from_millis(at));
            }
        };
        tick(0, 1000);
        pulse.beat(Nanos::from_millis(1000));
        // The gateway was paused for 1.5 s, then hears nothing for another 0.5 s.
        assert!(pulse.works(Nanos::from_millis(2600)));
        tick(2500, 3000);
        assert!(!pulse.beat(Nanos::from_millis(3000)), "that was no outage");
        assert_eq!(pulse.time() - START, Duration::from_millis(510));
        // The gateway runs, and hears nothing.
        tick(3010, 4100);
        assert!(!pulse.works(Nanos::from_millis(4001)) && pulse.beat(Nanos::from_millis(4001)));
    }
}
