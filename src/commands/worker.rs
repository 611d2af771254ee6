//! `traffic-dam worker`: the simulated worker alone.

use std::net::SocketAddr;

use traffic_dam::net;
use traffic_dam::sim::worker::{Options, serve};

use super::{Failure, runtime, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    #[command(flatten)]
    options: Options,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { listen, options } = arguments;
    runtime()?.block_on(async {
        let listener = net::bind(listen)
            .map_err(|error| Failure::Misuse(format!("--listen: cannot listen on {listen}: {error}")))?;
        say(format!("worker  http://{}", listener.local_addr()?));
        serve(listener, options, super::serve::terminated()).await;
        Ok(())
    })
}
