//! `traffic-dam report`: summarises an experiment's runs, or says why they allow no conclusion.

use std::fs;
use std::path::{Path, PathBuf};

use traffic_dam_lab::evidence::record::RecordedRun;
use traffic_dam_lab::evidence::report::ExperimentReport;

use super::{CommandError, print_line};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder of an experiment: `runs/*/run.json`, each beside a `requests.jsonl`; the report is
    /// written into the folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    let runs = read(&arguments.folder.join("runs"))?;
    let report = ExperimentReport::of(&runs);
    let files =
        report.files(&runs).map_err(|error| CommandError::Unhealthy(format!("the report: {error}")))?;
    for (name, text) in
        [("index.html", &files.page), ("report.md", &files.text), ("report.json", &files.json)]
    {
        let path = arguments.folder.join(name);
        fs::write(&path, text).map_err(|error| unusable(&path, &error))?;
    }
    print_line(files.text.trim_end());
    // The first failed check sets the exit code; the report has the others.
    report.faults.first().map_or(Ok(()), |fault| {
        let message = format!("no conclusion: {}: {}", fault.check, fault.what);
        Err(CommandError::InvalidData { code: fault.check.exit_code(), message })
    })
}

fn read(folder: &Path) -> Result<Vec<RecordedRun>, CommandError> {
    let entries = fs::read_dir(folder).map_err(|error| unusable(folder, &error))?;
    let mut runs: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    runs.sort();
    let text = |path: PathBuf| fs::read_to_string(&path).map_err(|error| unusable(&path, &error));
    runs.iter()
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let run =
                RecordedRun::read(&name, &text(path.join("run.json"))?, &text(path.join("requests.jsonl"))?);
            run.map_err(CommandError::Usage)
        })
        .collect()
}

pub(super) fn unusable(path: &Path, error: &dyn std::fmt::Display) -> CommandError {
    CommandError::Usage(format!("{}: {error}", path.display()))
}
