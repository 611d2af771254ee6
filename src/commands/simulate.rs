//! `traffic-dam simulate`: tests a limit algorithm on a simulated load.

use std::fs;
use std::path::{Path, PathBuf};

use traffic_dam::config;
use traffic_dam_lab::simulate::{Policy, Scenario, SimulatedRun, batch, plot, table};

use super::{CommandError, print_line};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Scenario file; several are simulated one after the other
    #[arg(long = "scenario", required = true, num_args = 1.., value_name = "FILE")]
    scenarios: Vec<PathBuf>,
    /// Limit algorithm instead of the scenario's: none, slots, stream, aimd, gradient2, vegas or a
    /// number
    #[arg(long, conflicts_with = "compare")]
    law: Option<Policy>,
    /// Run all limit algorithms side by side
    #[arg(long)]
    compare: bool,
    /// First seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of seeds; the table shows the median of each figure
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    seeds: u64,
    /// Write every second of every run as comma-separated values
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw every second as SVG, one line for each limit algorithm
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    let read = arguments.scenarios.iter().map(|path| config::scenario(path));
    let scenarios: Vec<Scenario> =
        read.collect::<Result<_, _>>().map_err(|faults| CommandError::Usage(faults.to_string()))?;
    print_line(table::header().trim_end());
    let mut runs: Vec<(&Scenario, Vec<SimulatedRun>)> = Vec::new();
    let mut misses = Vec::new();
    for scenario in &scenarios {
        let one = [arguments.law.unwrap_or(scenario.dam.law)];
        let policies: &[Policy] = if arguments.compare { &Policy::ALL } else { &one };
        let outcomes = batch(scenario, policies, arguments.seed..arguments.seed + arguments.seeds);
        print_line(table::rows(scenario, &outcomes).trim_end());
        // The other policies are for comparison: nothing is expected of them.
        let judged: Vec<SimulatedRun> =
            outcomes.iter().filter(|outcome| outcome.policy == scenario.dam.law).cloned().collect();
        misses.extend(table::misses(scenario, &judged));
        runs.push((scenario, outcomes));
    }
    let runs: Vec<(&Scenario, &[SimulatedRun])> =
        runs.iter().map(|(scenario, outcomes)| (*scenario, outcomes.as_slice())).collect();
    if let Some(path) = &arguments.csv {
        fs::write(path, table::csv(&runs)).map_err(|error| unwritable("--csv", path, &error))?;
    }
    if let Some(path) = &arguments.plot {
        let svg = plot::draw(&runs).map_err(|error| unwritable("--plot", path, &error))?;
        fs::write(path, svg).map_err(|error| unwritable("--plot", path, &error))?;
    }
    if misses.is_empty() {
        return Ok(());
    }
    Err(CommandError::Unhealthy(format!("expectations missed:\n  {}", misses.join("\n  "))))
}

fn unwritable(option: &str, path: &Path, error: &dyn std::fmt::Display) -> CommandError {
    CommandError::Usage(format!("{option}: cannot write {}: {error}", path.display()))
}
