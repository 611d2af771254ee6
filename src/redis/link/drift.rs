//! Compares the clock of Redis with this gateway's, to detect pauses.

use std::time::Duration;

use crate::clock::{LONG_PAUSE, Nanos};

/// Last readings of both clocks.
#[derive(Debug, Default)]
pub(super) struct ClockDrift(Option<(Duration, Nanos)>);

impl ClockDrift {
    /// Returns `true` if Redis' clock has advanced more than this gateway's, by a long pause.
    pub(super) fn detects_pause(&mut self, theirs: Duration, now: Nanos) -> bool {
        let before = self.0.replace((theirs, now));
        before.is_some_and(|(before, then)| {
            theirs.saturating_sub(before).saturating_sub(now.since(then)) >= LONG_PAUSE
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_runs_ahead_tells_of_a_pause() {
        let mut drift = ClockDrift::default();
        for (theirs, ours, behind) in [
            (1000, 5, false),
            (1001, 6, false),
            // This gateway's clock advanced, too.
            (1005, 8, false),
            (1009, 9, true),
            (1010, 10, false),
            // Redis' clock was set back, and this gateway asked late.
            (900, 11, false),
            (910, 21, false),
        ] {
            let now = Nanos::from_secs(ours);
            assert_eq!(drift.detects_pause(Duration::from_secs(theirs), now), behind, "at {ours} s");
        }
    }
}
