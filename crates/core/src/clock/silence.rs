//! How long a peer may be silent while this process is late itself.

use std::time::Duration;

use super::{Lag, Nanos};

/// Last answer of a peer that is asked again and again.
///
/// A timeout while this process was late says little: the answer may be there, unread. But a process
/// that is late now and then would excuse each timeout, and keep a dead connection for ever. So it
/// excuses them only until the peer has been silent for longer than it may, without own pauses.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    last: Nanos,
    longest: Duration,
}

impl Silence {
    /// Starts at `now`, as if the peer had answered. It may be silent for `longest`.
    #[must_use]
    pub const fn new(now: Nanos, longest: Duration) -> Self {
        Self { last: now, longest }
    }

    /// Records an answer at `now`.
    pub fn answered(&mut self, now: Nanos) {
        self.last = now;
    }

    /// Returns `true` if a question of `asked` that timed out at `now` is no evidence against the
    /// peer.
    #[must_use]
    pub fn is_excused(&self, asked: Nanos, now: Nanos, lag: &Lag) -> bool {
        let was_late = lag.overlap(asked, now) > Duration::ZERO;
        was_late && now.since(self.last).saturating_sub(lag.overlap(self.last, now)) <= self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Nanos {
        Nanos::from_millis(millis)
    }

    /// Ticks from `from` until `to`, in milliseconds, with a pause of 80 ms in every 700 ms.
    fn limp(lag: &Lag, from: u64, to: u64) {
        let mut tick = from;
        while tick < to {
            tick += if (tick - from) % 700 < 620 { 10 } else { 90 };
            lag.tick(at(tick));
        }
    }

    #[test]
    fn short_pauses_excuse_no_long_silence() {
        let lag = Lag::default();
        let mut silence = Silence::new(at(0), Duration::from_secs(2));
        limp(&lag, 0, 60_000);
        silence.answered(at(50_000));
        // Each second one question times out.
        let excused: Vec<bool> = (51..58)
            .map(|second| silence.is_excused(Nanos::from_secs(second - 1), Nanos::from_secs(second), &lag))
            .collect();
        assert_eq!(excused, [true, true, false, false, false, false, false]);
        silence.answered(at(57_500));
        assert!(silence.is_excused(at(57_500), at(58_500), &lag), "it has answered again");
    }

    #[test]
    fn a_pause_excuses_the_question_that_it_hit() {
        let lag = Lag::default();
        let silence = Silence::new(at(1000), Duration::from_secs(2));
        for tick in (0..=1100).step_by(10).chain((2900..=6000).step_by(10)) {
            lag.tick(at(tick));
        }
        assert!(silence.is_excused(at(1000), at(2900), &lag), "a pause of 1.8 s");
        assert!(!silence.is_excused(at(2900), at(3900), &lag), "it was on time");
        assert!(!silence.is_excused(at(1000), at(5000), &lag), "silent for 2.2 s more");
    }
}
