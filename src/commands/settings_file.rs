//! Which settings file is meant.

use std::path::PathBuf;

/// Where the settings are when nobody says otherwise; the image has them there.
const USUAL: &str = "/etc/traffic-dam/dam.yaml";

#[derive(Debug, clap::Args)]
pub(crate) struct SettingsFile {
    /// The configuration file
    #[arg(short, long, env = "TRAFFIC_DAM_CONFIG", default_value = USUAL)]
    pub(crate) config: PathBuf,
}
