//! The workers, as the gateway sees them.

pub mod spec;
