//! Checks that runs support conclusions. Each check is for a mistake that has misled experimenters.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::lateness::late_requests;
use super::record::{Arm, ExperimentCell, RecordedOutcome, RecordedRun, cells};
use super::stats::{mean, quantile, sorted, standard_error};

/// Largest spread of the wall clock's offset, in ms, without a step. The clock is read in whole
/// milliseconds, and a time daemon slews it by at most 0.5 ms per second.
const CLOCK_STEP_MS: f64 = 60.0;
/// Maximum CPU share of the generator; above it, the generator itself may be slow.
const BUSIEST_GENERATOR: f64 = 0.70;
/// Maximum CPU share in use; above it, the machine is full and all processes wait for CPU.
const BUSIEST_MACHINE: f64 = 0.95;
/// Allowed share of drift in goodput or median TTFT from the first to the last third.
const DRIFT: f64 = 0.10;
/// Allowed drift in standard errors, if that is more.
const DRIFT_ERRORS: f64 = 4.0;
/// TTFT drift in ms that nobody would notice.
const DRIFT_MS: f64 = 50.0;
/// Allowed relative difference of load between arms: a few requests at the window's edges.
const LOAD_DIFFERENCE: f64 = 0.02;
/// Minimum rounds of an arm, to tell variation of the machine from the arm's effect.
const LEAST_ROUNDS: usize = 2;
/// Minimum measured time of a cell, in seconds.
const LEAST_SECONDS: f64 = 10.0;

/// A check of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValidityCheck {
    /// Every successful answer has its TTFT.
    TtftThere,
    /// No TTFT is negative or longer than its request.
    TtftPossible,
    /// The wall clock was not set.
    Clock,
    /// The generator kept up.
    Generator,
    /// The measured time is a steady state.
    Settled,
    /// Both arms had the same load.
    SameLoad,
    /// There are enough data to compare.
    Complete,
}

impl ValidityCheck {
    /// All checks, in order of their exit codes.
    pub const ALL: [Self; 7] = [
        Self::TtftThere,
        Self::TtftPossible,
        Self::Clock,
        Self::Generator,
        Self::Settled,
        Self::SameLoad,
        Self::Complete,
    ];

    /// Returns the exit code of a program that draws no conclusion because of this check: from 10,
    /// clear of shells' and `sysexits` codes.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        10 + self as u8
    }
}

impl fmt::Display for ValidityCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TtftThere => "TTFT missing",
            Self::TtftPossible => "TTFT impossible",
            Self::Clock => "clock stepped",
            Self::Generator => "generator saturated",
            Self::Settled => "warm-up not settled",
            Self::SameLoad => "arms differ in load",
            Self::Complete => "too few data",
        })
    }
}

/// A reason to draw no conclusion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidityFault {
    /// The check that failed.
    pub check: ValidityCheck,
    /// The run or cell, and the details.
    pub what: String,
}

/// Returns all errors in `runs`, sorted by check.
#[must_use]
pub(crate) fn faults(runs: &[RecordedRun]) -> Vec<ValidityFault> {
    let mut faults = Vec::new();
    for run in runs {
        for (check, found) in [
            (ValidityCheck::TtftThere, ttft_there(run)),
            (ValidityCheck::TtftPossible, ttft_possible(run)),
            (ValidityCheck::Clock, clock(run)),
            (ValidityCheck::Generator, generator(run)),
        ] {
            faults.extend(found.map(|what| ValidityFault { check, what: format!("{}: {what}", run.name) }));
        }
    }
    let cells = cells(runs);
    for (cell, runs) in &cells {
        faults.extend(
            settled(runs)
                .map(|what| ValidityFault { check: ValidityCheck::Settled, what: format!("{cell}: {what}") }),
        );
        faults.extend(
            complete(*cell, runs, &cells).map(|what| ValidityFault { check: ValidityCheck::Complete, what }),
        );
    }
    faults.extend(different_loads(&cells).map(|what| ValidityFault { check: ValidityCheck::SameLoad, what }));
    if runs.is_empty() {
        faults.push(ValidityFault { check: ValidityCheck::Complete, what: "there is no run".to_owned() });
    }
    faults.sort_by_key(|fault| fault.check);
    faults
}

fn ttft_there(run: &RecordedRun) -> Option<String> {
    let admitted = || run.requests.iter().filter(|request| request.outcome == RecordedOutcome::Admitted);
    let missing = admitted().filter(|request| request.ttft.is_none()).count();
    (missing > 0).then(|| format!("{missing} of {} complete answers have no TTFT", admitted().count()))
}

fn ttft_possible(run: &RecordedRun) -> Option<String> {
    let wrong = run.requests.iter().find(|request| {
        request.end < 0.0 || request.ttft.is_some_and(|ttft| !(0.0..=request.end).contains(&ttft))
    })?;
    Some(format!("a request took {} ms, its TTFT {} ms", wrong.end, wrong.ttft.unwrap_or_default()))
}

fn clock(run: &RecordedRun) -> Option<String> {
    let offsets = sorted(run.requests.iter().map(|request| request.wall - request.start));
    let spread = offsets.last()? - offsets.first()?;
    (spread > CLOCK_STEP_MS)
        .then(|| format!("the wall clock moved by {spread:.0} ms against the monotonic clock"))
}

fn generator(run: &RecordedRun) -> Option<String> {
    let facts = &run.facts;
    let share = |cpu: f64| cpu / (facts.wall_s * f64::from(facts.cores)).max(f64::MIN_POSITIVE);
    if facts.dropped > 0 {
        return Some(format!("{} arrivals were skipped", facts.dropped));
    }
    if share(facts.cpu.generator) > BUSIEST_GENERATOR {
        return Some(format!(
            "the generator took {:.0} % of the machine",
            100.0 * share(facts.cpu.generator)
        ));
    }
    if share(facts.cpu.machine) > BUSIEST_MACHINE {
        return Some(format!("the machine was {:.0} % busy", 100.0 * share(facts.cpu.machine)));
    }
    late_requests(run.requests.iter().map(|request| request.late))
}

/// Compares the last third of the measured time with the first, over all repetitions.
fn settled(runs: &[&RecordedRun]) -> Option<String> {
    let third = |last: bool| {
        let parts = runs.iter().map(move |run| {
            let mut seconds = run.seconds();
            let part = seconds.len() / 3;
            let part = if last { seconds.split_off(seconds.len() - part) } else { seconds[..part].to_vec() };
            (*run, part)
        });
        let parts: Vec<_> = parts.collect();
        let good: Vec<f64> = parts
            .iter()
            .flat_map(|(run, seconds)| {
                seconds
                    .iter()
                    .map(|second| second.iter().filter(|request| request.is_good(&run.facts)).count() as f64)
            })
            .collect();
        let requests = parts.iter().flat_map(|(_, seconds)| seconds).flatten();
        let median = quantile(&sorted(requests.filter_map(|request| request.ttft)), 0.5);
        (good, median)
    };
    let ((early, early_ttft), (late, late_ttft)) = (third(false), third(true));
    let (before, after) = (mean(&early)?, mean(&late)?);
    let error = standard_error(&early)?.hypot(standard_error(&late)?);
    // Relative to the capacity, not to itself: collapsed goodput varies little.
    let capacity = runs.first()?.facts.capacity;
    if (before - after).abs() > (DRIFT * capacity).max(DRIFT_ERRORS * error) {
        return Some(format!(
            "goodput went from {before:.1}/s in the first third to {after:.1}/s in the last"
        ));
    }
    let (before, after) = (early_ttft?, late_ttft?);
    // The median of a few dozen values also moves by chance; double the share covers it.
    ((before - after).abs() > DRIFT_MS.max(2.0 * DRIFT * before.max(after))).then(|| {
        format!("the median TTFT went from {before:.0} ms in the first third to {after:.0} ms in the last")
    })
}

fn complete(
    cell: ExperimentCell,
    runs: &[&RecordedRun],
    all: &[(ExperimentCell, Vec<&RecordedRun>)],
) -> Option<String> {
    let other = if cell.arm == Arm::Gateway { Arm::Direct } else { Arm::Gateway };
    // Several workers run only with the gateway: without it, nothing spreads the load.
    if cell.workers == 1 {
        if !all.iter().any(|(have, _)| *have == ExperimentCell { arm: other, ..cell }) {
            let with = if other == Arm::Direct { "without" } else { "with" };
            return Some(format!("{cell}: no run {with} the gateway to compare with"));
        }
        if runs.len() < LEAST_ROUNDS {
            return Some(format!("{cell}: only one run, {LEAST_ROUNDS} are needed to see how runs differ"));
        }
    }
    let seconds: f64 = runs.iter().map(|run| run.facts.measured_s).sum();
    if seconds < LEAST_SECONDS {
        return Some(format!("{cell}: {seconds:.0} s were measured, at least {LEAST_SECONDS:.0} are needed"));
    }
    let empty = runs.iter().find(|run| run.measured().next().is_none())?;
    Some(format!("{}: no request was sent in the measured time", empty.name))
}

fn different_loads(cells: &[(ExperimentCell, Vec<&RecordedRun>)]) -> impl Iterator<Item = String> {
    cells.iter().filter(|(cell, _)| cell.arm == Arm::Direct).filter_map(|(cell, direct)| {
        let (_, gateway) =
            cells.iter().find(|(other, _)| *other == ExperimentCell { arm: Arm::Gateway, ..*cell })?;
        let offered = |runs: &[&RecordedRun]| {
            let seconds: f64 = runs.iter().map(|run| run.facts.measured_s).sum();
            let per_second = |sum: u64| sum as f64 / seconds.max(f64::MIN_POSITIVE);
            let requests = || runs.iter().flat_map(|run| run.measured());
            [
                ("requests", per_second(requests().count() as u64)),
                ("bytes of prompts", per_second(requests().map(|request| request.prompt).sum())),
                ("tokens", per_second(requests().map(|request| request.tokens).sum())),
            ]
        };
        let pairs = offered(direct).into_iter().zip(offered(gateway));
        let (one, other) = pairs
            .map(|((what, one), (_, other))| ((what, one), other))
            .find(|((_, one), other)| (one - other).abs() > LOAD_DIFFERENCE * one.max(*other))?;
        let (what, one) = one;
        Some(format!("at {}×: {one:.1} {what} per second without the gateway, {other:.1} with it", cell.load))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::planted;
    use crate::evidence::record::RecordedRequest;

    /// Returns the failed checks after `plant` changes the gateway's runs with one worker at 2×.
    fn found(plant: impl Fn(&mut RecordedRun)) -> Vec<ValidityCheck> {
        let mut runs = planted::experiment();
        for run in &mut runs {
            if run.cell() == (ExperimentCell { workers: 1, load: 2.0, arm: Arm::Gateway }) {
                plant(run);
            }
        }
        let mut checks: Vec<ValidityCheck> = faults(&runs).into_iter().map(|fault| fault.check).collect();
        checks.dedup();
        checks
    }

    fn admitted(run: &mut RecordedRun) -> impl Iterator<Item = &mut RecordedRequest> {
        run.requests.iter_mut().filter(|request| request.outcome == RecordedOutcome::Admitted)
    }

    #[test]
    fn sound_data_are_let_through() {
        assert_eq!(faults(&planted::experiment()), []);
    }

    #[test]
    fn each_planted_fault_is_found_and_no_other() {
        type Plant = (ValidityCheck, fn(&mut RecordedRun));
        let plants: [Plant; 13] = [
            (ValidityCheck::TtftThere, |run| admitted(run).nth(40).unwrap().ttft = None),
            (ValidityCheck::TtftPossible, |run| {
                let request = admitted(run).nth(40).unwrap();
                request.ttft = Some(request.end + 0.1);
            }),
            (ValidityCheck::TtftPossible, |run| admitted(run).nth(40).unwrap().ttft = Some(-1.0)),
            (ValidityCheck::Clock, |run| {
                run.requests.iter_mut().skip(500).for_each(|request| request.wall += 100.0)
            }),
            (ValidityCheck::Clock, |run| {
                run.requests.iter_mut().skip(500).for_each(|request| request.wall -= 3.6e6)
            }),
            (ValidityCheck::Generator, |run| run.facts.dropped = 1),
            (ValidityCheck::Generator, |run| run.facts.cpu.generator = 0.71 * 2.0 * run.facts.wall_s),
            (ValidityCheck::Generator, |run| run.facts.cpu.machine = 0.96 * 2.0 * run.facts.wall_s),
            (ValidityCheck::Generator, |run| {
                run.requests.iter_mut().step_by(50).for_each(|request| request.late = 51.0)
            }),
            (ValidityCheck::Settled, |run| {
                // The batch still fills: in the first 10 measured s, half of the answers are late.
                let late = admitted(run).filter(|request| request.at < 15_000.0).step_by(2);
                late.for_each(|request| (request.ttft, request.end) = (Some(1100.0), 2000.0));
            }),
            (ValidityCheck::Settled, |run| {
                // A queue that still grows: TTFT climbs through the whole run, within the SLO.
                admitted(run).for_each(|request| request.ttft = Some(request.at / 40.0));
            }),
            (ValidityCheck::SameLoad, |run| run.requests.retain(|request| request.prompt % 20 != 0)),
            (ValidityCheck::SameLoad, |run| run.requests.iter_mut().for_each(|request| request.tokens += 2)),
        ];
        for (index, (check, plant)) in plants.into_iter().enumerate() {
            assert_eq!(found(plant), [check], "plant {index}");
        }
    }

    #[test]
    fn too_little_is_said_to_be_too_little() {
        let kept = |keep: fn(&RecordedRun) -> bool| {
            let runs: Vec<RecordedRun> = planted::experiment().into_iter().filter(keep).collect();
            faults(&runs).into_iter().map(|fault| (fault.check, fault.what)).collect::<Vec<_>>()
        };
        let alone = kept(|run| run.facts.arm == Arm::Gateway || run.facts.load < 1.0);
        assert_eq!(
            alone,
            [(
                ValidityCheck::Complete,
                "Traffic Dam at 2×: no run without the gateway to compare with".to_owned()
            )]
        );
        assert!(kept(|run| run.facts.round == 1)[0].1.contains("only one run"));
        assert_eq!(kept(|_| false), [(ValidityCheck::Complete, "there is no run".to_owned())]);
        assert_eq!(found(|run| run.requests.clear()), [ValidityCheck::SameLoad, ValidityCheck::Complete]);
        assert!(found(|run| run.facts.measured_s = 4.0).contains(&ValidityCheck::Complete));
    }

    #[test]
    fn every_check_has_a_code_of_its_own() {
        let codes: Vec<u8> = ValidityCheck::ALL.iter().map(|check| check.exit_code()).collect();
        assert_eq!(codes, [10, 11, 12, 13, 14, 15, 16]);
    }
}
