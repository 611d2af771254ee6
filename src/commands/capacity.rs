//! `traffic-dam capacity`: computes the workers that a load needs, from a measured experiment.

use std::fs;
use std::path::PathBuf;

use traffic_dam::fleet::scaling_law::{FleetGoodput, LinearModel, Usl, workers_for};
use traffic_dam_lab::evidence::chart::{self, ChartLine};
use traffic_dam_lab::evidence::figures::CellFigures;
use traffic_dam_lab::evidence::record::Arm;
use traffic_dam_lab::evidence::report::ExperimentReport;

use super::report::unusable;
use super::{CommandError, print_line};

/// Maximum fleet size considered.
const MOST_WORKERS: u32 = 10_000;
/// Multiple of the largest measured fleet up to which a fitted law is trusted.
const MAX_EXTRAPOLATION: f64 = 3.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The `report.json` of an experiment
    #[arg(value_name = "REPORT")]
    report: PathBuf,
    /// Goodput to serve, in answers per second, also when one worker is lost
    #[arg(long, value_name = "RATE")]
    target: Option<f64>,
    /// Draw the measured points and both laws as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    let path = &arguments.report;
    let text = fs::read_to_string(path).map_err(|error| unusable(path, &error))?;
    let report: ExperimentReport = serde_json::from_str(&text).map_err(|error| unusable(path, &error))?;
    if let Some(fault) = report.faults.first() {
        let message = format!("{}: its data are not valid: {}: {}", path.display(), fault.check, fault.what);
        return Err(CommandError::InvalidData { code: fault.check.exit_code(), message });
    }
    let points = measured(&report).map_err(|error| unusable(path, &error))?;
    let usl = Usl::fit(&points).map_err(|error| unusable(path, &error))?;
    let simple = LinearModel::fit(&points).map_err(|error| unusable(path, &error))?;
    print_line(
        "| workers | measured good/s | Universal Scalability Law | base × N × factor |\n| ---: | ---: | ---: | ---: |",
    );
    for (n, x) in &points {
        print_line(format!("| {n} | {x:.1} | {:.1} | {:.1} |", usl.at(*n), simple.at(*n)));
    }
    let Usl { lambda, alpha, beta } = usl;
    print_line(format!("\nUniversal Scalability Law: λ {lambda:.2}/s, α {alpha:.4}, β {beta:.5}"));
    print_line(usl.peak().map_or_else(
        || "the model predicts no peak: more workers always give more".to_owned(),
        |peak| format!("the model predicts a peak at {peak:.0} workers: more workers give less"),
    ));
    print_line(format!("base {:.2}/s, measured factor {:.3}", simple.base, simple.factor));
    if let Some(target) = arguments.target {
        print_line(plan(target, &points, usl, simple)?);
    }
    if let Some(plot) = &arguments.plot {
        let svg = draw(&points, usl, simple)
            .map_err(|error| CommandError::Unhealthy(format!("--plot: {error}")))?;
        fs::write(plot, svg).map_err(|error| unusable(plot, &error))?;
    }
    Ok(())
}

/// Returns the goodput per fleet size behind the gateway, at the highest load offered to all sizes:
/// at different loads the sizes would not be comparable.
fn measured(report: &ExperimentReport) -> Result<Vec<FleetGoodput>, String> {
    let behind: Vec<&CellFigures> = report.cells.iter().filter(|cell| cell.arm == Arm::Gateway).collect();
    let mut sizes: Vec<u32> = behind.iter().map(|cell| cell.workers).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let at =
        |workers: u32, load: f64| behind.iter().find(|cell| (cell.workers, cell.load) == (workers, load));
    let common = behind
        .iter()
        .map(|cell| cell.load)
        .filter(|load| sizes.iter().all(|size| at(*size, *load).is_some()));
    let load = common.max_by(f64::total_cmp).ok_or("no load was offered to fleets of every size")?;
    let point = |size: u32| Some((f64::from(size), at(size, load)?.goodput.value));
    Ok(sizes.into_iter().filter_map(point).collect())
}

fn plan(target: f64, points: &[FleetGoodput], usl: Usl, simple: LinearModel) -> Result<String, CommandError> {
    if !(target.is_finite() && target > 0.0) {
        return Err(CommandError::Usage(format!("--target is {target}: must be above 0")));
    }
    let by_law = workers_for(target, MOST_WORKERS, |n| usl.at(n));
    let by_factor = workers_for(target, MOST_WORKERS, |n| simple.at(n));
    let (Some(by_law), Some(by_factor)) = (by_law, by_factor) else {
        let beyond = usl.peak().map_or(f64::from(MOST_WORKERS), |peak| peak.min(MOST_WORKERS.into()));
        return Err(CommandError::Unhealthy(format!(
            "no fleet of these workers serves {target}/s with one worker lost: the most is {:.1}/s, with {beyond:.0} \
             workers",
            usl.at(beyond)
        )));
    };
    let needed = by_law.max(by_factor);
    let largest = points.iter().map(|(n, _)| *n).fold(1.0, f64::max);
    let caution = if f64::from(needed) > MAX_EXTRAPOLATION * largest {
        format!("\nan extrapolation, far above the {largest} workers that were measured: measure again")
    } else {
        String::new()
    };
    Ok(format!(
        "for {target}/s with one worker lost: {needed} workers (by the Universal Scalability Law {by_law}, by the factor {by_factor}){caution}"
    ))
}

fn draw(points: &[FleetGoodput], usl: Usl, simple: LinearModel) -> Result<String, chart::ChartError> {
    let most = points.iter().map(|(n, _)| *n).fold(1.0, f64::max) * 2.0;
    let steps = |value: &dyn Fn(f64) -> f64| -> Vec<FleetGoodput> {
        (0..=100).map(|step| 1.0 + (most - 1.0) * f64::from(step) / 100.0).map(|n| (n, value(n))).collect()
    };
    let lines = [
        ChartLine::new("measured", true, points.to_vec()),
        ChartLine::new("Universal Scalability Law", false, steps(&|n| usl.at(n))),
        ChartLine::new("base × N × factor", false, steps(&|n| simple.at(n))),
    ];
    let highest = lines.iter().flat_map(|line| &line.points).map(|(_, x)| *x).fold(1.0, f64::max);
    let titles = ["Goodput by number of workers", "workers", "good answers/s"];
    chart::lines(titles, (0.0..most, 0.0..highest * 1.1), &lines, &[])
}
