//! The settings file: what is accepted, what is refused and where, what is shown, and reloading.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

#[path = "config/documents.rs"]
mod documents;
#[path = "config/faults.rs"]
mod faults;
#[path = "config/hostile.rs"]
mod hostile;
#[path = "config/reload.rs"]
mod reload;
#[path = "config/values.rs"]
mod values;

use std::path::Path;

use traffic_dam::config::{ConfigErrors, LoadContext, Overrides, Settings, from_str};

/// The smallest settings that load; tests append to it.
const LEAST: &str = "workers: { static: [{ id: w1, url: \"http://127.0.0.1:8000\", slots: 8 }] }\n";

/// Reads settings; every named file is readable and these variables are set.
fn read(text: &str) -> Result<Settings, ConfigErrors> {
    let variable = |name: &str| match name {
        "DAM_ADMIN_TOKEN" => Some("s3cret-admin".to_owned()),
        "DAM_READ_TOKEN" => Some("s3cret-read".to_owned()),
        "DAM_METRICS_TOKEN" => Some("s3cret-metrics".to_owned()),
        "REDIS_PASSWORD" => Some("s3cret-redis".to_owned()),
        "PROVIDER_KEY" => Some("s3cret-provider".to_owned()),
        "WORKER_KEY" => Some("s3cret-worker".to_owned()),
        "OTLP_TOKEN" => Some("s3cret-otlp".to_owned()),
        "DAM_REDIS_KEY" => Some("s3cret-hmac".to_owned()),
        "DAM_PREFIX_KEY" => Some("s3cret-prefix".to_owned()),
        "NUMBER" => Some("12".to_owned()),
        "EMPTY" => Some(String::new()),
        "NULL" => Some("null".to_owned()),
        _ => None,
    };
    let surroundings =
        LoadContext { variable: &variable, obstacle: &|_| None, overrides: Overrides::default() };
    from_str(text, Path::new("dam.yaml"), surroundings)
}

/// Returns settings that must load.
fn settings(text: &str) -> Settings {
    read(text).unwrap_or_else(|faults| panic!("{faults}"))
}

/// Returns the errors of settings that must not load.
fn faults(text: &str) -> ConfigErrors {
    read(text).err().unwrap_or_else(|| panic!("no fault in:\n{text}"))
}

/// Reads a file of the repository.
fn repository(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}
