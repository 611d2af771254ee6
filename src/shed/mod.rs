//! Concurrency: pure decisions about who occupies a worker.

pub mod settings;
