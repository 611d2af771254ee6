//! Forwarding over real sockets, to workers that misbehave in ways a real one cannot be made to.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod connections;
mod early;
mod endings;
mod fields;
mod http2;
mod passing;
mod retries;
mod reuse;
mod rig;
mod streams;
