//! Which side of a canary a request belongs to, and what became of the requests of each side.
//!
//! A canary is a share of a pool's requests that goes to workers on trial. The counts are plain sums,
//! so those of several gateways can be added up. Durations enter as logarithms: a worker that is
//! slower by half shifts them by the same amount whatever the length of the prompt. They are kept apart
//! by the load that the request met at its worker: the side on trial has less to do, and would
//! otherwise look fast.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

/// The whole, in the unit of [`CanaryShare::per_million`].
pub const WHOLE: u32 = 1_000_000;
/// Separates these hashes from all others of the same ids.
const DOMAIN: u64 = 0x6361_6e61_7279;
/// Shortest and longest duration that is counted, in seconds.
const SHORTEST: f64 = 1e-6;
const LONGEST: f64 = 3600.0;

/// The share of a pool's requests that goes to the workers on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CanaryShare {
    /// Number of the switch that began it. Each canary draws other callers.
    pub epoch: u64,
    /// The share, in millionths.
    pub per_million: u32,
}

impl CanaryShare {
    /// Returns `true` if the session, or the caller, with this hash is in the share. All gateways
    /// agree.
    #[must_use]
    pub fn takes(self, key: u64) -> bool {
        let hash = SipHasher13::new_with_keys(self.epoch, DOMAIN).hash(&key.to_le_bytes());
        hash % u64::from(WHOLE) < u64::from(self.per_million)
    }
}

/// The workers that a request may go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadSide {
    /// All but those on trial.
    #[default]
    Usual,
    /// Those on trial; the others if none of these has room.
    Canary,
    /// Only those on trial.
    OnlyCanary,
    /// All: another condition chooses the worker.
    Any,
    /// All but those on trial, for a request whose failure was counted already.
    Again,
}

impl LoadSide {
    /// Returns the side to which a request that a worker has failed goes next.
    pub(super) const fn elsewhere(self) -> Self {
        match self {
            Self::Any => Self::Any,
            Self::Usual | Self::Canary | Self::OnlyCanary | Self::Again => Self::Again,
        }
    }

    /// Returns `true` if the request may go to a worker that is on trial or, if not `canary`, to one
    /// that is not.
    pub(super) const fn may_take(self, canary: bool) -> bool {
        match self {
            Self::Usual | Self::Again => !canary,
            Self::OnlyCanary => canary,
            Self::Canary | Self::Any => true,
        }
    }

    /// Returns `true` for the canary's share, `false` for the others; `None` if it is not counted.
    pub(super) const fn counts_for_canary(self) -> Option<bool> {
        match self {
            Self::Usual => Some(false),
            Self::Canary | Self::OnlyCanary => Some(true),
            Self::Any | Self::Again => None,
        }
    }
}

/// Number, sum and sum of squares of the natural logarithms of durations in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogMoments {
    /// Number of durations.
    pub count: u64,
    /// Sum of their logarithms.
    pub sum: f64,
    /// Sum of the squares of their logarithms.
    pub squares: f64,
}

impl LogMoments {
    /// Adds a duration, limited to between 1 µs and an hour.
    pub fn record(&mut self, length: Duration) {
        let log = length.as_secs_f64().clamp(SHORTEST, LONGEST).ln();
        self.count += 1;
        self.sum += log;
        self.squares += log * log;
    }

    /// Adds the durations of another.
    pub fn add(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.sum += other.sum;
        self.squares += other.squares;
    }

    /// Returns the mean of the logarithms and the variance of that mean; `None` below two durations.
    #[must_use]
    pub fn mean(&self) -> Option<(f64, f64)> {
        let count = self.count as f64;
        if self.count < 2 {
            return None;
        }
        let mean = self.sum / count;
        let variance = (self.squares - mean * self.sum).max(0.0) / (count - 1.0);
        Some((mean, variance / count))
    }

    /// Returns `true` if durations within the limits can have these sums.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        let (count, most) = (self.count as f64, SHORTEST.ln().abs());
        let within = |value: f64, bound: f64| value.is_finite() && value.abs() <= bound * (1.0 + 1e-9);
        within(self.sum, count * most) && within(self.squares, count * most * most) && self.squares >= 0.0
    }
}

/// Numbers of classes of load: a request alone at its worker, with one more, with up to 4 in all, 8,
/// 16, 32, and beyond.
pub(crate) const LOADS: usize = 7;

/// Durations by the load that the request met at its worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MomentsByLoad(pub [LogMoments; LOADS]);

impl MomentsByLoad {
    /// Adds the duration of a request that was one of `load` sequences at its worker.
    pub fn record(&mut self, load: u32, length: Duration) {
        let class = load.max(1).next_power_of_two().trailing_zeros() as usize;
        if let Some(moments) = self.0.get_mut(class.min(LOADS - 1)) {
            moments.record(length);
        }
    }

    /// Returns the durations at any load.
    #[must_use]
    pub fn total(&self) -> LogMoments {
        self.0.iter().fold(LogMoments::default(), |mut sum, moments| {
            sum.add(moments);
            sum
        })
    }

    /// Halves the classes that have more than `most` durations, so that later ones count for more.
    pub(super) fn fade(&mut self, most: u64) {
        for moments in self.0.iter_mut().filter(|moments| moments.count > most) {
            let kept = (moments.count / 2) as f64 / moments.count as f64;
            moments.count /= 2;
            moments.sum *= kept;
            moments.squares *= kept;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, more)| sum.add(more));
    }

    fn is_plausible(&self) -> bool {
        self.0.iter().all(LogMoments::is_plausible)
    }
}

/// What became of the requests of one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SideCounts {
    /// Answered by a worker of this side.
    pub served: u64,
    /// Of these, answered in time: the first token of a stream within its TTFT SLO.
    pub good: u64,
    /// Failed by a worker of this side or answered with an error, even if another served them later.
    pub failed: u64,
    /// Of the canary's share, served by the other side for want of room.
    pub spilled: u64,
    /// Refused, as no worker had room in time.
    pub refused: u64,
    /// Times to the first token of streams.
    pub ttft: MomentsByLoad,
    /// Times per output token after the first of streams.
    pub pace: MomentsByLoad,
    /// Times per output token of other answers, from the first byte sent to the last received.
    pub whole: MomentsByLoad,
}

impl SideCounts {
    /// Returns the requests that the side was offered and that have ended.
    #[must_use]
    pub const fn offered(&self) -> u64 {
        self.served.saturating_add(self.failed).saturating_add(self.spilled).saturating_add(self.refused)
    }

    /// Returns the requests that workers of the side have answered or failed.
    #[must_use]
    pub const fn answers(&self) -> u64 {
        self.served.saturating_add(self.failed)
    }

    /// Adds the counts of another gateway.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.served, other.served),
            (&mut self.good, other.good),
            (&mut self.failed, other.failed),
            (&mut self.spilled, other.spilled),
            (&mut self.refused, other.refused),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.ttft.add(&other.ttft);
        self.pace.add(&other.pace);
        self.whole.add(&other.whole);
    }

    fn is_plausible(&self) -> bool {
        let moments = [&self.ttft, &self.pace, &self.whole];
        self.good <= self.served
            && moments.iter().all(|moments| moments.is_plausible() && moments.total().count <= self.served)
    }
}

/// What became of the requests of both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CanaryCounts {
    /// The requests outside the share.
    pub usual: SideCounts,
    /// The requests of the share.
    pub canary: SideCounts,
    /// Times per output token of streams of the old side before the canary: at quieter times it had
    /// as little to do as the side on trial.
    pub earlier: MomentsByLoad,
}

impl CanaryCounts {
    /// Adds the counts of another gateway.
    pub fn add(&mut self, other: &Self) {
        self.usual.add(&other.usual);
        self.canary.add(&other.canary);
        self.earlier.add(&other.earlier);
    }

    /// Returns `true` if requests can have led to these counts.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        self.usual.is_plausible() && self.canary.is_plausible() && self.earlier.is_plausible()
    }

    pub(super) const fn side(&mut self, canary: bool) -> &mut SideCounts {
        if canary { &mut self.canary } else { &mut self.usual }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_draws_its_part_of_the_callers_and_others_in_each_canary() {
        let share = CanaryShare { epoch: 3, per_million: 50_000 };
        let drawn = |share: CanaryShare| (0..100_000).filter(move |key| share.takes(*key));
        let count = drawn(share).count();
        assert!((4_700..5_300).contains(&count), "{count} of 100000");
        let next = CanaryShare { epoch: 4, ..share };
        let both = drawn(share).filter(|key| next.takes(*key)).count();
        assert!((150..350).contains(&both), "{both} drawn twice");
        assert_eq!(drawn(CanaryShare { per_million: 0, ..share }).count(), 0);
        assert_eq!(drawn(CanaryShare { per_million: WHOLE, ..share }).count(), 100_000);
    }

    #[test]
    fn the_mean_of_the_sum_is_the_mean_of_all() {
        let of = |millis: &[u64]| {
            let mut moments = LogMoments::default();
            millis.iter().for_each(|length| moments.record(Duration::from_millis(*length)));
            moments
        };
        let (mut one, other) = (of(&[100, 200]), of(&[400]));
        assert_eq!(of(&[100]).mean(), None);
        one.add(&other);
        let (mean, of_mean) = one.mean().unwrap();
        assert!((mean - 0.2_f64.ln()).abs() < 1e-9);
        // The variance of -ln 2, 0 and ln 2 is ln² 2.
        assert!((of_mean - 2.0_f64.ln().powi(2) / 3.0).abs() < 1e-9);
        assert!(one.is_plausible());
    }

    #[test]
    fn loads_are_classed_by_powers_of_two() {
        for (load, class) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (32, 5), (33, 6), (9999, 6)] {
            let mut moments = MomentsByLoad::default();
            moments.record(load, Duration::from_secs(1));
            assert_eq!((moments.0[class].count, moments.total().count), (1, 1), "{load}");
        }
    }

    #[test]
    fn counts_that_no_requests_can_have_are_not_plausible() {
        let fine = SideCounts { served: 2, good: 1, ..SideCounts::default() };
        let moments = |count, sum, squares| {
            let mut all = MomentsByLoad::default();
            all.0[2] = LogMoments { count, sum, squares };
            all
        };
        for (side, plausible) in [
            (fine, true),
            (SideCounts { good: 3, ..fine }, false),
            (SideCounts { ttft: moments(3, 0.0, 0.0), ..fine }, false),
            (SideCounts { ttft: moments(2, -4.0, 8.0), ..fine }, true),
            (SideCounts { pace: moments(2, 1e9, 8.0), ..fine }, false),
            (SideCounts { whole: moments(2, 1.0, f64::NAN), ..fine }, false),
            (SideCounts { whole: moments(2, 1.0, -1.0), ..fine }, false),
        ] {
            assert_eq!(CanaryCounts { canary: side, ..CanaryCounts::default() }.is_plausible(), plausible);
        }
    }
}
