//! The judge of a canary: promotes the side on trial, or sends the pool back to the old side.
//!
//! It compares the requests of both sides, each as a share of those that the side was offered. A
//! difference counts if it exceeds a tolerance by more than chance explains.
//!
//! | compared | tolerance |
//! | --- | --- |
//! | failed requests | one percentage point more |
//! | good answers (in time, complete) | five percentage points fewer |
//! | times to the first token, times per token | 10 % longer, in the geometric mean |
//!
//! Times depend on load, and the side on trial usually has less of it. So times are only compared
//! between requests that met a similar number of others at their worker. Times per token of the old
//! side from before the trial count too. If the old side never had as little load as the new one, the
//! times cannot be compared and there is no promotion; but if the new side is slower even with less
//! load, the pool goes back.
//!
//! "More than chance" means `CERTAIN` standard errors. The trial lasts until both sides have
//! `ENOUGH` answers, at least the time asked for and at most [`LONGEST`] times that. If a side then
//! has fewer than [`LEAST`] requests, it is not judged, and the pool goes back.
//!
//! * **Failure mode.** Without counts there is no promotion.
//! * **Trade-off.** Requests of one session resemble each other, so few sessions with many requests
//!   look more certain than they are; the tolerances allow for that.

use std::time::Duration;

use crate::shed::{CanaryCounts, LogMoments, MomentsByLoad, SideCounts};

/// Number of answers of each side at which they are judged.
pub(crate) const ENOUGH: u64 = 200;
/// Smallest number of requests with which a side is judged at all.
pub const LEAST: u64 = 100;
/// Longest duration of a trial, as a multiple of the one asked for.
pub const LONGEST: u32 = 5;
/// Standard errors beyond the tolerance from which a difference counts: the one-sided 5 % level of
/// the normal distribution.
pub(crate) const CERTAIN: f64 = 1.645;
/// The same before the time asked for is over. It is higher because this test is repeated every
/// second, and only clear harm should end a trial early.
pub(crate) const CERTAIN_EARLY: f64 = 5.0;
/// Number of answers of each side from which a trial may end early.
const ENOUGH_EARLY: u64 = 50;

/// Tolerated difference in the share of failed requests.
const FAILURES: f64 = 0.01;
/// Tolerated difference in the share of good answers.
const GOODPUT: f64 = 0.05;
/// Tolerated factor between the durations.
const SLOWER: f64 = 1.1;
/// Smallest number of durations of each side that are compared.
const DURATIONS: u64 = 30;
/// Smallest number of durations of each side that are compared at one load.
const DURATIONS_OF_LOAD: u64 = 10;

/// The judge's decision.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Not yet.
    Wait,
    /// The side on trial is no worse.
    Promote,
    /// It is worse, with the reason as a sentence.
    Worse(String),
    /// There was too little to compare, with the reason as a sentence.
    NoData(String),
}

/// Judges a canary that has run for `elapsed`, of the `duration` that was asked for.
#[must_use]
pub fn judge(counts: &CanaryCounts, elapsed: Duration, duration: Duration) -> Verdict {
    let (old, new) = (&counts.usual, &counts.canary);
    let answers = old.answers().min(new.answers());
    let over = elapsed >= duration.saturating_mul(LONGEST);
    let comparable = are_comparable(counts);
    if elapsed < duration || ((answers < ENOUGH || !comparable) && !over) {
        return match worse(counts, CERTAIN_EARLY).filter(|_| answers >= ENOUGH_EARLY) {
            Some(why) => Verdict::Worse(why),
            None => Verdict::Wait,
        };
    }
    let offered = old.offered().min(new.offered());
    if offered < LEAST {
        return Verdict::NoData(format!(
            "the old side had {} requests and the new one {}; at least {LEAST} each are needed",
            old.offered(),
            new.offered()
        ));
    }
    match worse(counts, CERTAIN) {
        Some(why) => Verdict::Worse(why),
        None if !comparable => Verdict::NoData(
            "the old side never had as little to do as the new one, so that their times cannot be compared; \
             try a larger share, or a quieter time"
                .to_owned(),
        ),
        None => Verdict::Promote,
    }
}

/// The kinds of times that are compared: the new side's, and the old side's.
fn times(counts: &CanaryCounts) -> [(&'static str, &MomentsByLoad, MomentsByLoad); 3] {
    let (old, new) = (&counts.usual, &counts.canary);
    let mut pace = old.pace;
    pace.add(&counts.earlier);
    [
        ("time to the first token", &new.ttft, old.ttft),
        ("time per token of streams", &new.pace, pace),
        ("time per token of other answers", &new.whole, old.whole),
    ]
}

/// Returns `true` if enough requests of both sides met the same load, or if there are too few times
/// for any comparison.
fn are_comparable(counts: &CanaryCounts) -> bool {
    let times = times(counts);
    let enough = |(_, new, old): &(_, &MomentsByLoad, MomentsByLoad)| {
        fewer_durations(&differences_by_load(old, new)) >= DURATIONS
    };
    times.iter().any(enough)
        || times.iter().all(|(_, new, old)| new.total().count.min(old.total().count) < DURATIONS)
}

/// Returns what is worse at the new side by more than chance, as a sentence; `None` if nothing is.
fn worse(counts: &CanaryCounts, certain: f64) -> Option<String> {
    let (old, new) = (&counts.usual, &counts.canary);
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let failed = Share::of(new.failed, new.offered()).zip(Share::of(old.failed, old.offered()));
    if let Some((new, old)) = failed.filter(|(new, old)| new.exceeds(old, FAILURES, certain)) {
        return Some(format!(
            "{} of its requests failed, {} on the old side",
            percent(new.share),
            percent(old.share)
        ));
    }
    let missed = |side: &SideCounts| side.offered().saturating_sub(side.good);
    let bad = Share::of(missed(new), new.offered()).zip(Share::of(missed(old), old.offered()));
    if let Some((new, old)) = bad.filter(|(new, old)| new.exceeds(old, GOODPUT, certain)) {
        return Some(format!(
            "{} of its requests got good answers, {} on the old side",
            percent(1.0 - new.share),
            percent(1.0 - old.share)
        ));
    }
    times(counts).into_iter().find_map(|(what, new, old)| {
        let factor = slower(&old, new, certain)?;
        Some(format!("its {what} is {factor:.2} times that of the old side"))
    })
}

/// A share, and its variance.
#[derive(Clone, Copy)]
struct Share {
    share: f64,
    variance: f64,
}

impl Share {
    fn of(part: u64, whole: u64) -> Option<Self> {
        if whole == 0 {
            return None;
        }
        let (part, whole) = (part as f64, whole as f64);
        // One more request of each kind (Laplace), so that a share of 0 or 1 has a variance too.
        let likely = (part + 1.0) / (whole + 2.0);
        Some(Self { share: part / whole, variance: likely * (1.0 - likely) / whole })
    }

    /// Returns `true` if it exceeds `other` by more than `tolerated` and by more than chance.
    fn exceeds(&self, other: &Self, tolerated: f64, certain: f64) -> bool {
        let beyond = self.share - other.share - tolerated;
        beyond > certain * (self.variance + other.variance).sqrt()
    }
}

/// Returns the factor between the new durations and the old ones, if it is more than tolerated.
fn slower(old: &MomentsByLoad, new: &MomentsByLoad, certain: f64) -> Option<f64> {
    let by_load = differences_by_load(old, new);
    let (old, new) = (old.total(), new.total());
    if old.count.min(new.count) < DURATIONS {
        return None;
    }
    let (longer, variance) = if fewer_durations(&by_load) >= DURATIONS {
        combined(&by_load)
    } else {
        combined(&[difference(&old, &new)?])
    };
    (longer - SLOWER.ln() > certain * variance.sqrt()).then(|| longer.exp())
}

/// Returns the difference at each load that both sides have met often enough.
fn differences_by_load(old: &MomentsByLoad, new: &MomentsByLoad) -> Vec<Difference> {
    let both = old.0.iter().zip(&new.0).filter(|(old, new)| old.count.min(new.count) >= DURATIONS_OF_LOAD);
    both.filter_map(|(old, new)| difference(old, new)).collect()
}

/// Returns the number of durations behind `differences`, of the side that has fewer at each load.
fn fewer_durations(differences: &[Difference]) -> u64 {
    differences.iter().map(|difference| difference.fewer).sum()
}

/// Difference of the mean logarithms of two sides.
struct Difference {
    longer: f64,
    variance: f64,
    /// Number of durations of the side that has fewer.
    fewer: u64,
    /// Weight among the differences: the inverse of its variance if all durations had the same one.
    weight: f64,
}

fn difference(old: &LogMoments, new: &LogMoments) -> Option<Difference> {
    let ((old_mean, old_variance), (new_mean, new_variance)) = old.mean().zip(new.mean())?;
    let (few, many) = (old.count.min(new.count) as f64, old.count.max(new.count) as f64);
    Some(Difference {
        longer: new_mean - old_mean,
        variance: old_variance + new_variance,
        fewer: old.count.min(new.count),
        weight: few * many / (few + many),
    })
}

/// Returns the weighted mean of differences, and its variance.
fn combined(differences: &[Difference]) -> (f64, f64) {
    let whole: f64 = differences.iter().map(|difference| difference.weight).sum();
    differences.iter().fold((0.0, 0.0), |(longer, variance), difference| {
        let weight = difference.weight / whole;
        (longer + weight * difference.longer, variance + weight * weight * difference.variance)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUDGE: Duration = Duration::from_secs(120);

    /// Counts of `offered` requests of which `failed` failed, with a TTFT of `ttft` ms ± 33 %.
    fn side(offered: u64, failed: u64, ttft: u64) -> SideCounts {
        let served = offered - failed;
        let mut side = SideCounts { served, good: served, failed, ..SideCounts::default() };
        for number in 0..served {
            side.ttft.record(1, Duration::from_millis(ttft * (67 + number % 67) / 100));
        }
        side
    }

    fn after(usual: SideCounts, canary: SideCounts, seconds: u64) -> Verdict {
        let counts = CanaryCounts { usual, canary, ..CanaryCounts::default() };
        judge(&counts, Duration::from_secs(seconds), JUDGE)
    }

    #[test]
    fn the_number_of_answers_decides_and_not_the_seconds() {
        let (old, new) = (side(4000, 0, 300), |count| side(count, 0, 300));
        assert_eq!(after(old, new(5000), 119), Verdict::Wait);
        assert_eq!(after(old, new(199), 120), Verdict::Wait);
        assert_eq!(after(old, new(200), 120), Verdict::Promote);
        assert_eq!(after(old, new(199), 599), Verdict::Wait);
        assert_eq!(after(old, new(199), 600), Verdict::Promote);
        assert_eq!(after(old, new(100), 600), Verdict::Promote);
        for (usual, canary) in [(old, new(99)), (new(99), old), (side(0, 0, 1), side(0, 0, 1))] {
            assert!(matches!(after(usual, canary, 600), Verdict::NoData(_)));
        }
    }

    #[test]
    fn each_kind_of_harm_is_named() {
        let old = side(4000, 8, 300);
        let late = SideCounts { good: 160, ..side(200, 0, 300) };
        let full = SideCounts { spilled: 60, refused: 20, ..side(200, 0, 300) };
        for (new, says) in [
            (side(200, 20, 300), "10.0 % of its requests failed, 0.2 % on the old side"),
            (late, "80.0 % of its requests got good answers"),
            (full, "71.4 % of its requests got good answers"),
            (side(200, 0, 450), "time to the first token is 1.50 times"),
        ] {
            let Verdict::Worse(why) = after(old, new, 120) else { panic!("{says}") };
            assert!(why.contains(says), "{why}");
        }
        let pace = |millis: u64| {
            let mut side = side(200, 0, 300);
            (0..200).for_each(|number| side.pace.record(1, Duration::from_millis(millis + number % 5)));
            (side.whole, side.ttft) = (side.pace, MomentsByLoad::default());
            side
        };
        assert!(matches!(after(pace(20), pace(30), 120), Verdict::Worse(why) if why.contains("per token")));
        assert_eq!(after(pace(20), pace(20), 120), Verdict::Promote);
    }

    #[test]
    fn times_are_compared_at_the_same_load() {
        // The old side is slower the more it has to do; the new one is slower by half, and idle.
        let at_loads = |counts: [u64; 3], factor: u64| {
            let mut side = SideCounts { served: 4000, good: 4000, ..SideCounts::default() };
            for (load, (count, millis)) in [1, 4, 8].into_iter().zip(counts.into_iter().zip([100, 200, 400]))
            {
                for number in 0..count {
                    let millis = millis * factor * (90 + number % 21) / 10_000;
                    side.ttft.record(load, Duration::from_millis(millis));
                }
            }
            side
        };
        let old = at_loads([40, 1000, 2000], 100);
        assert_eq!(after(old, at_loads([200, 0, 0], 100), 120), Verdict::Promote);
        assert!(matches!(
            after(old, at_loads([200, 0, 0], 150), 120),
            Verdict::Worse(why) if why.contains("1.50 times")
        ));
        // The old side is never idle, so there is nothing to compare with, unless it was idle before.
        let (busy, idle) = (at_loads([0, 1000, 2000], 100), at_loads([200, 0, 0], 150));
        assert_eq!(after(busy, idle, 599), Verdict::Wait);
        assert!(matches!(after(busy, idle, 600), Verdict::NoData(why) if why.contains("as little to do")));
        let with_pace = |mut side: SideCounts| {
            side.pace = side.ttft;
            side
        };
        let earlier = at_loads([40, 0, 0], 100).ttft;
        let once = CanaryCounts { usual: with_pace(busy), canary: with_pace(idle), earlier };
        assert!(matches!(
            judge(&once, JUDGE, JUDGE),
            Verdict::Worse(why) if why.contains("time per token of streams is 1.50 times")
        ));
    }

    #[test]
    fn what_is_tolerated_or_may_be_chance_is_no_reason_to_go_back() {
        let old = side(4000, 40, 300);
        for new in [side(200, 3, 300), side(200, 5, 300), side(200, 0, 320), side(200, 0, 200)] {
            assert_eq!(after(old, new, 120), Verdict::Promote);
        }
    }

    #[test]
    fn a_side_that_fails_everything_is_left_before_the_time_is_over() {
        let old = side(1000, 0, 300);
        assert_eq!(after(old, side(49, 49, 300), 10), Verdict::Wait);
        assert!(matches!(after(old, side(50, 50, 300), 10), Verdict::Worse(_)));
        // Less certain: the trial goes on for the time asked for.
        assert_eq!(after(old, side(60, 6, 300), 10), Verdict::Wait);
    }
}
