//! Retry spread: the number of clients that were recently told to retry.
//!
//! A freed place is room for one request. If all clients refused in the last moments got the same
//! retry time, they would return together, and all but the first would be refused again. So the
//! times spread over the period in which three of four freed places suffice for all of them; the
//! fourth is for new requests. The number decays: a client that left for good is soon forgotten,
//! and a gate that refused a single caller tells it the plain time.
//!
//! At the start of a peak the spread grows with each refusal. Times drawn evenly would bring most
//! clients back in the next moments: early times are in every client's spread, late ones only in
//! that of the last. So while the number grows, later times are drawn more often, and the returns
//! come at an even pace. Once it no longer grows, all times are drawn alike.

use crate::clock::Nanos;

/// Seconds after which a refusal counts 1/e.
///
/// In the simulation of `storm-and-calm-told.yaml` (storms of 2 s at five times the load, each
/// followed by a calm) 94 % of the returning clients are admitted, after an advised 2.9 s on
/// average. Without a share for new requests and with even draws, 5 s admit 88 %, after 2.2 s.
const MEMORY: f64 = 4.0;
/// Share of the freed places for returning clients.
const FOR_RETURNS: f64 = 0.75;
/// Like [`MEMORY`], but for the latest refusals, which show whether the number grows.
const RECENT: f64 = 2.0;

/// Recent refusals, weighted less with age.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RetrySpread {
    refused: f64,
    recent: f64,
    at: Nanos,
}

impl RetrySpread {
    /// Counts one more client that is told to retry. Returns the number of places to be freed until
    /// there is room for those told before, beside new requests.
    pub(super) fn record_refusal(&mut self, now: Nanos) -> u64 {
        let passed = now.since(self.at).as_secs_f64();
        self.refused = self.refused * (-passed / MEMORY).exp() + 1.0;
        self.recent = self.recent * (-passed / RECENT).exp() + 1.0;
        self.at = now;
        ((self.refused - 1.0) / FOR_RETURNS) as u64
    }

    /// Maps `uniform`, an even draw from 0 to 1, to a position in the spread, 0 to 1.
    pub(super) fn position(&self, uniform: f64) -> f64 {
        // This is 1 at a steady pace, and a half at the start of a peak.
        let grown = (self.refused / MEMORY) / (self.recent / RECENT).max(f64::MIN_POSITIVE);
        uniform.powf(grown.clamp(0.5, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> Nanos {
        Nanos::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn old_refusals_count_less() {
        let mut retry_spread = RetrySpread::default();
        assert_eq!(retry_spread.record_refusal(at(100_000)), 0);
        let many = (0..99).map(|_| retry_spread.record_refusal(at(100_000))).last();
        assert_eq!(many, Some(132), "four thirds of those before");
        assert_eq!(retry_spread.record_refusal(at(104_000)), 49, "four thirds of 100/e");
        assert_eq!(retry_spread.record_refusal(at(200_000)), 0);
    }

    #[test]
    fn a_growing_crowd_comes_back_late_and_a_steady_one_evenly() {
        let mut retry_spread = RetrySpread::default();
        (0..100).for_each(|i| _ = retry_spread.record_refusal(at(i * 10)));
        assert!(
            (0.44..=0.5).contains(&retry_spread.position(0.25)),
            "after a second: {}",
            retry_spread.position(0.25)
        );
        (100..3000).for_each(|i| _ = retry_spread.record_refusal(at(i * 10)));
        assert!(
            (retry_spread.position(0.25) - 0.25).abs() < 0.01,
            "after thirty: {}",
            retry_spread.position(0.25)
        );
        assert!(retry_spread.position(0.0) >= 0.0 && retry_spread.position(1.0) <= 1.0);
    }
}
