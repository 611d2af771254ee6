//! A run around a stall, in steps of 100 ms, and the effect of the stall.

use std::ops::Range;
use std::time::Duration;

use traffic_dam_lab::evidence::stats::mean;

use super::trial::TrialRun;
use crate::sample::{Outcome, Sample};

pub(super) const STEP: Duration = Duration::from_millis(100);
const PER_SECOND: f64 = 10.0;
/// Seconds after which a reading is too old for a step and counts as missing. Readings come one
/// step apart and some milliseconds late.
const STALE: f64 = 0.15;
/// Seconds evaluated before a stall.
pub(super) const BEFORE: f64 = 1.0;
/// Seconds evaluated after a stall.
pub(super) const AFTER: f64 = 10.0;
/// Seconds after the end of a stall within which the limit must be back.
const BACK_WITHIN: f64 = 1.0;
/// Share of its earlier value at which the limit counts as back.
pub(super) const BACK: f64 = 0.9;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Step {
    /// Seconds from the start of the stall to the start of the step.
    pub(super) at: f64,
    /// The last reading; `None` if the gateway gave none.
    pub(super) limit: Option<f64>,
    pub(super) in_flight: Option<f64>,
    /// First tokens of good answers in this step.
    pub(super) good: u32,
    pub(super) refused: u32,
}

/// Returns the steps around the stall that began at `from` and ended at `to`, in seconds.
pub(super) fn steps(watched: &TrialRun, (from, to): (f64, f64)) -> Vec<Step> {
    let count = ((BEFORE + (to - from) + AFTER) * PER_SECOND).round() as usize;
    let mut steps: Vec<Step> =
        (0..count).map(|index| Step { at: index as f64 / PER_SECOND - BEFORE, ..Step::default() }).collect();
    let index = |at: f64| {
        let index = ((at - from + BEFORE) * PER_SECOND).floor();
        (index >= 0.0).then_some(index as usize)
    };
    for step in &mut steps {
        let end = from + step.at + STEP.as_secs_f64();
        let last = watched.points.iter().rev().find(|point| point.at < end);
        let point = last.filter(|point| point.at > end - STALE);
        (step.limit, step.in_flight) = (point.map(|point| point.limit), point.map(|point| point.in_flight));
    }
    for sample in &watched.run.samples {
        let refused = match sample.outcome {
            Outcome::Refused { took, .. } => Some((sample.arrival.due + took).as_secs_f64()),
            _ => None,
        };
        let good = sample.is_good().then(|| sample.begun().as_secs_f64());
        if let Some(step) = refused.and_then(index).and_then(|index| steps.get_mut(index)) {
            step.refused += 1;
        }
        if let Some(step) = good.and_then(index).and_then(|index| steps.get_mut(index)) {
            step.good += 1;
        }
    }
    steps
}

/// The effect of a stall.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct After {
    /// Limit in the second before the stall.
    pub(super) before: Option<f64>,
    /// Limit one second after its end.
    pub(super) soon: Option<f64>,
    /// Least limit from then on.
    pub(super) least: Option<f64>,
    /// Refused requests due before the stall; above zero, the limit was already too low.
    pub(super) refused_before: usize,
    /// Requests that were due during the stall.
    pub(super) offered: usize,
    /// Refused requests that were due from its start to the end of the evaluated time.
    pub(super) refused: usize,
    /// Share of good answers among requests due in the next ten seconds; `None` if there were none.
    pub(super) good: Option<f64>,
}

impl After {
    /// Computes the effect of the stall that began at `from` and ended at `to`.
    pub(super) fn of(watched: &TrialRun, (from, to): (f64, f64)) -> Self {
        let limits = |times: Range<f64>| -> Vec<f64> {
            watched.points.iter().filter(|point| times.contains(&point.at)).map(|point| point.limit).collect()
        };
        let due = |times: Range<f64>| {
            let within = move |sample: &&Sample| times.contains(&sample.arrival.due.as_secs_f64());
            watched.run.samples.iter().filter(within)
        };
        let later = limits(to + BACK_WITHIN..to + AFTER);
        let after = due(to..to + AFTER).count();
        let good = due(to..to + AFTER).filter(|sample| sample.is_good()).count();
        Self {
            before: mean(&limits(from - BEFORE..from)),
            soon: later.first().copied(),
            least: later.iter().copied().reduce(f64::min),
            refused_before: due(0.0..from).filter(|sample| sample.is_refused()).count(),
            offered: due(from..to).count(),
            refused: due(from..to + AFTER).filter(|sample| sample.is_refused()).count(),
            good: (after > 0).then(|| good as f64 / after as f64),
        }
    }

    /// Returns a limit relative to the one before the stall.
    pub(super) fn of_before(&self, limit: Option<f64>) -> Option<f64> {
        limit.zip(self.before).map(|(limit, before)| limit / before)
    }

    /// Returns refused requests relative to those offered during the stall.
    pub(super) fn refused_of_offered(&self) -> f64 {
        self.refused as f64 / self.offered.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::Spent;
    use crate::figures::{Rate, Run};
    use crate::limit::Point;
    use crate::plan::Arm;
    use crate::sample::tests::{sample, served};

    fn due(at: f64, outcome: Outcome) -> Sample {
        let mut sample = sample(true, outcome);
        sample.arrival.due = Duration::from_secs_f64(at);
        sample
    }

    fn refused() -> Outcome {
        let took = Duration::from_millis(250);
        Outcome::Refused { took, reason: String::new(), retry_after: true, wait: None }
    }

    /// A stall from 1 s to 2 s: a limit of 60 falls to 6 half a second later and is back at 4 s.
    fn watched() -> TrialRun {
        let limit = |at: f64| if (2.5..4.0).contains(&at) { 6.0 } else { 60.0 };
        let points =
            (0..120).map(|index| f64::from(index) / 10.0 + 0.02).filter(|at| !(1.0..2.0).contains(at));
        let points = points.map(|at| Point { at, limit: limit(at), in_flight: 5.0 }).collect();
        let samples = vec![
            due(0.5, served(100)),
            due(1.2, refused()),
            due(1.5, served(600)),
            due(2.5, refused()),
            due(3.0, served(100)),
            due(3.5, served(1500)),
        ];
        let (measured, good) = (Duration::from_secs(12), Rate { requests: 0.0, tokens: 0.0 });
        let run = Run { samples, good, measured, spent: Spent::default(), readings: None };
        TrialRun { arm: Arm::Stream, run, points, stalls: vec![(1.0, 2.0)] }
    }

    #[test]
    fn each_step_holds_what_happened_in_it() {
        let steps = steps(&watched(), (1.0, 2.0));
        assert_eq!(steps.len(), 120);
        let at = |seconds: f64| &steps[((seconds + BEFORE) * 10.0).round() as usize];
        assert_eq!((at(-0.5).limit, at(-0.4).good), (Some(60.0), 1));
        assert_eq!((at(0.5).limit, at(0.4).refused), (None, 1));
        // Readings do not come at the edges of steps; still every step has one.
        let limits = |steps: &[Step]| steps.iter().filter(|step| step.limit.is_some()).count();
        assert_eq!((limits(&steps[..10]), limits(&steps[20..])), (10, 100));
        assert_eq!((at(1.1).good, at(1.6).limit), (1, Some(6.0)));
        assert_eq!((at(1.7).refused, at(1.7).in_flight), (1, Some(5.0)));
    }

    #[test]
    fn a_stall_is_judged_by_what_came_after_it() {
        let after = After::of(&watched(), (1.0, 2.0));
        assert_eq!((after.before, after.soon, after.least), (Some(60.0), Some(6.0), Some(6.0)));
        assert_eq!((after.refused_before, after.offered, after.refused), (0, 2, 2));
        assert_eq!(after.of_before(after.soon), Some(0.1));
        assert!((after.refused_of_offered() - 1.0).abs() < 1e-9);
        // One of the three requests due in the ten seconds after it.
        assert!((after.good.unwrap() - 1.0 / 3.0).abs() < 1e-9);
    }
}
