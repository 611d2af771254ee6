//! Time as the feed of heartbeats lives it.
//!
//! When no heartbeat comes, either the worker is silent or the way from it is broken, and only what else comes on
//! that way can tell. So ages are counted in the time during which the feed is known to have worked: it runs from one
//! sign of life of the feed to the next, and stands still while there is none. A Redis that dies, is paused or cut
//! off therefore freezes every age where it was, without anybody having to notice in time that it did.
//!
//! The time in which the gateway itself was late is none of the feed's either.
//!
//! **Trade-off.** A worker's silence shows later by the time between two signs of life.

use std::time::Duration;

use crate::clock::{Lag, Nanos};

/// Signs of life further apart than this have an outage between them. The feed asks for one every quarter of that.
pub const GAP: Duration = Duration::from_secs(1);

/// Where the feed's time begins: late enough that what was said before can be dated before it.
const START: Duration = Duration::from_secs(24 * 3600);

/// The feed's clock.
#[derive(Clone, Debug)]
pub(super) struct Pulse {
    ran: Duration,
    last: Option<Nanos>,
    /// When the gateway itself was late: a sign of life may have lain there unread.
    lag: Lag,
}

impl Default for Pulse {
    fn default() -> Self {
        Self::with_lag(Lag::default())
    }
}

impl Pulse {
    pub(super) const fn with_lag(lag: Lag) -> Self {
        Self { ran: START, last: None, lag }
    }

    /// The time from one sign of life to another, or to the present.
    fn gap(&self, from: Nanos, to: Nanos) -> Duration {
        to.since(from).saturating_sub(self.lag.overlap(from, to))
    }

    /// The feed worked at `at`. Tells whether it is back after an outage.
    pub(super) fn beat(&mut self, at: Nanos) -> bool {
        let Some(last) = self.last.replace(at.max(self.last.unwrap_or_default())) else { return false };
        let gap = self.gap(last, at);
        if gap <= GAP {
            self.ran += gap;
        }
        gap > GAP
    }

    /// Whether the feed works, as far as can be known at `now`.
    pub(super) fn works(&self, now: Nanos) -> bool {
        self.last.is_some_and(|last| self.gap(last, now) <= GAP)
    }

    /// The feed's time.
    pub(super) const fn time(&self) -> Duration {
        self.ran
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_still_without_signs_of_life() {
        let mut pulse = Pulse::default();
        assert!(!pulse.works(Nanos::ZERO));
        for (at, back, ran) in [(0, false, 0), (250, false, 250), (1250, false, 1250), (2251, true, 1250)] {
            assert_eq!(pulse.beat(Nanos::from_millis(at)), back, "at {at}");
            assert_eq!(pulse.time() - START, Duration::from_millis(ran), "at {at}");
        }
        // An answer that was asked for before the last sign of life adds nothing and takes nothing.
        assert!(!pulse.beat(Nanos::from_millis(2000)));
        assert!(!pulse.beat(Nanos::from_millis(2351)));
        assert_eq!(pulse.time() - START, Duration::from_millis(1350));
        assert!(pulse.works(Nanos::from_millis(3351)) && !pulse.works(Nanos::from_millis(3352)));
    }
    #[test]
    fn it_stands_still_while_the_gateway_does() {
        let lag = Lag::default();
        let mut pulse = Pulse::with_lag(lag.clone());
        let tick = |from: u64, to: u64| {
            for at in (from..=to).step_by(10) {
                lag.tick(Nanos::from_millis(at));
            }
        };
        tick(0, 1000);
        pulse.beat(Nanos::from_millis(1000));
        // Paused for a second and a half, and nothing heard for another half.
        assert!(pulse.works(Nanos::from_millis(2600)));
        tick(2500, 3000);
        assert!(!pulse.beat(Nanos::from_millis(3000)), "that was no outage");
        assert_eq!(pulse.time() - START, Duration::from_millis(510));
        // It runs, and hears nothing.
        tick(3010, 4100);
        assert!(!pulse.works(Nanos::from_millis(4001)) && pulse.beat(Nanos::from_millis(4001)));
    }
}
