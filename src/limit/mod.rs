//! Rules: pure decisions about quotas.

pub mod rule;
