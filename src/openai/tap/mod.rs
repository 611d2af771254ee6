//! Response observers: what a response has said so far, and what it costs.
//!
//! A response's bytes are the client's and pass unchanged. An observer reads along, however the
//! network cut them, and keeps at most one unfinished line. It runs for every token, so it reads
//! the usual event in place, without copy or allocation. What it cannot read (a line beyond its
//! bound, another protocol) counts as content: the response is committed, not held on a guess.
//!
//! [`SseTap`] reads event streams, [`JsonTap`] JSON responses, and `Pings` finds keep-alive
//! bytes. Only [`UsageFilter`] changes bytes: those that a worker added because the gateway asked.

mod event;
mod filter;
mod json;
mod lines;
mod pings;
mod repeated;
mod sse;
mod usage;

pub use filter::UsageFilter;
pub use json::JsonTap;
pub(crate) use lines::without_mark;
pub(crate) use pings::{Pings, Split};
pub use sse::{SseTap, StreamFacts};
pub use usage::Usage;

/// Longest line (or event of several data lines) that is read as a whole, in bytes. It bounds the
/// memory of an observer or filter per stream; a chunk of one token has some 300 bytes.
const LINE_BOUND: usize = 64 * 1024;

/// Capacity in bytes beyond which an empty buffer is freed: thousands of streams are open at once.
const KEEP: usize = 4 * 1024;

/// Clears a buffer and frees it if it has more than the usual capacity.
fn empty(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEEP {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}

#[cfg(test)]
mod tests;
