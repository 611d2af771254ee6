//! What several gateways share, on a real Redis.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

#[path = "redis/differential.rs"]
mod differential;
#[path = "redis/server.rs"]
mod server;
