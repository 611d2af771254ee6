//! Plots a scenario per second: good requests, good work, requests in flight, and TTFT. Each limit
//! algorithm has one line, the mean over its seeds.

use super::table::policies;
use super::{Policy, Scenario, Second, SimulatedRun};
use crate::evidence::chart::{ChartError, ChartLine, LinePanel, panels};
use crate::evidence::stats::mean;

struct Panel {
    title: &'static str,
    value: fn(&Second) -> Option<f64>,
    /// Maximum shown: under policy `none` some values grow without end and would flatten the rest.
    most: fn(&Scenario) -> f64,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "good requests per second",
        value: |second| Some(second.good as f64),
        most: |_| f64::INFINITY,
    },
    Panel {
        title: "good work, % of the peak",
        value: |second| Some(second.of_peak * 100.0),
        most: |_| f64::INFINITY,
    },
    Panel {
        title: "in flight",
        value: |second| Some(second.in_flight as f64),
        most: |scenario| {
            let slots = scenario.workers.iter().map(|group| f64::from(group.count) * f64::from(group.slots));
            2.0 * slots.sum::<f64>()
        },
    },
    Panel {
        title: "median time to the first token, ms",
        value: |second| second.ttft_p50.map(|ttft| ttft.as_secs_f64() * 1000.0),
        most: |scenario| 2000.0 * scenario.promise.ttft_slo.0.as_secs_f64(),
    },
];

/// Draws the panels of all scenarios, one below the other, as SVG.
///
/// # Errors
/// If a panel cannot be drawn.
pub fn draw(runs: &[(&Scenario, &[SimulatedRun])]) -> Result<String, ChartError> {
    let panel = |(scenario, outcomes): (&Scenario, &[SimulatedRun]), panel: &Panel| {
        let most = (panel.most)(scenario);
        let lines = lines(outcomes, |second| (panel.value)(second).map(|value| value.min(most)));
        let highest = lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y).fold(1.0, f64::max);
        let title = format!("{}: {}", scenario.name, panel.title);
        LinePanel { title, ends: (scenario.duration.0.as_secs_f64(), highest * 1.05), lines }
    };
    let wanted = runs.iter().flat_map(|run| PANELS.iter().map(move |one| panel(*run, one)));
    panels(&wanted.collect::<Vec<_>>())
}

/// Returns one line per policy: the mean over its runs of `value` for each second.
fn lines(outcomes: &[SimulatedRun], value: impl Fn(&Second) -> Option<f64>) -> Vec<ChartLine> {
    let line = |policy: Policy| {
        let runs = || outcomes.iter().filter(move |outcome| outcome.policy == policy);
        let seconds = runs().map(|run| run.seconds.len()).max().unwrap_or(0);
        let point = |place: usize| {
            let values: Vec<f64> = runs().filter_map(|run| run.seconds.get(place).and_then(&value)).collect();
            Some((place as f64 + 0.5, mean(&values)?))
        };
        ChartLine::new(policy.to_string(), false, (0..seconds).filter_map(point).collect())
    };
    policies(outcomes).into_iter().map(line).collect()
}
