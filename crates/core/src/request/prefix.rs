//! The prefix of a prompt, as far as the choice of a worker needs it.

/// Bytes of text in a block: about 64 tokens. Engines keep blocks of 16 to 64 tokens.
pub const BLOCK_BYTES: u64 = 256;

/// The text of a prompt as a chain of hashes. Two prompts that begin with the same blocks have the
/// same hashes there, and never again after the first block that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptPrefix {
    /// For each whole block, a hash of it and of all blocks before it.
    pub blocks: Box<[u64]>,
    /// Length of the whole text in bytes, its last incomplete block included.
    pub bytes: u64,
}

impl PromptPrefix {
    /// Returns how many of the prompt's `tokens` are in its first `blocks` blocks. At least one
    /// token is always left: an engine computes the last one even if it has all of them.
    #[must_use]
    pub(crate) fn tokens_in(&self, blocks: usize, tokens: u64) -> u64 {
        let bytes = (blocks as u64).saturating_mul(BLOCK_BYTES).min(self.bytes);
        let share = u128::from(tokens) * u128::from(bytes) / u128::from(self.bytes.max(1));
        u64::try_from(share).unwrap_or(u64::MAX).min(tokens.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_shared_out_by_bytes_and_one_is_always_left() {
        let prefix = PromptPrefix { blocks: vec![1, 2, 3, 4].into(), bytes: 1100 };
        assert_eq!(prefix.tokens_in(0, 275), 0);
        assert_eq!(prefix.tokens_in(2, 275), 128);
        assert_eq!(prefix.tokens_in(4, 275), 256);
        assert_eq!(prefix.tokens_in(9, 275), 274, "more blocks than the text has");
        assert_eq!(prefix.tokens_in(4, 0), 0);
    }
}
