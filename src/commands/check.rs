//! `traffic-dam check`: validates a configuration and prints it with its defaults.

use std::io::Write;

use traffic_dam::app::App;
use traffic_dam::config::{self, Overrides};

use super::settings_file::SettingsFile;
use super::{CommandError, print_line, runtime};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    file: SettingsFile,
    /// Print only errors and warnings, not the effective settings
    #[arg(short, long)]
    quiet: bool,
    /// Print the JSON Schema of the configuration file instead, for editors
    #[arg(long, conflicts_with = "quiet")]
    schema: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    if arguments.schema {
        print_line(format!("{:#}", config::schema()));
        return Ok(());
    }
    let file = &arguments.file.config;
    let settings =
        config::load(file, Overrides::default()).map_err(|faults| CommandError::Usage(faults.to_string()))?;
    runtime()?.block_on(async { App::check(&settings) })?;
    if !arguments.quiet {
        print_line(settings.effective().trim_end());
    }
    for warning in settings.warnings() {
        // A stderr that cannot be written to is ignored.
        writeln!(std::io::stderr(), "{}: warning: {warning}", file.display()).ok();
    }
    Ok(())
}
