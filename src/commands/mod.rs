//! The subcommands.

mod admin_port;
mod agent;
mod capacity;
mod check;
mod demo;
mod health;
mod load;
pub(crate) mod log;
mod member;
pub(crate) mod names;
mod report;
mod serve;
mod settings_file;
mod shell;
mod simulate;
mod top;
pub(crate) mod version;
mod worker;

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;

/// What the operator did wrong, in the exit code.
const MISUSE: u8 = 2;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Everything in one process: a simulated worker, the gateway, the admin page
    Demo(demo::Arguments),
    /// The gateway
    Serve(serve::Arguments),
    /// Validate a configuration and print the effective settings, secrets redacted
    Check(check::Arguments),
    /// A simulated LLM worker alone, compatible with the OpenAI API
    Worker(Box<worker::Arguments>),
    /// Simulate load before the dam before workers, in virtual time: which law serves how much of it
    Simulate(simulate::Arguments),
    /// Stand beside a worker and say over Redis how it is
    Agent(Box<agent::Arguments>),
    /// Say what the runs of `make experiment` come to, or why nothing may be concluded from them
    Report(report::Arguments),
    /// Say how many workers a load needs, from the report of an experiment with fleets of several sizes
    Capacity(capacity::Arguments),
    /// Watch a running gateway, in the terminal: what its admin page shows
    Top(top::Arguments),
    /// Ask a running gateway's admin port whether it lives (for container health checks)
    Health(health::Arguments),
    /// Print the script that completes this command line in a shell
    Completions(shell::Completions),
    /// Print the manual, in the format of `man`
    Man(shell::Man),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The operator can mend it: settings, addresses.
    #[error("{0}")]
    Misuse(String),
    /// The system failed us.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// What was asked about is not well.
    #[error("{0}")]
    Unwell(String),
    /// Measured data are of no use; the code says why.
    #[error("{message}")]
    Unsound {
        /// The exit code.
        code: u8,
        /// What is wrong with them.
        message: String,
    },
}

/// Runs a command to its end; `line` describes the whole command line.
pub(crate) fn run(command: Command, line: clap::Command, log: &log::Log) -> ExitCode {
    let outcome = match command {
        Command::Demo(arguments) => demo::run(&arguments, log),
        Command::Serve(arguments) => serve::run(&arguments, log),
        Command::Check(arguments) => check::run(&arguments),
        Command::Worker(arguments) => worker::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Agent(arguments) => agent::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Capacity(arguments) => capacity::run(&arguments),
        Command::Top(arguments) => top::run(arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::Completions(arguments) => shell::completions(&arguments, line),
        Command::Man(arguments) => shell::man(&arguments, line),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(&failure),
    }
}

/// Says why the program fails; its exit code.
pub(crate) fn failed(failure: &Failure) -> ExitCode {
    // Nothing can be done about a stderr that cannot be written to.
    writeln!(std::io::stderr(), "traffic-dam: {failure}").ok();
    match failure {
        Failure::Misuse(_) => ExitCode::from(MISUSE),
        Failure::Unsound { code, .. } => ExitCode::from(*code),
        Failure::System(_) | Failure::Unwell(_) => ExitCode::FAILURE,
    }
}

/// Writes a line for the operator. A reader that went away (`| head`) is no failure.
fn say(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush()).ok();
}

/// A runtime for servers.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
