//! The subcommands.

mod admin_port;
mod agent;
mod arguments;
mod build_name;
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
mod service_manager;
mod settings_file;
mod shell;
mod simulate;
mod switch;
mod top;
pub(crate) mod version;
mod worker;

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;

/// Exit code of errors that the operator can fix.
const MISUSE: u8 = 2;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process: a simulated worker, the gateway, the admin page
    Demo(demo::Arguments),
    /// Run the gateway
    Serve(serve::Arguments),
    /// Validate a configuration and print the effective settings, secrets redacted
    Check(check::Arguments),
    /// Run a simulated LLM worker alone, compatible with the OpenAI API
    Worker(Box<worker::Arguments>),
    /// Simulate load on a gateway and its workers in virtual time, to compare limit algorithms
    Simulate(simulate::Arguments),
    /// Run beside a worker and publish its state over Redis
    Agent(Box<agent::Arguments>),
    /// Summarise the runs of `make experiment`, or say why they allow no conclusion
    Report(report::Arguments),
    /// Compute the workers that a load needs, from an experiment with several fleet sizes
    Capacity(capacity::Arguments),
    /// Show a running gateway in the terminal, as its admin page does
    Top(top::Arguments),
    /// Switch a pool to another colour, at once or after a canary
    ///
    /// Exit codes: 0 switched or promoted, 1 went back, 2 went back for want of requests, 3 nothing changed.
    Switch(switch::Arguments),
    /// Check through the admin port that a running gateway is alive (for container health checks)
    Health(health::Arguments),
    /// Print the script for command line completion in a shell
    Completions(shell::Completions),
    /// Print the manual, in the format of `man`
    Man(shell::Man),
}

/// Reason why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The operator can fix it: settings, addresses.
    #[error("{0}")]
    Usage(String),
    /// An I/O error of the system.
    #[error("{0}")]
    System(#[from] std::io::Error),
    /// A negative result (gateway not alive, expectations missed), or output that cannot be made.
    #[error("{0}")]
    Unhealthy(String),
    /// Measured data cannot be used.
    #[error("{message}")]
    InvalidData {
        /// Exit code, by the failed check.
        code: u8,
        /// What is wrong with the data.
        message: String,
    },
}

/// Runs a command; `line` describes the whole command line.
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
        Command::Switch(arguments) => switch::run(arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::Completions(arguments) => shell::completions(&arguments, line),
        Command::Man(arguments) => shell::man(&arguments, line),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(&failure),
    }
}

/// Prints why the program fails, and returns its exit code.
pub(crate) fn failed(failure: &CommandError) -> ExitCode {
    // Errors of writing to stderr are ignored.
    writeln!(std::io::stderr(), "traffic-dam: {failure}").ok();
    match failure {
        CommandError::Usage(_) => ExitCode::from(MISUSE),
        CommandError::InvalidData { code, .. } => ExitCode::from(*code),
        CommandError::System(_) | CommandError::Unhealthy(_) => ExitCode::FAILURE,
    }
}

/// Prints a line for the operator. Ignores write errors, such as a closed pipe (`| head`).
fn print_line(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush()).ok();
}

/// Returns a runtime for the processors that this process may use. With one, its only thread serves
/// connections as well: with threads of a pool, that one would hand each task over.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut builder = match processors {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().build()
}
