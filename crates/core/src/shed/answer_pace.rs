//! How long a worker takes for answers that are not streamed.

use std::time::Duration;

/// Non-streamed answers after which older ones weigh about a third.
const MEMORY: f64 = 32.0;

/// Duration of a worker's non-streamed answers: decaying sums.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    seconds: f64,
    tokens: f64,
}

impl Pace {
    /// Records that a non-streamed answer of `tokens` took `elapsed`.
    pub(super) fn learn(&mut self, elapsed: Duration, tokens: u64) {
        if tokens > 0 {
            let keep = 1.0 - 1.0 / MEMORY;
            self.seconds = self.seconds * keep + elapsed.as_secs_f64();
            self.tokens = self.tokens * keep + tokens as f64;
        }
    }

    /// Returns how long an answer of `tokens` takes, prefill included.
    pub(super) fn whole(&self, tokens: u64) -> Option<Duration> {
        let seconds = (self.tokens > 0.0).then(|| self.seconds / self.tokens * tokens as f64)?;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}
