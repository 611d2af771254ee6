//! Measures how a pool scales with its workers: the factor of the ceiling base · factor · N.
//!
//! A window counts if the pool was saturated (at its knee) throughout: the same workers, nearly as
//! much in flight as allowed. The tokens streamed then are the capacity X(N) of N workers. The best
//! window of each N is kept, since every disturbance (long prompts, a half-open worker, a pause)
//! lowers it. If one worker alone was measured, the factor is the mean of X(N) / (N · X(1)).
//! Otherwise X(1) comes from the Universal Scalability Law, fitted to two or more sizes by least
//! squares: the ceiling's formula alone could not separate base from factor.
//!
//! **Failure mode.** Workers, and the work at each size, are assumed to be alike; if they are not,
//! the factor is wrong. If the ceiling keeps workers below their capacity, the factor is too low:
//! it measures the ceiling, not the workers. An X(1) that is fitted and not measured misses the
//! loss between one and two workers, so it causes no warning.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::scaling_law::{FleetGoodput, LinearModel, Usl};
use crate::clock::Nanos;
use crate::shed::GateSnapshot;

/// Length of a window: enough for thousands of tokens, short enough to stay saturated.
const WINDOW: Duration = Duration::from_secs(10);
/// Longest time between two observations of a window; nothing is known of a longer gap.
const GAP: Duration = Duration::from_secs(3);
/// Share of the allowed load that counts as saturated: freed permits take time to be reused.
const KNEE: f64 = 0.9;
/// Largest pool that is measured; bounds the memory.
const MOST_WORKERS: usize = 64;
/// Age limit of data: fleet sizes recur daily, and older data may be of another model.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Difference, relative to the configured factor, that causes no warning.
const TOLERANCE: f64 = 0.1;
/// Least weight of a worker that counts as one of the alike workers.
const WHOLE: f64 = 0.99;

/// An observation of a saturated pool.
#[derive(Clone, Debug, PartialEq)]
pub struct KneeSample {
    workers: Vec<Arc<str>>,
    streamed: u64,
}

impl KneeSample {
    /// Observes a pool; `None` if it is not saturated, or if workers without new work are busy.
    #[must_use]
    pub fn at(gate: &GateSnapshot) -> Option<Self> {
        let (mut workers, mut streamed) = (Vec::new(), 0);
        let (mut in_flight, mut limit) = (0.0, 0.0);
        for worker in &gate.workers {
            if worker.eligible && worker.reachable && worker.weight >= WHOLE {
                workers.push(Arc::clone(&worker.id));
                streamed += worker.streamed;
                in_flight += f64::from(worker.in_flight);
                limit += f64::from(worker.limit);
            } else if worker.in_flight > 0 || (worker.eligible && worker.weight > 0.0) {
                return None;
            }
        }
        let room = gate.ceiling.map_or(limit, |ceiling| limit.min(ceiling));
        let counts = (1..=MOST_WORKERS).contains(&workers.len()) && in_flight >= KNEE * room;
        counts.then_some(Self { workers, streamed })
    }
}

/// A measured factor.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasuredFactor {
    /// Throughput of several workers together, relative to the sum of each alone.
    pub factor: f64,
    /// Numbers of workers that were measured.
    pub sizes: Vec<u32>,
}

/// Measurements of one pool.
#[derive(Debug, Default)]
pub struct Scaling {
    /// Highest tokens per second by number of workers, and when it was measured.
    best: BTreeMap<u32, (f64, Nanos)>,
    window: Option<ScalingWindow>,
    /// Factors of the last warning: configured, and measured.
    warned: Option<(f64, f64)>,
}

#[derive(Debug)]
struct ScalingWindow {
    began: Nanos,
    ends: Nanos,
    first: KneeSample,
}

impl Scaling {
    /// Adds an observation of the pool; `None` if it is not saturated.
    pub fn look(&mut self, look: Option<KneeSample>, now: Nanos) {
        self.best.retain(|_, (_, at)| now.since(*at) < KEPT);
        let before = self.window.take();
        let Some(look) = look else { return };
        let goes_on = |window: &ScalingWindow| {
            now.since(window.ends) <= GAP
                && window.first.workers == look.workers
                && window.first.streamed <= look.streamed
        };
        let Some(window) = before.filter(goes_on) else {
            self.window = Some(ScalingWindow { began: now, ends: now, first: look });
            return;
        };
        let took = now.since(window.began);
        if took < WINDOW {
            self.window = Some(ScalingWindow { ends: now, ..window });
            return;
        }
        let rate = (look.streamed - window.first.streamed) as f64 / took.as_secs_f64();
        // At most `MOST_WORKERS`.
        let best = self.best.entry(look.workers.len() as u32).or_default();
        if rate > best.0 {
            *best = (rate, now);
        }
        self.window = Some(ScalingWindow { began: now, ends: now, first: look });
    }

    /// Returns the factor; `None` until two sizes were measured.
    #[must_use]
    pub fn measured(&self) -> Option<MeasuredFactor> {
        let seen = self.best.iter().filter(|(_, (rate, _))| *rate > 0.0);
        let (sizes, points): (Vec<u32>, Vec<FleetGoodput>) =
            seen.map(|(size, (rate, _))| (*size, (f64::from(*size), *rate))).unzip();
        let factor = match sizes.first()? {
            1 => LinearModel::fit(&points).ok()?.factor,
            _ => {
                // X(1) as fitted, beside the measured points.
                let alone = (1.0, Usl::fit(&points).ok()?.at(1.0));
                let all: Vec<FleetGoodput> = points.into_iter().chain([alone]).collect();
                LinearModel::fit(&all).ok()?.factor
            }
        };
        Some(MeasuredFactor { factor, sizes })
    }

    /// Returns the factor if a warning is due: one worker alone was measured, and the factor
    /// differs too much from both the configured one and that of the last warning.
    pub fn warning_due(&mut self, configured: f64) -> Option<MeasuredFactor> {
        let measured = self.measured().filter(|measured| measured.sizes.first() == Some(&1))?;
        let far = |from: f64| (measured.factor - from).abs() > TOLERANCE * configured;
        let news = self.warned.is_none_or(|(then, factor)| then != configured || far(factor));
        if !news || !far(configured) {
            return None;
        }
        self.warned = Some((configured, measured.factor));
        Some(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shed::WorkerSnapshot;

    /// Returns a pool in which each worker may have ten sequences.
    fn gate(workers: usize, in_flight: u32, streamed: u64) -> GateSnapshot {
        let worker = |index| WorkerSnapshot {
            id: format!("w{index}").into(),
            in_flight,
            limit: 10,
            streamed,
            eligible: true,
            reachable: true,
            weight: 1.0,
            ..WorkerSnapshot::default()
        };
        GateSnapshot { workers: (0..workers).map(worker).collect(), ..GateSnapshot::default() }
    }

    /// Observes saturated pools of these numbers of workers for 21 s each, one after the other.
    /// Each streams `rate` tokens per second in total.
    fn seen(courses: &[(usize, f64)]) -> Scaling {
        let mut scaling = Scaling::default();
        for (course, (workers, rate)) in courses.iter().enumerate() {
            for second in 0..=21 {
                let streamed = (rate / *workers as f64 * second as f64) as u64;
                let now = Nanos::from_millis((course as u64 * 22 + second) * 1000);
                scaling.look(KneeSample::at(&gate(*workers, 10, streamed)), now);
            }
        }
        scaling
    }

    fn factor(scaling: &Scaling) -> f64 {
        scaling.measured().map_or(f64::NAN, |measured| measured.factor)
    }

    fn close(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-3
    }

    #[test]
    fn the_factor_is_what_several_give_of_what_one_gives() {
        let scaling = seen(&[(1, 1000.0), (2, 1600.0), (4, 2800.0)]);
        assert!(close(factor(&scaling), 0.75), "the mean of 0.8 and 0.7: {scaling:?}");
        assert_eq!(scaling.measured().unwrap().sizes, [1, 2, 4]);
        assert_eq!(seen(&[(2, 1600.0)]).measured(), None, "of one size nothing is known");
        assert_eq!(seen(&[(1, 0.0), (2, 0.0)]).measured(), None, "nothing was streamed");
    }

    #[test]
    fn one_worker_that_was_not_seen_is_concluded_and_not_warned_of() {
        // X(N) = 1000 N / (1 + 0.25 (N − 1)): 0.8 of two, 0.5714 of four.
        let mut scaling = seen(&[(2, 1600.0), (4, 4000.0 / 1.75)]);
        assert!(close(factor(&scaling), (0.8 + 1.0 / 1.75) / 2.0), "{scaling:?}");
        assert_eq!(scaling.warning_due(0.99), None);
    }

    #[test]
    fn only_whole_windows_at_the_knee_count() {
        fn one(look: impl Fn(u64) -> Option<KneeSample>) -> f64 {
            let mut scaling = seen(&[(1, 1000.0)]);
            (30..60).for_each(|second| scaling.look(look(second), Nanos::from_millis(second * 1000)));
            factor(&scaling)
        }
        let at = |workers, in_flight, second: u64| gate(workers, in_flight, second * 800);
        assert!(close(one(|second| KneeSample::at(&at(2, 9, second))), 0.8), "near enough");
        assert!(one(|second| KneeSample::at(&at(2, 8, second))).is_nan(), "below the knee");
        assert!(one(|second| KneeSample::at(&at(2, 10 - 5 * u32::from(second % 9 == 0), second))).is_nan());
        assert!(one(|second| (second % 4 == 0).then(|| KneeSample::at(&at(2, 10, second)))?).is_nan());
        let swapped = |second: u64| {
            let mut gate = at(2, 10, second);
            gate.workers[1].id = format!("w{}", second / 5).into();
            KneeSample::at(&gate)
        };
        assert!(one(swapped).is_nan(), "other workers every 5 s");
        let old = |second| {
            let mut gate = at(3, 10, second);
            gate.workers[2].eligible = false;
            KneeSample::at(&gate)
        };
        assert!(one(old).is_nan(), "the other colour still works");
        let held = |second| KneeSample::at(&GateSnapshot { ceiling: Some(16.0), ..at(2, 8, second) });
        assert!(close(one(held), 0.8), "as full as the ceiling lets it be");
        let slow = |second| KneeSample::at(&GateSnapshot { ceiling: Some(16.0), ..at(2, 7, second) });
        assert!(one(slow).is_nan());
    }

    #[test]
    fn a_gap_between_looks_is_no_window() {
        let mut scaling = seen(&[(1, 1000.0)]);
        for second in (30..90).step_by(6) {
            scaling.look(KneeSample::at(&gate(2, 10, second * 800)), Nanos::from_millis(second * 1000));
        }
        assert_eq!(scaling.measured(), None);
    }

    #[test]
    fn the_best_counts_and_is_forgotten_after_a_day() {
        let mut scaling = seen(&[(1, 1000.0), (2, 1600.0), (2, 900.0)]);
        assert!(close(factor(&scaling), 0.8));
        scaling.look(None, Nanos::ZERO + KEPT + Duration::from_secs(23));
        assert_eq!((scaling.measured(), scaling.best.len()), (None, 1), "the single worker was a day ago");
        let huge = KneeSample::at(&gate(MOST_WORKERS + 1, 10, 0));
        assert_eq!(huge, None);
    }

    #[test]
    fn a_warning_comes_once_until_much_has_changed() {
        let mut scaling = seen(&[(1, 1000.0), (2, 1400.0)]);
        assert_eq!(scaling.warning_due(0.72), None, "near enough");
        assert!(scaling.warning_due(0.83).is_some_and(|measured| close(measured.factor, 0.7)));
        assert_eq!(scaling.warning_due(0.83), None, "it was said");
        assert!(scaling.warning_due(0.9).is_some(), "another factor was configured, which is wrong too");
        scaling.best.insert(2, (1440.0, Nanos::ZERO));
        assert_eq!(scaling.warning_due(0.9), None, "hardly a change");
        scaling.best.insert(2, (1990.0, Nanos::ZERO));
        assert!(scaling.warning_due(0.9).is_some_and(|measured| close(measured.factor, 0.995)));
    }
}
