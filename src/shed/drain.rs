//! How fast a pool frees its seats.
//!
//! By Little's law the seats freed per second are the sequences in flight divided by the mean time that a seat is
//! held. Counting completions per second would say the same of a full pool, but of a half-empty one it would measure
//! how much was offered instead of how much could be served.

use std::time::Duration;

use crate::clock::Nanos;

/// Weight of a new hold time is 1 / this, once so many have been seen; before that all count alike.
const MEMORY: u32 = 32;

/// If seats were freed at random at the estimated rate, so many mean gaps would pass without one only once in
/// twenty (e⁻³). A longer silence says that the estimate has become too high.
const SILENCE: f64 = 3.0;

/// The estimate of one pool.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Drain {
    /// Seconds.
    mean_hold: f64,
    seen: u32,
    /// When a seat was last granted or freed: a full pool has granted none since it last freed one.
    last: Nanos,
}

impl Drain {
    /// A seat was granted at `now`.
    pub(super) fn granted(&mut self, now: Nanos) {
        self.last = now;
    }

    /// A seat was freed at `now` after `held`.
    pub(super) fn freed(&mut self, held: Duration, now: Nanos) {
        self.seen = (self.seen + 1).min(MEMORY);
        // A hold of no time at all would make the rate infinite.
        let held = held.as_secs_f64().max(1e-6);
        self.mean_hold += (held - self.mean_hold) / f64::from(self.seen);
        self.last = now;
    }

    /// Sequences freed per second while `in_flight` are held; `None` before anything was measured.
    pub(super) fn rate(&self, in_flight: u64, now: Nanos) -> Option<f64> {
        if self.seen == 0 {
            return None;
        }
        let expected = in_flight.max(1) as f64 / self.mean_hold;
        let silent = now.since(self.last).as_secs_f64().max(1e-9);
        Some(expected.min(SILENCE / silent))
    }

    /// The time in which `sequences` are freed while `in_flight` are held.
    pub(super) fn time_to_free(&self, sequences: u64, in_flight: u64, now: Nanos) -> Option<Duration> {
        let seconds = sequences as f64 / self.rate(in_flight, now)?;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}
