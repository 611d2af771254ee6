//! The two ends of `make bench-proxy`: a worker that answers at once, and a client that measures what lies between.
//!
//! Both are here, and not a real worker and a real client, because they must cost next to nothing: what they add to
//! every figure hides what the proxies add.

mod backend;
mod load;

use std::error::Error;
use std::net::SocketAddr;

use clap::Parser;

#[derive(Debug, Parser)]
enum Command {
    /// Answers every POST: JSON at once, or, where the body asks for a stream, a few tokens with pauses between them
    Backend {
        /// Where to listen
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Sends requests at fixed times and prints the median, the 99th percentile (µs) and the number of failures
    Load(load::Load),
}

fn main() -> Result<(), Box<dyn Error>> {
    match Command::parse() {
        Command::Backend { listen } => backend::run(listen),
        Command::Load(load) => load.run(),
    }
}
