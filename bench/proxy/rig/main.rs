//! The two ends of `make bench-proxy`: a worker that answers at once, and a client that measures
//! the proxy between them.
//!
//! A real worker and client would cost more CPU time, and that would hide what the proxies add.

mod backend;
mod load;
mod streams;

use std::error::Error;
use std::net::SocketAddr;

use clap::Parser;

#[derive(Debug, Parser)]
enum Command {
    /// Answers every POST: JSON at once or, if a stream is asked for, a few tokens with pauses
    Backend {
        /// The address to listen on
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Sends requests at fixed times and prints the median, the 99th percentile (µs) and the number of failures
    Load(load::Load),
    /// Reads streams, one after another on each connection, and prints the streams, events and failures
    Streams(streams::Streams),
}

fn main() -> Result<(), Box<dyn Error>> {
    match Command::parse() {
        Command::Backend { listen } => backend::run(listen),
        Command::Load(load) => load.run(),
        Command::Streams(streams) => streams.run(),
    }
}
