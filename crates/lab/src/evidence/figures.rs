//! Figures over the repetitions of one cell.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::{Arm, ExperimentCell, RecordedOutcome, RecordedRequest, RecordedRun};
use super::stats::{Interval, bootstrap};

/// Seconds per bootstrap block: longer than an answer, so that blocks are nearly independent.
const BLOCK: usize = 2;

/// The figures of one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellFigures {
    /// With or without the gateway.
    pub arm: Arm,
    /// Offered load, in multiples of the capacity.
    pub load: f64,
    /// Number of workers.
    pub workers: u32,
    /// Number of repetitions.
    pub rounds: usize,
    /// Measured seconds of all repetitions.
    pub seconds: f64,
    /// Good answers per second of these workers at their best.
    pub capacity: f64,
    /// Offered requests per second.
    pub offered: f64,
    /// Good answers per second.
    pub goodput: Interval,
    /// TTFT of admitted requests in milliseconds: median, 95th and 99th percentile. A client that
    /// gave up counts with its waiting time. `None` if no request was admitted.
    pub ttft: [Option<Interval>; 3],
    /// Refusals by reason.
    pub refused: BTreeMap<String, u64>,
    /// Errors by kind.
    pub errors: BTreeMap<String, u64>,
    /// Number of clients that disconnected without any content.
    pub gave_up: u64,
    /// Cores used by the generator, the gateway, the workers, and the whole machine.
    pub cores: [f64; 4],
    /// Gateway CPU time per request, in microseconds.
    pub(crate) gateway_us: f64,
    /// Peak memory of the gateway, in MiB.
    pub(crate) gateway_mib: f64,
}

/// Percentiles of [`CellFigures::ttft`], as shares.
pub(crate) const PERCENTILES: [f64; 3] = [0.5, 0.95, 0.99];

/// Returns the wait in ms for the first content, or until the client disconnected.
pub(super) fn wait(request: &RecordedRequest) -> Option<f64> {
    request.ttft.or((request.outcome == RecordedOutcome::GaveUp).then_some(request.end))
}

/// The measured time of all repetitions, cut into blocks.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Seconds and good answers of each block.
    good: Vec<(f64, f64)>,
    /// All waits in ascending order, each with its block.
    waits: Vec<(f64, usize)>,
}

impl Blocks {
    pub(super) fn of(runs: &[&RecordedRun]) -> Self {
        let mut all = Self::default();
        for run in runs {
            for seconds in run.seconds().chunks(BLOCK) {
                let requests = || seconds.iter().flatten();
                let good = requests().filter(|request| request.is_good(&run.facts)).count();
                let block = all.good.len();
                all.waits.extend(requests().filter_map(|request| Some((wait(request)?, block))));
                all.good.push((seconds.len() as f64, good as f64));
            }
        }
        all.waits.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        all
    }

    pub(super) fn count(&self) -> usize {
        self.good.len()
    }

    /// Returns good answers per second, with each block counted `drawn` times.
    pub(super) fn goodput(&self, drawn: &[u32]) -> Option<f64> {
        let (mut seconds, mut good) = (0.0, 0.0);
        for (times, block) in drawn.iter().zip(&self.good) {
            seconds += f64::from(*times) * block.0;
            good += f64::from(*times) * block.1;
        }
        (seconds > 0.0).then(|| good / seconds)
    }

    /// Returns a percentile of the waits, with each block counted `drawn` times.
    fn percentile(&self, drawn: &[u32], q: f64) -> Option<f64> {
        let times = |block: usize| drawn.get(block).copied().unwrap_or_default();
        let all: u32 = self.waits.iter().map(|(_, block)| times(*block)).sum();
        let rank = (f64::from(all) * q).ceil().max(1.0) as u32;
        let mut below = 0;
        let mut waits = self.waits.iter();
        let found = waits.find(|(_, block)| {
            below += times(*block);
            below >= rank
        });
        found.map(|(wait, _)| *wait)
    }
}

impl CellFigures {
    /// Computes the figures of a cell; `None` if no time was measured.
    #[must_use]
    pub fn of(cell: ExperimentCell, runs: &[&RecordedRun]) -> Option<Self> {
        let blocks = Blocks::of(runs);
        let requests = || runs.iter().flat_map(|run| run.measured());
        let count = |outcome| requests().filter(|request| request.outcome == outcome).count() as u64;
        let by_reason = |outcome| {
            let mut reasons = BTreeMap::new();
            for request in requests().filter(|request| request.outcome == outcome) {
                *reasons.entry(request.reason.clone()).or_default() += 1;
            }
            reasons
        };
        let sum = |value: fn(&RecordedRun) -> f64| runs.iter().map(|run| value(run)).sum::<f64>();
        let (seconds, wall) = (sum(|run| run.facts.measured_s), sum(|run| run.facts.wall_s));
        let all = sum(|run| run.requests.len() as f64);
        let percentile = |q| bootstrap([blocks.count()], |[drawn]| blocks.percentile(drawn, q));
        Some(Self {
            arm: cell.arm,
            load: cell.load,
            workers: cell.workers,
            rounds: runs.len(),
            seconds,
            capacity: runs.first()?.facts.capacity,
            offered: requests().count() as f64 / seconds,
            goodput: bootstrap([blocks.count()], |[drawn]| blocks.goodput(drawn))?,
            ttft: PERCENTILES.map(percentile),
            refused: by_reason(RecordedOutcome::Refused),
            errors: by_reason(RecordedOutcome::Failed),
            gave_up: count(RecordedOutcome::GaveUp),
            cores: [
                sum(|run| run.facts.cpu.generator) / wall,
                sum(|run| run.facts.cpu.gateway) / wall,
                sum(|run| run.facts.cpu.workers) / wall,
                sum(|run| run.facts.cpu.machine) / wall,
            ],
            gateway_us: sum(|run| run.facts.cpu.gateway) * 1e6 / all.max(1.0),
            gateway_mib: runs.iter().map(|run| run.facts.gateway_mib).fold(0.0, f64::max),
        })
    }

    /// Returns goodput divided by capacity.
    #[must_use]
    pub(crate) fn of_capacity(&self) -> f64 {
        self.goodput.value / self.capacity
    }

    /// Returns goodput divided by offered load.
    #[must_use]
    pub fn of_offered(&self) -> f64 {
        self.goodput.value / self.offered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::planted::{self, CAPACITY};

    fn figures(arm: Arm, load: f64) -> CellFigures {
        let run = planted::run(arm, load, 1);
        CellFigures::of(run.cell(), &[&run, &run]).unwrap()
    }

    #[test]
    fn a_cell_is_what_its_runs_are() {
        let gateway = figures(Arm::Gateway, 2.0);
        assert_eq!((gateway.rounds, gateway.seconds), (2, 40.0));
        assert!((gateway.offered - 2.0 * CAPACITY).abs() < 0.5, "{}", gateway.offered);
        assert!((gateway.of_capacity() - 1.0).abs() < 0.1, "{}", gateway.of_capacity());
        assert!(gateway.goodput.low < gateway.goodput.value && gateway.goodput.value < gateway.goodput.high);
        let [p50, p95, p99] = gateway.ttft.map(|interval| interval.unwrap().value);
        assert!(
            (170.0..190.0).contains(&p50) && (260.0..275.0).contains(&p95) && p99 > p95,
            "{p50} {p95} {p99}"
        );
        assert_eq!(gateway.refused.keys().collect::<Vec<_>>(), ["overloaded"]);
        assert!(gateway.errors.is_empty() && gateway.gave_up == 0);
        assert!((gateway.cores[1] - 3.0 / 28.0).abs() < 1e-9);
    }

    #[test]
    fn who_gave_up_waited_and_was_not_served() {
        let mut run = planted::run(Arm::Direct, 2.0, 1);
        run.requests
            .iter_mut()
            .filter(|request| request.outcome == RecordedOutcome::GaveUp)
            .for_each(|request| request.end = 9e3);
        let direct = CellFigures::of(run.cell(), &[&run]).unwrap();
        assert_eq!(direct.goodput.value, 0.0);
        assert_eq!(direct.ttft[2].unwrap().value, 9e3);
        assert!(direct.gave_up > 0);
    }
}
