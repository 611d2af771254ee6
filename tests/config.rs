//! The settings file: what is read, what is refused and where, what is shown, and how it is reloaded.

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

use traffic_dam::config::{Faults, Overrides, Settings, Surroundings, from_str};

/// The least settings that load; tests append to it.
const LEAST: &str = "workers: { static: [{ id: w1, url: \"http://127.0.0.1:8000\", slots: 8 }] }\n";

/// Reads settings where every named file can be read and these variables are set.
fn read(text: &str) -> Result<Settings, Faults> {
    let variable = |name: &str| match name {
        "DAM_ADMIN_TOKEN" => Some("s3cret-admin".to_owned()),
        "DAM_READ_TOKEN" => Some("s3cret-read".to_owned()),
        "DAM_METRICS_TOKEN" => Some("s3cret-metrics".to_owned()),
        "REDIS_PASSWORD" => Some("s3cret-redis".to_owned()),
        "WORKER_KEY" => Some("s3cret-worker".to_owned()),
        "OTLP_TOKEN" => Some("s3cret-otlp".to_owned()),
        "DAM_REDIS_KEY" => Some("s3cret-hmac".to_owned()),
        "NUMBER" => Some("12".to_owned()),
        "EMPTY" => Some(String::new()),
        "NULL" => Some("null".to_owned()),
        _ => None,
    };
    let surroundings =
        Surroundings { variable: &variable, obstacle: &|_| None, overrides: Overrides::default() };
    from_str(text, Path::new("dam.yaml"), surroundings)
}

/// Settings that must load.
fn settings(text: &str) -> Settings {
    read(text).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The faults of settings that must not load.
fn faults(text: &str) -> Faults {
    read(text).err().unwrap_or_else(|| panic!("no fault in:\n{text}"))
}

/// A file of the repository.
fn repository(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}
