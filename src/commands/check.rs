//! `traffic-dam check`: what a configuration comes to.

use std::path::PathBuf;

use traffic_dam::config::{self, Overrides};

use super::{Failure, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file
    #[arg(long)]
    config: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = config::load(&arguments.config, Overrides::default())
        .map_err(|faults| Failure::Misuse(faults.to_string()))?;
    say(settings.effective().trim_end());
    Ok(())
}
