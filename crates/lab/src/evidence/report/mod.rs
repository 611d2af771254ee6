//! Compares the arms and checks expectations: `report.json`, and the same as Markdown and page.

mod page;
mod text;

use serde::{Deserialize, Serialize};

use super::chart::ChartError;
use super::figures::{Blocks, CellFigures};
use super::record::{Arm, ExperimentCell, RecordedRun, cells};
use super::stats::{Interval, bootstrap};
use super::validity::{self, ValidityFault};

/// Largest load, in multiples of the capacity, at which all requests can be served.
const EASY: f64 = 0.8;
/// Smallest load, in multiples of the capacity, at which many requests cannot be served.
const HARD: f64 = 2.0;
/// Goodput, as a share of the capacity, at or below which a worker has collapsed.
const COLLAPSED: f64 = 0.5;

/// Results of an experiment. If `faults` is not empty, all other fields are empty or zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExperimentReport {
    /// Reasons to draw no conclusion.
    pub faults: Vec<ValidityFault>,
    /// TTFT SLO, in milliseconds.
    pub ttft_slo_ms: f64,
    /// Good answers per second of one worker at its best.
    pub capacity: f64,
    /// Figures of each cell.
    pub cells: Vec<CellFigures>,
    /// Effect of the gateway at each load.
    pub changes: Vec<GoodputChange>,
    /// Expectations, each with its result.
    pub(crate) expectations: Vec<Expectation>,
}

/// Goodput with the gateway minus goodput without it, for one worker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoodputChange {
    /// Offered load, in multiples of the capacity.
    pub load: f64,
    /// Gain in good answers per second.
    pub(crate) gained: Interval,
}

/// An expected figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Expectation {
    /// Name of the figure.
    pub what: String,
    /// Expected range, in words.
    pub wanted: String,
    /// Measured value, in words.
    pub got: String,
    /// `true` if the expectation was met.
    pub held: bool,
}

/// The files of a report.
#[derive(Clone, Debug)]
pub struct ReportFiles {
    /// `index.html`, with pictures inlined.
    pub page: String,
    /// `report.md`.
    pub text: String,
    /// `report.json`.
    pub json: String,
}

impl ExperimentReport {
    /// Evaluates `runs`.
    #[must_use]
    pub fn of(runs: &[RecordedRun]) -> Self {
        let faults = validity::faults(runs);
        let facts = runs.iter().map(|run| &run.facts).find(|facts| facts.workers == 1);
        if let (true, Some(facts)) = (faults.is_empty(), facts) {
            let cells = cells(runs);
            let figures: Vec<CellFigures> =
                cells.iter().filter_map(|(cell, runs)| CellFigures::of(*cell, runs)).collect();
            return Self {
                faults,
                ttft_slo_ms: facts.ttft_slo_ms,
                capacity: facts.capacity,
                changes: cells.iter().filter_map(|(cell, runs)| change(*cell, runs, &cells)).collect(),
                expectations: figures
                    .iter()
                    .filter(|cell| cell.workers == 1)
                    .flat_map(|cell| match cell.arm {
                        Arm::Gateway => expectations(cell, facts.ttft_slo_ms),
                        Arm::Direct => collapse(cell).into_iter().collect(),
                    })
                    .collect(),
                cells: figures,
            };
        }
        Self { faults, ..Self::default() }
    }

    /// Renders all files, with pictures of `runs`.
    pub fn files(&self, runs: &[RecordedRun]) -> Result<ReportFiles, ChartError> {
        let json = serde_json::to_string_pretty(self)?;
        Ok(ReportFiles { page: page::write(self, runs)?, text: text::write(self), json })
    }
}

fn change(
    cell: ExperimentCell,
    direct: &[&RecordedRun],
    all: &[(ExperimentCell, Vec<&RecordedRun>)],
) -> Option<GoodputChange> {
    let gateway = ExperimentCell { arm: Arm::Gateway, ..cell };
    let (_, with) = all.iter().find(|(other, _)| cell.arm == Arm::Direct && *other == gateway)?;
    let (without, with) = (Blocks::of(direct), Blocks::of(with));
    let gained = |drawn: [&[u32]; 2]| Some(with.goodput(drawn[1])? - without.goodput(drawn[0])?);
    Some(GoodputChange { load: cell.load, gained: bootstrap([without.count(), with.count()], gained)? })
}

/// Returns the expectation that a worker alone collapses above its capacity. A worker that does not
/// needs no gateway, and the report must say so.
fn collapse(cell: &CellFigures) -> Option<Expectation> {
    let share = cell.of_capacity();
    (cell.load >= HARD).then(|| Expectation {
        what: format!("goodput without the gateway, as a share of capacity, at {}×", cell.load),
        wanted: format!("≤ {:.0} %", COLLAPSED * 100.0),
        got: format!("{:.1} %", share * 100.0),
        held: share <= COLLAPSED,
    })
}

fn expectations(cell: &CellFigures, slo: f64) -> Vec<Expectation> {
    let load = cell.load;
    let mut all = Vec::new();
    let mut expect = |what: &str, wanted: String, got: String, held: bool| {
        all.push(Expectation { what: format!("{what} at {load}×"), wanted, got, held });
    };
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let millis = |ms: f64| format!("{ms:.0} ms");
    if load <= EASY {
        let share = cell.of_offered();
        expect("goodput, as a share of the offered load,", "≥ 98 %".into(), percent(share), share >= 0.98);
    }
    if load >= HARD {
        let least = if load >= 10.0 { 0.90 } else { 0.95 };
        let share = cell.of_capacity();
        expect(
            "goodput, as a share of capacity,",
            format!("≥ {}", percent(least)),
            percent(share),
            share >= least,
        );
    }
    let [p50, p95, p99] = cell.ttft.map(|ttft| ttft.map_or(f64::INFINITY, |ttft| ttft.value));
    expect("p95 TTFT", format!("≤ {}", millis(slo)), millis(p95), p95 <= slo);
    if load >= 10.0 {
        expect("p99 TTFT", format!("≤ {}", millis(slo)), millis(p99), p99 <= slo);
        expect("p50 TTFT", format!("≤ {}", millis(slo / 2.0)), millis(p50), p50 <= slo / 2.0);
    }
    let failed = cell.errors.values().sum::<u64>() + cell.gave_up;
    expect("failures other than refusals", "0".into(), failed.to_string(), failed == 0);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::{planted, validity::ValidityCheck};

    #[test]
    fn a_sound_experiment_says_what_the_gateway_changed() {
        let report = ExperimentReport::of(&planted::experiment());
        assert!(report.faults.is_empty());
        // One worker: two loads, two arms; then two and three workers.
        assert_eq!(report.cells.len(), 6);
        let [easy, hard] = report.changes[..] else { panic!("{:?}", report.changes) };
        assert!(easy.gained.low <= 0.0 && easy.gained.high >= 0.0, "{easy:?}");
        assert!(hard.gained.low > 25.0, "{hard:?}");
        assert!(report.expectations.len() >= 5 && report.expectations.iter().all(|expected| expected.held));
        let back: ExperimentReport = serde_json::from_str(&report.files(&[]).unwrap().json).unwrap();
        assert_eq!(back, report);
    }

    #[test]
    fn a_figure_that_was_missed_is_said_to_be_missed() {
        let mut runs = planted::experiment();
        for run in runs.iter_mut().filter(|run| run.facts.arm == Arm::Gateway) {
            run.requests.iter_mut().for_each(|request| request.ttft = request.ttft.map(|ttft| ttft + 850.0));
        }
        let report = ExperimentReport::of(&runs);
        assert!(report.faults.is_empty(), "{:?}", report.faults);
        let missed: Vec<&str> =
            report.expectations.iter().filter(|one| !one.held).map(|one| one.what.as_str()).collect();
        assert!(missed.contains(&"p95 TTFT at 2×"), "{missed:?}");
    }

    #[test]
    fn a_worker_that_does_not_collapse_alone_is_a_figure_missed() {
        let of_direct = |report: &ExperimentReport| -> Vec<(String, bool)> {
            let all = report.expectations.iter().filter(|one| one.what.contains("without the gateway"));
            all.map(|one| (one.what.clone(), one.held)).collect()
        };
        let what = "goodput without the gateway, as a share of capacity, at 2×".to_owned();
        let mut runs = planted::experiment();
        assert_eq!(of_direct(&ExperimentReport::of(&runs)), [(what.clone(), true)]);
        for run in runs.iter_mut().filter(|run| run.facts.arm == Arm::Direct && run.facts.load > 1.0) {
            run.requests.iter_mut().for_each(|request| request.ttft = request.ttft.map(|_| 900.0));
        }
        let report = ExperimentReport::of(&runs);
        assert!(report.faults.is_empty(), "{:?}", report.faults);
        assert_eq!(of_direct(&report), [(what, false)]);
        assert!(report.files(&[]).unwrap().text.contains("| MISSED |"));
    }

    #[test]
    fn unsound_data_give_no_figure_in_any_file() {
        let mut runs = planted::experiment();
        runs[0].facts.dropped = 3;
        let report = ExperimentReport::of(&runs);
        assert_eq!(
            report.faults.iter().map(|fault| fault.check).collect::<Vec<_>>(),
            [ValidityCheck::Generator]
        );
        let ReportFiles { page, text, json } = report.files(&runs).unwrap();
        for file in [&page, &text, &json] {
            assert!(file.contains("3 arrivals were skipped"), "{file}");
        }
        assert!(!page.contains("<svg") && !text.contains("| load") && report.cells.is_empty());
    }

    #[test]
    fn the_page_is_whole_in_one_file() {
        let runs = planted::experiment();
        let ReportFiles { page, text, .. } = ExperimentReport::of(&runs).files(&runs).unwrap();
        // Two pictures over loads, and a map for each arm at each load.
        assert_eq!(page.matches("<svg").count(), 2 + 4);
        for outside in ["http://", "src=", "<link", "@import"] {
            let found = page.replace("http://www.w3.org/2000/svg", "").contains(outside);
            assert!(!found, "{outside} is in the page");
        }
        assert!(text.contains("| Traffic Dam |") && page.contains("<td>Traffic Dam</td>"));
    }
}
