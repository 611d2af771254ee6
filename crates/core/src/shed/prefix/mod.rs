//! Prefix caches: which worker has read the beginning of a prompt before.
//!
//! Engines keep the KV cache of prompts they have read. A prompt with the same beginning, such as
//! the next turn of a conversation, then costs only its new part. So the gate remembers for each
//! worker the blocks of the prompts that it sent there, and sends a prompt where the least is left
//! to read.
//!
//! * **Failure mode.** The index is a guess: an engine may have dropped a block, or have lost all
//!   of them in a restart. What engines report about their caches corrects it.
//! * **Trade-off.** Hashes of blocks take memory in the gateway (bounded per worker), and time
//!   under the pool's lock in proportion to the length of a prompt.

mod cache;
mod chain;
mod choice;
mod index;
#[cfg(test)]
mod properties;
mod tally;

pub use chain::{LEAST_BLOCKS, MOST_BLOCKS, PrefixChain, PrefixHasher, prefix_key};
pub use index::PrefixIndex;
pub use tally::PrefixFigures;

pub(super) use choice::{PrefixOption, best};
pub(super) use tally::PrefixTally;

/// Tokens per block, for the size of a worker's cache: four bytes are about a token.
const BLOCK_TOKENS: u64 = 64;
/// Blocks that a worker is assumed to keep if its size is unknown: 131072 tokens.
const UNKNOWN_SIZE: u64 = 2048;
/// Maximum number of blocks per worker: 4 million tokens, about 3 MB of memory.
const MOST_KEPT: u64 = 65_536;

/// Returns the number of blocks that a worker with a cache of `tokens` tokens keeps.
pub(super) fn blocks_of(tokens: Option<u64>) -> usize {
    let blocks = tokens.map_or(UNKNOWN_SIZE, |tokens| tokens / BLOCK_TOKENS);
    usize::try_from(blocks.clamp(1, MOST_KEPT)).unwrap_or(usize::MAX)
}
