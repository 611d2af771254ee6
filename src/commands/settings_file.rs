//! Path of the settings file.

use std::path::PathBuf;

/// Default path; the container image has its settings there.
const USUAL: &str = "/etc/traffic-dam/dam.yaml";

#[derive(Debug, clap::Args)]
pub(crate) struct SettingsFile {
    /// The configuration file
    #[arg(short, long, env = "TRAFFIC_DAM_CONFIG", default_value = USUAL)]
    pub(crate) config: PathBuf,
}
