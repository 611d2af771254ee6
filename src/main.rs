//! `traffic-dam`: runs the subcommand in the arguments and returns its exit code.

// The futures of Redis cluster connections are nested deeper than the compiler's default limit.
#![recursion_limit = "256"]

mod commands;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

use commands::Command;

/// A request makes dozens of small, short-lived allocations. With this allocator a small proxied
/// request takes 5 to 10 % less CPU than with the system's (`make bench-proxy`). Only the program
/// sets it; the library leaves the choice to its user.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "traffic-dam", version = commands::version::FULL, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let line = commands::names::with_former(Arguments::command());
    let parsed = Arguments::from_arg_matches(&line.clone().get_matches());
    let Arguments { command } = parsed.unwrap_or_else(|error| error.exit());
    match commands::log::start(matches!(command, Command::Demo(_))) {
        Ok(log) => commands::run(command, line, &log),
        Err(failure) => commands::failed(&failure),
    }
}
