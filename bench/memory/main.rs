//! The two ends of `make memory`: a worker whose streams stay open, and a client that opens many and
//! holds them. And a million callers, counted by four rules.

mod callers;
mod hold;
mod worker;

use std::error::Error;
use std::net::SocketAddr;

use clap::Parser;

#[derive(Debug, Parser)]
enum Command {
    /// Answers every POST: JSON at once or, if a stream is asked for, content and then silence
    Worker {
        /// The address to listen on
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Opens connections or streams, prints `open`, and holds them until a line comes from stdin
    Hold(hold::Hold),
    /// Charges a million callers by four rules, and prints the MiB that this takes
    Callers,
}

fn main() -> Result<(), Box<dyn Error>> {
    match Command::parse() {
        Command::Worker { listen } => worker::run(listen),
        Command::Hold(hold) => hold.run(),
        Command::Callers => {
            callers::run();
            Ok(())
        }
    }
}
