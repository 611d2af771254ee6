//! The overload run: goodput when the load exceeds what a worker can serve. `scripts/overload`
//! builds and runs it.
//!
//! Gateways and workers are separate processes, as in production. The generator has one thread for
//! the event loop and one that keeps the time, and it measures its own CPU. If the generator was
//! the bottleneck, the run says so and does not count.

mod arrivals;
mod client;
mod document;
mod drive;
mod figures;
mod gateways;
mod limit;
mod machine;
mod parts;
mod picture;
mod plan;
mod prompts;
mod reader;
mod sample;
mod scrape;
mod section;
mod servers;
mod stage;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::figures::Rate;
use crate::parts::{critical, engine, failover, fairness, hiccups, killed, loads, mixed, retry, say, scale};
use crate::plan::{Options, Part, WORKER};
use crate::section::Section;
use crate::stage::{FULL, Stage};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        // However the run ends, the servers end with it: they are killed on drop.
        tokio::select! {
            done = run(&options) => done,
            _ = terminated.recv() => Err("terminated".into()),
            _ = interrupted.recv() => Err("interrupted".into()),
        }
    })
}

/// Makes the run and writes the document. A run that does not count as a whole is a failure; a
/// missed target is a finding.
async fn run(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let began = Instant::now();
    let folder = tempfile::tempdir()?;
    let unknown = Rate { requests: 0.0, tokens: 0.0 };
    let mut stage = Stage { options, folder: folder.path(), peak: unknown, nginx: None };
    if options.parts.iter().any(|part| part.needs_peak()) {
        stage.peak = stage.best(WORKER, &FULL, options.measured()).await?;
        say(format_args!(
            "capacity: {:.1} answers, {:.0} tokens per second",
            stage.peak.requests, stage.peak.tokens
        ));
    }
    let mut sections = Vec::new();
    for part in &options.parts {
        let made = match part {
            Part::Loads => loads::run(&mut stage).await,
            Part::Fairness => fairness::run(&stage).await,
            Part::Retry => retry::run(&stage).await,
            Part::Killed => killed::run(&stage).await,
            Part::Mixed => mixed::run(&stage).await,
            Part::Critical => critical::run(&stage).await,
            Part::Hiccups => hiccups::run(&stage).await,
            Part::Failover => failover::run(&stage).await,
            Part::Engine => engine::run(&stage).await,
            Part::Scale => scale::run(&stage).await,
        };
        sections.push(made.unwrap_or_else(|error| {
            say(format_args!("{part:?}: {error}"));
            let faults = vec![format!("it broke off: {error}")];
            Section { faults, ..Section::new(&format!("{part:?}"), "") }
        }));
    }
    let peak = Some(stage.peak).filter(|peak| peak.tokens > 0.0);
    let frame = document::Frame { options, peak, took: began.elapsed() };
    frame.write(&sections)?;
    print(&frame.text(&sections));
    let counts = sections.iter().all(|section| section.faults.is_empty());
    Ok(if counts { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "the document is what the run prints")]
fn print(document: &str) {
    println!("{document}");
}
