//! Looking over the shoulder of an answer: what has it said so far, and what did it cost?
//!
//! The bytes of an answer belong to the client and pass as they are; a tap reads along, whatever way the network cut
//! them, and keeps at most one unfinished line. It is fed on the path of every token, so the usual event is read where
//! it lies, without a copy or an allocation. What it cannot read (a line beyond its bound, another protocol) counts as
//! content: the answer is committed to the client rather than held back on a guess.
//!
//! [`SseTap`] reads event streams, [`JsonTap`] whole JSON answers, and [`Pings`] finds what only keeps a stream alive. [`UsageFilter`] is the one that changes bytes, and
//! only those that a worker added because we asked it to.

mod event;
mod filter;
mod json;
mod lines;
mod pings;
mod sse;
mod usage;

pub use filter::UsageFilter;
pub use json::JsonTap;
pub(crate) use lines::without_mark;
pub use pings::{Parted, Pings};
pub use sse::{Seen, SseTap};
pub use usage::Usage;

/// The longest line (or event of several data lines) that is read whole, in bytes. It bounds what a tap or filter
/// keeps of one stream; a chunk of one token has some 300.
pub const LINE_BOUND: usize = 64 * 1024;

/// A buffer that grew beyond this is given back when it is empty again: thousands of streams are open at once.
const KEEP: usize = 4 * 1024;

/// Empties a buffer and gives back what is beyond the usual size.
fn empty(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEEP {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}

#[cfg(test)]
mod tests;
