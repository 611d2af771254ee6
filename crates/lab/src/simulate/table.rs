//! Formats figures: a table for people, CSV for spreadsheets.

use std::fmt::Write;
use std::time::Duration;

use crate::evidence::stats::{self, quantile, sorted};

use super::{Policy, RunFigures, Scenario, SimulatedRun};

/// Returns the header of the lines from [`rows`].
#[must_use]
pub fn header() -> String {
    format!(
        "{:<26} {:<9} {:>8} {:>8} {:>7} {:>7} {:>15} {:>7} {:>7} {:>7} {:>6} {:>6} {:>6} {:>6} {:>6} {:>7}\n",
        "scenario",
        "algorithm",
        "offer/s",
        "good/s",
        "of off.",
        "of peak",
        "(worst…best)",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "refus%",
        "failed",
        "Jain",
        "light",
        "retry",
        "recover"
    )
}

/// Returns one line per policy: the median of each figure over the seeds, worst and best goodput.
#[must_use]
pub fn rows(scenario: &Scenario, outcomes: &[SimulatedRun]) -> String {
    let mut text = String::new();
    for policy in policies(outcomes) {
        let runs: Vec<&RunFigures> = outcomes
            .iter()
            .filter(|outcome| outcome.policy == policy)
            .map(|outcome| &outcome.figures)
            .collect();
        let column = |figure: &dyn Fn(&RunFigures) -> Option<f64>| {
            sorted(runs.iter().filter_map(|figures| figure(figures)))
        };
        let median = |name: &str| quantile(&column(&|figures| figures.get(name)), 0.5);
        let seconds = (scenario.duration.0 - scenario.warm_up.0).as_secs_f64();
        let offered = column(&|figures| Some(figures.offered as f64 / seconds));
        let refused = column(&|figures| {
            let refused = figures.refused.values().sum::<u64>() as f64;
            (figures.offered > 0).then(|| 100.0 * refused / figures.offered as f64)
        });
        let of_peak = column(&|figures| figures.goodput_of_peak);
        let spread = match (of_peak.first(), of_peak.last()) {
            (Some(worst), Some(best)) => format!("({:.1}…{:.1})", worst * 100.0, best * 100.0),
            _ => String::new(),
        };
        let number = |value: Option<f64>, scale: f64, digits: usize| match value {
            Some(value) if value.is_finite() => format!("{:.digits$}", value * scale),
            Some(_) => "never".to_owned(),
            None => "-".to_owned(),
        };
        // Writing to a string cannot fail.
        writeln!(
            text,
            "{:<26} {:<9} {:>8} {:>8} {:>7} {:>7} {:>15} {:>7} {:>7} {:>7} {:>6} {:>6} {:>6} {:>6} {:>6} {:>7}",
            scenario.name,
            policy,
            number(quantile(&offered, 0.5), 1.0, 1),
            number(median("goodput"), 1.0, 2),
            number(median("goodput_of_offered"), 100.0, 1),
            number(median("goodput_of_peak"), 100.0, 1),
            spread,
            number(median("ttft_p50"), 1000.0, 0),
            number(median("ttft_p95"), 1000.0, 0),
            number(median("ttft_p99"), 1000.0, 0),
            number(quantile(&refused, 0.5), 1.0, 1),
            number(median("failed"), 1.0, 0),
            number(median("jain"), 1.0, 3),
            number(median("light_share"), 1.0, 3),
            number(median("retry_kept"), 1.0, 2),
            number(median("recovery"), 1.0, 0),
        )
        .ok();
    }
    text
}

/// Returns the seconds of all runs as comma-separated values, with a header.
#[must_use]
pub fn csv(runs: &[(&Scenario, &[SimulatedRun])]) -> String {
    let mut text = "scenario,law,seed,second,offered,admitted,good,refused,of_peak,limit,in_flight,waiting,ttft_p50_ms\n"
        .to_owned();
    for (scenario, outcomes) in runs {
        // A name is free text: characters that would end a field are replaced.
        let name = scenario.name.replace([',', '"', '\n', '\r'], " ");
        for outcome in *outcomes {
            for (place, second) in outcome.seconds.iter().enumerate() {
                writeln!(
                    text,
                    "{name},{},{},{place},{},{},{},{},{:.4},{},{},{},{}",
                    outcome.policy,
                    outcome.seed,
                    second.offered,
                    second.admitted,
                    second.good,
                    second.refused,
                    second.of_peak,
                    second.limit,
                    second.in_flight,
                    second.waiting,
                    second.ttft_p50.map_or(String::new(), |ttft| millis(ttft).to_string()),
                )
                .ok();
            }
        }
    }
    text
}

fn millis(length: Duration) -> u128 {
    length.as_millis()
}

/// Returns the missed expectations of the scenario and the defects of runs. For each missed figure,
/// a line gives the worst seed, its value and the expected range.
#[must_use]
pub fn misses(scenario: &Scenario, outcomes: &[SimulatedRun]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for outcome in outcomes {
        let at = format!("{} · {} · seed {}", scenario.name, outcome.policy, outcome.seed);
        lines.extend(outcome.defects.iter().map(|defect| format!("{at} · defect: {defect}")));
    }
    for (name, bound) in &scenario.expect {
        let missed = outcomes.iter().filter(|outcome| !bound.holds(outcome.figures.get(name)));
        let by = |outcome: &&SimulatedRun| bound.distance(outcome.figures.get(name));
        let Some(worst) = missed.clone().max_by(|a, b| by(a).total_cmp(&by(b))) else { continue };
        let value = match worst.figures.get(name) {
            Some(value) => format!("{value:.4}"),
            None => "missing".to_owned(),
        };
        lines.push(format!(
            "{} · {} · {name} must be {bound} and is {value} with seed {} (missed by {} of {} seeds)",
            scenario.name,
            worst.policy,
            worst.seed,
            missed.count(),
            outcomes.len()
        ));
    }
    for (name, bound) in &scenario.expect_mean {
        for policy in policies(outcomes) {
            let mean = mean(outcomes.iter().filter(|outcome| outcome.policy == policy), name);
            if !bound.holds(mean) {
                let value = mean.map_or("missing".to_owned(), |value| format!("{value:.4}"));
                let at = format!("{} · {policy}", scenario.name);
                lines.push(format!("{at} · {name} must be {bound} on average and is {value}"));
            }
        }
    }
    lines
}

fn mean<'a>(outcomes: impl Iterator<Item = &'a SimulatedRun>, name: &str) -> Option<f64> {
    let values: Vec<f64> = outcomes.filter_map(|outcome| outcome.figures.get(name)).collect();
    stats::mean(&values)
}

pub(super) fn policies(outcomes: &[SimulatedRun]) -> Vec<Policy> {
    let mut policies: Vec<Policy> = Vec::new();
    for outcome in outcomes {
        if !policies.contains(&outcome.policy) {
            policies.push(outcome.policy);
        }
    }
    policies
}
