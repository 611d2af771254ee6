//! The hashes of a prompt's blocks.
//!
//! The hash has a secret key and begins with a salt that says whose prompts may share a cache.
//! Without the key nobody can tell which texts have the same hash, and prompts of different salts
//! never do: so no tenant learns from routing or times what another one sent.

use std::hash::Hasher;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use siphasher::sip::SipHasher13;

use crate::request::{BLOCK_BYTES, PromptPrefix};

const BLOCK: usize = BLOCK_BYTES as usize;

/// Shorter prompts have no prefix worth a choice: reading them takes less than a step of an engine.
pub const LEAST_BLOCKS: usize = 4;
/// Blocks that are hashed at most, 512 KiB of text: more than most models read.
pub const MOST_BLOCKS: usize = 2048;

/// Hashes prompts with a secret key.
#[derive(Clone)]
pub struct PrefixHasher(SipHasher13);

impl std::fmt::Debug for PrefixHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrefixHasher").finish_non_exhaustive()
    }
}

/// Purpose of a derived key: the same secret also signs messages.
const PURPOSE: &[u8] = b"traffic-dam prefix hash";

/// Derives the key of a [`PrefixHasher`] from a secret.
#[must_use]
pub fn prefix_key(secret: &str) -> [u8; 16] {
    // HMAC takes keys of any length; the library's error is for algorithms that do not.
    let keyed = Hmac::<Sha256>::new_from_slice(secret.as_bytes());
    let mut keyed = keyed.unwrap_or_else(|_| Hmac::new(&hmac::digest::Key::<Hmac<Sha256>>::default()));
    keyed.update(PURPOSE);
    let mut key = [0; 16];
    key.iter_mut().zip(keyed.finalize().into_bytes()).for_each(|(byte, derived)| *byte = derived);
    key
}

impl PrefixHasher {
    /// Creates a hasher with this key.
    #[must_use]
    pub fn new(key: &[u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(key))
    }

    /// Begins a prompt. Only prompts of the same salt can have hashes in common.
    #[must_use]
    pub fn chain(&self, salt: &[&[u8]]) -> PrefixChain {
        let mut hasher = self.0;
        for part in salt {
            // With its length: otherwise the end of one part could pass for the start of the next.
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        PrefixChain {
            hasher: self.0,
            parent: hasher.finish(),
            rest: [0; BLOCK],
            filled: 0,
            blocks: Vec::new(),
            bytes: 0,
        }
    }
}

/// A prompt whose text is being hashed.
#[derive(Clone, Debug)]
pub struct PrefixChain {
    hasher: SipHasher13,
    /// Hash of the salt and of all blocks so far.
    parent: u64,
    /// Text after the last whole block: its first `filled` bytes.
    rest: [u8; BLOCK],
    filled: usize,
    blocks: Vec<u64>,
    bytes: u64,
}

impl PrefixChain {
    /// Adds text. Text beyond [`MOST_BLOCKS`] is counted, not hashed.
    pub fn text(&mut self, mut text: &[u8]) {
        self.bytes = self.bytes.saturating_add(text.len() as u64);
        if self.filled > 0 {
            let (head, tail) = text.split_at(text.len().min(BLOCK - self.filled));
            self.keep(head);
            text = tail;
            if self.filled < BLOCK {
                return;
            }
            self.filled = 0;
            let whole = self.rest;
            self.block(&whole);
        }
        let mut blocks = text.chunks_exact(BLOCK);
        for block in &mut blocks {
            self.block(block);
        }
        self.keep(blocks.remainder());
    }

    /// Keeps text that does not fill a block.
    fn keep(&mut self, text: &[u8]) {
        let end = self.filled + text.len();
        if let Some(free) = self.rest.get_mut(self.filled..end) {
            free.copy_from_slice(text);
            self.filled = end;
        }
    }

    fn block(&mut self, block: &[u8]) {
        if self.blocks.len() >= MOST_BLOCKS {
            return;
        }
        let mut hasher = self.hasher;
        hasher.write_u64(self.parent);
        hasher.write(block);
        self.parent = hasher.finish();
        self.blocks.push(self.parent);
    }

    /// Returns the prompt's prefix; `None` if it has fewer than [`LEAST_BLOCKS`] blocks.
    #[must_use]
    pub fn finish(self) -> Option<PromptPrefix> {
        let long = self.blocks.len() >= LEAST_BLOCKS;
        long.then(|| PromptPrefix { blocks: self.blocks.into(), bytes: self.bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(key: u8, salt: &[&[u8]], text: &[&str]) -> Option<PromptPrefix> {
        let mut chain = PrefixHasher::new(&[key; 16]).chain(salt);
        text.iter().for_each(|text| chain.text(text.as_bytes()));
        chain.finish()
    }

    #[test]
    fn blocks_are_the_same_up_to_the_first_that_differs() {
        let (same, one, other) = ("s".repeat(1200), "a".repeat(600), "b".repeat(600));
        let one = prefix(1, &[], &[&same, &one]).unwrap();
        let other = prefix(1, &[], &[&same, &other]).unwrap();
        assert_eq!((one.blocks.len(), one.bytes), (7, 1800));
        assert_eq!(one.blocks[..4], other.blocks[..4], "1024 of 1200 bytes");
        assert!((4..7).all(|block| one.blocks[block] != other.blocks[block]));
    }

    #[test]
    fn a_text_has_one_chain_however_it_comes() {
        let text: String = (0..3000).map(|i| char::from(b'a' + (i % 23) as u8)).collect();
        let whole = prefix(1, &[], &[&text]).unwrap();
        for cut in [1, 100, 255, 256, 257, 512, 2999] {
            let (head, tail) = text.split_at(cut);
            assert_eq!(prefix(1, &[], &[head, "", tail]).as_ref(), Some(&whole), "{cut}");
        }
        let bytes: Vec<String> = text.chars().map(String::from).collect();
        let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
        assert_eq!(prefix(1, &[], &bytes), Some(whole));
    }

    #[test]
    fn another_key_or_salt_shares_nothing() {
        let text = "x".repeat(2048);
        let of = |key, salt: &[&[u8]]| prefix(key, salt, &[&text]).unwrap().blocks;
        let first = of(1, &[b"ab", b"c"]);
        for (key, salt) in [(2, &[&b"ab"[..], b"c"][..]), (1, &[b"a", b"bc"]), (1, &[b"abc"]), (1, &[])] {
            assert!(of(key, salt).iter().zip(&first).all(|(one, other)| one != other), "{salt:?}");
        }
    }

    #[test]
    fn keys_are_derived_from_the_whole_secret() {
        assert_eq!(prefix_key("a"), prefix_key("a"));
        let keys = ["a", "b", "", &"a".repeat(100)].map(prefix_key);
        assert!((1..4).all(|other| keys[other] != keys[0]));
    }

    #[test]
    fn short_prompts_have_no_prefix_and_the_longest_have_a_bound() {
        assert_eq!(prefix(1, &[], &[&"x".repeat(1023)]), None);
        assert_eq!(prefix(1, &[], &[&"x".repeat(1024)]).unwrap().blocks.len(), LEAST_BLOCKS);
        let long = prefix(1, &[], &[&"x".repeat(BLOCK * MOST_BLOCKS + 5000)]).unwrap();
        assert_eq!((long.blocks.len(), long.bytes), (MOST_BLOCKS, (BLOCK * MOST_BLOCKS + 5000) as u64));
    }
}
