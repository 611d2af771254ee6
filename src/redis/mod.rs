//! Redis: what several gateways share.
//!
//! The only place that talks to Redis. Every command goes over one [`link`], which bounds its time and stops asking a
//! server that does not answer; nothing here ever makes a request wait longer than that.
//!
//! **Failure mode.** Redis may be away, slow, or come back empty. Who asks is told so at once ([`link::Loss`]) and decides
//! by itself.

pub mod callers;
pub mod dams;
pub mod link;
pub mod rules;
pub mod settings;
