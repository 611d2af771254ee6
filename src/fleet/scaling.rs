//! How well the workers of a pool work together, measured: the factor of the ceiling base · factor · N.
//!
//! A window counts when the pool was at its knee all the time: the same workers, nearly as much in flight as they may
//! have. What they streamed then is what so many of them can do. The best of each number of workers is kept, since all
//! that disturbs a window (long prompts, a half-open worker, a pause) makes it worse. Where one worker alone was seen,
//! the factor is the mean of X(N) / (N · X(1)). Otherwise X(1) is what the Universal Scalability Law says, fitted to
//! two or more sizes by least squares: the rule itself could not tell base and factor apart there.
//!
//! **Failure mode.** Workers are taken to be alike, and so is the work at each size; where they are not, the factor is
//! wrong. Where the ceiling holds workers below what they could do, it is too low: the ceiling is seen, not the
//! workers. What is concluded about one worker without having seen it misses what is lost between one and two, so
//! nobody is warned of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Nanos;
use crate::evidence::scaling::{Point, Simple, Usl};
use crate::shed::GateSnapshot;

/// Long enough for thousands of tokens, short enough to find a fleet at its knee all along.
const WINDOW: Duration = Duration::from_secs(10);
/// Between two looks at most; what happened in a longer time was not seen.
const GAP: Duration = Duration::from_secs(3);
/// Share of what may be in flight that is near enough: seats that were just freed are not yet taken again.
const KNEE: f64 = 0.9;
/// Fleets that are larger are not measured; a bound on what is kept.
const MOST_WORKERS: usize = 64;
/// A fleet that follows the day's load passes its sizes once a day; what was before may have been another model.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// By how much of the configured factor the measured one may differ.
const TOLERANCE: f64 = 0.1;
/// A worker of which less counts is none of those that are alike.
const WHOLE: f64 = 0.99;

/// A pool at its knee.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// The workers that take work.
    workers: Vec<Arc<str>>,
    /// Tokens that they have streamed in all.
    streamed: u64,
}

impl Look {
    /// A pool as it is now; nothing where it is not at its knee, or where others than the workers that take work are
    /// still busy.
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

/// The factor as measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// What several workers do together, relative to the sum of what each does alone.
    pub factor: f64,
    /// The numbers of workers that were seen at the knee.
    pub sizes: Vec<u32>,
}

/// What is known of one pool.
#[derive(Debug, Default)]
pub struct Scaling {
    /// The most tokens per second that were seen of so many workers, and when.
    best: BTreeMap<u32, (f64, Nanos)>,
    window: Option<ScalingWindow>,
    /// The factors that were warned of last: configured, and measured.
    warned: Option<(f64, f64)>,
}

#[derive(Debug)]
struct ScalingWindow {
    began: Nanos,
    ends: Nanos,
    first: Look,
}

impl Scaling {
    /// Takes a look at a pool; nothing where it is not at its knee.
    pub fn look(&mut self, look: Option<Look>, now: Nanos) {
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

    /// The factor, as soon as two sizes were seen.
    #[must_use]
    pub fn measured(&self) -> Option<Measured> {
        let seen = self.best.iter().filter(|(_, (rate, _))| *rate > 0.0);
        let (sizes, points): (Vec<u32>, Vec<Point>) =
            seen.map(|(size, (rate, _))| (*size, (f64::from(*size), *rate))).unzip();
        let factor = match sizes.first()? {
            1 => Simple::fit(&points).ok()?.factor,
            _ => {
                // One worker as the law has it, beside what was seen.
                let alone = (1.0, Usl::fit(&points).ok()?.at(1.0));
                let all: Vec<Point> = points.into_iter().chain([alone]).collect();
                Simple::fit(&all).ok()?.factor
            }
        };
        Some(Measured { factor, sizes })
    }

    /// The factor, when it should be warned of: one worker was seen, it differs from the configured one by much, and
    /// so it does from what was warned of last.
    pub fn misfit(&mut self, configured: f64) -> Option<Measured> {
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

    /// A pool of which each worker may have ten sequences.
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

    /// Pools of so many workers at their knee for 21 s each, one after the other, that stream `rate` tokens per second
    /// in all.
    fn seen(courses: &[(usize, f64)]) -> Scaling {
        let mut scaling = Scaling::default();
        for (course, (workers, rate)) in courses.iter().enumerate() {
            for second in 0..=21 {
                let streamed = (rate / *workers as f64 * second as f64) as u64;
                let now = Nanos::from_millis((course as u64 * 22 + second) * 1000);
                scaling.look(Look::at(&gate(*workers, 10, streamed)), now);
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
        assert_eq!(scaling.misfit(0.99), None);
    }

    #[test]
    fn only_whole_windows_at_the_knee_count() {
        fn one(look: impl Fn(u64) -> Option<Look>) -> f64 {
            let mut scaling = seen(&[(1, 1000.0)]);
            (30..60).for_each(|second| scaling.look(look(second), Nanos::from_millis(second * 1000)));
            factor(&scaling)
        }
        let at = |workers, in_flight, second: u64| gate(workers, in_flight, second * 800);
        assert!(close(one(|second| Look::at(&at(2, 9, second))), 0.8), "near enough");
        assert!(one(|second| Look::at(&at(2, 8, second))).is_nan(), "below the knee");
        assert!(one(|second| Look::at(&at(2, 10 - 5 * u32::from(second % 9 == 0), second))).is_nan());
        assert!(one(|second| (second % 4 == 0).then(|| Look::at(&at(2, 10, second)))?).is_nan());
        let swapped = |second: u64| {
            let mut gate = at(2, 10, second);
            gate.workers[1].id = format!("w{}", second / 5).into();
            Look::at(&gate)
        };
        assert!(one(swapped).is_nan(), "other workers every 5 s");
        let old = |second| {
            let mut gate = at(3, 10, second);
            gate.workers[2].eligible = false;
            Look::at(&gate)
        };
        assert!(one(old).is_nan(), "the other colour still works");
        let held = |second| Look::at(&GateSnapshot { ceiling: Some(16.0), ..at(2, 8, second) });
        assert!(close(one(held), 0.8), "as full as the ceiling lets it be");
        let slow = |second| Look::at(&GateSnapshot { ceiling: Some(16.0), ..at(2, 7, second) });
        assert!(one(slow).is_nan());
    }

    #[test]
    fn a_gap_between_looks_is_no_window() {
        let mut scaling = seen(&[(1, 1000.0)]);
        for second in (30..90).step_by(6) {
            scaling.look(Look::at(&gate(2, 10, second * 800)), Nanos::from_millis(second * 1000));
        }
        assert_eq!(scaling.measured(), None);
    }

    #[test]
    fn the_best_counts_and_is_forgotten_after_a_day() {
        let mut scaling = seen(&[(1, 1000.0), (2, 1600.0), (2, 900.0)]);
        assert!(close(factor(&scaling), 0.8));
        scaling.look(None, Nanos::ZERO + KEPT + Duration::from_secs(23));
        assert_eq!((scaling.measured(), scaling.best.len()), (None, 1), "the single worker was a day ago");
        let huge = Look::at(&gate(MOST_WORKERS + 1, 10, 0));
        assert_eq!(huge, None);
    }

    #[test]
    fn a_warning_comes_once_until_much_has_changed() {
        let mut scaling = seen(&[(1, 1000.0), (2, 1400.0)]);
        assert_eq!(scaling.misfit(0.72), None, "near enough");
        assert!(scaling.misfit(0.83).is_some_and(|measured| close(measured.factor, 0.7)));
        assert_eq!(scaling.misfit(0.83), None, "it was said");
        assert!(scaling.misfit(0.9).is_some(), "another factor was configured, which is wrong too");
        scaling.best.insert(2, (1440.0, Nanos::ZERO));
        assert_eq!(scaling.misfit(0.9), None, "hardly a change");
        scaling.best.insert(2, (1990.0, Nanos::ZERO));
        assert!(scaling.misfit(0.9).is_some_and(|measured| close(measured.factor, 0.995)));
    }
}
