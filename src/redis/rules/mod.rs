//! Rules counted in Redis.

pub mod cell;
pub mod script;
