//! The number of clients told to come back of late.
//!
//! Room that becomes free is room for one. If everybody who was refused in the last moments heard the same
//! time, they would come back together, and all but the first would be refused again. So the advice spreads
//! them over the time in which three of four freed seats are enough for all of them; the fourth is for new
//! requests. The number fades by itself: a client that went away for good is forgotten after a moment, and a
//! gate that refused one caller alone tells it the time and nothing more.
//!
//! At the start of a peak the spread grows with each refusal. Times drawn evenly from it would bring most
//! clients back in the next moments, because the early times are in everybody's spread and the late ones only
//! in that of the last. So while the crowd grows, later times are drawn more often, and the returns come at
//! an even pace. Once the crowd is as large as it gets, all times are drawn alike.

use crate::clock::Nanos;

/// Seconds after which a refusal counts for 1/e.
///
/// In the simulation of `storm-and-calm-told.toml` (storms of 2 s at five times the load, each followed by a
/// calm) 94 % of those who return are admitted, after 2.9 s that they were told on average. Without a share
/// for new requests and with times drawn evenly, 5 s admit 88 %, after 2.2 s.
const MEMORY: f64 = 4.0;
/// The part of the freed seats that is left for those who return.
const FOR_RETURNS: f64 = 0.75;
/// The same for the most recent refusals, which show whether the crowd grows.
const RECENT: f64 = 2.0;

/// The refusals of late, each the less the longer it is ago.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Crowd {
    told: f64,
    recent: f64,
    at: Nanos,
}

impl Crowd {
    /// Counts one more client that is told to come back. Returns the number of seats to be freed until there
    /// is room for those who were told before, beside new requests.
    pub(super) fn joined(&mut self, now: Nanos) -> u64 {
        let passed = now.since(self.at).as_secs_f64();
        self.told = self.told * (-passed / MEMORY).exp() + 1.0;
        self.recent = self.recent * (-passed / RECENT).exp() + 1.0;
        self.at = now;
        ((self.told - 1.0) / FOR_RETURNS) as u64
    }

    /// Turns `uniform`, an even draw from 0 to 1, into a place within the spread, 0 to 1.
    pub(super) fn place(&self, uniform: f64) -> f64 {
        // At a steady pace this is 1; at the start of a peak it is a half.
        let grown = (self.told / MEMORY) / (self.recent / RECENT).max(f64::MIN_POSITIVE);
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
    fn a_crowd_is_those_of_late() {
        let mut crowd = Crowd::default();
        assert_eq!(crowd.joined(at(100_000)), 0);
        let many = (0..99).map(|_| crowd.joined(at(100_000))).last();
        assert_eq!(many, Some(132), "four seats for three");
        assert_eq!(crowd.joined(at(104_000)), 49, "four thirds of 100/e");
        assert_eq!(crowd.joined(at(200_000)), 0);
    }

    #[test]
    fn a_growing_crowd_comes_back_late_and_a_steady_one_evenly() {
        let mut crowd = Crowd::default();
        (0..100).for_each(|i| _ = crowd.joined(at(i * 10)));
        assert!((0.44..=0.5).contains(&crowd.place(0.25)), "after a second: {}", crowd.place(0.25));
        (100..3000).for_each(|i| _ = crowd.joined(at(i * 10)));
        assert!((crowd.place(0.25) - 0.25).abs() < 0.01, "after thirty: {}", crowd.place(0.25));
        assert!(crowd.place(0.0) >= 0.0 && crowd.place(1.0) <= 1.0);
    }
}
