//! Redis: state shared by gateways and workers. No other module talks to Redis.
//!
//! Commands of requests use one [`link`], which bounds their time and stops asking a server that
//! does not answer. Subscriptions and operator commands have their own connections.
//!
//! **Failure mode.** Redis may be away, slow, or come back empty. It never makes a request fail, or
//! wait longer than the link's timeout: the calling code gets a [`link::RedisLoss`] at once, and decides
//! locally or by the last known state.

pub(crate) mod callers;
pub(crate) mod canaries;
pub(crate) mod changes;
pub(crate) mod control;
pub(crate) mod exchange;
pub(crate) mod feed;
pub mod gateways;
pub mod jobs;
pub mod link;
mod odd;
mod outbox;
pub(crate) mod responses;
pub mod rules;

pub(crate) use redis::{RedisError, RedisResult};
use traffic_dam_worker::{connect, pushes, reply, scripts};
pub use traffic_dam_worker::{consumer, publisher, settings};
pub(crate) use traffic_dam_worker::{drainer, signing};

/// Converts to whole milliseconds, for a command.
fn millis(length: std::time::Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
