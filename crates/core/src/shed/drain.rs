//! How fast a pool releases its permits.
//!
//! By Little's law, the permits released per second are the sequences in flight divided by the mean
//! hold time. Counting completions gives the same for a full pool, but for a half-empty one it
//! measures the offered load instead of the capacity.

use std::time::Duration;

use crate::clock::Nanos;

/// Once this many hold times are seen, a new one has weight 1 / this; before, all weigh the same.
const MEMORY: u32 = 32;

/// If permits were released at random at the estimated rate, this many mean gaps would pass without
/// a release only once in twenty (e⁻³). A longer gap means that the estimate is now too high.
const SILENCE: f64 = 3.0;

/// Estimate of one pool's release rate.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DrainEstimate {
    /// Seconds.
    mean_hold: f64,
    seen: u32,
    /// Last grant or release: a full pool has granted none since its last release.
    last: Nanos,
}

impl DrainEstimate {
    pub(super) fn granted(&mut self, now: Nanos) {
        self.last = now;
    }

    /// Records the release of a permit that was held for `held`.
    pub(super) fn freed(&mut self, held: Duration, now: Nanos) {
        self.seen = (self.seen + 1).min(MEMORY);
        // A hold time of zero would make the rate infinite.
        let held = held.as_secs_f64().max(1e-6);
        self.mean_hold += (held - self.mean_hold) / f64::from(self.seen);
        self.last = now;
    }

    /// Returns the sequences released per second with `in_flight` held; `None` before any sample.
    pub(super) fn rate(&self, in_flight: u64, now: Nanos) -> Option<f64> {
        if self.seen == 0 {
            return None;
        }
        let expected = in_flight.max(1) as f64 / self.mean_hold;
        let silent = now.since(self.last).as_secs_f64().max(1e-9);
        Some(expected.min(SILENCE / silent))
    }

    pub(super) fn time_to_free(&self, sequences: u64, in_flight: u64, now: Nanos) -> Option<Duration> {
        let seconds = sequences as f64 / self.rate(in_flight, now)?;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}
