//! Path of the settings file.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};

/// Default path; the container image has its settings there.
const USUAL: &str = "/etc/traffic-dam/dam.yaml";

#[derive(Debug, clap::Args)]
pub(crate) struct SettingsFile {
    /// The configuration file
    #[arg(short, long, env = "TRAFFIC_DAM_CONFIG", default_value = USUAL,
          value_parser = OsStringValueParser::new().try_map(named))]
    pub(crate) config: PathBuf,
}

/// Reads the path. An empty one is probably that of a variable, which the error of clap would not name.
fn named(path: OsString) -> Result<PathBuf, &'static str> {
    match path.is_empty() {
        true => Err("the path is empty: give one, or unset the variable TRAFFIC_DAM_CONFIG"),
        false => Ok(path.into()),
    }
}
