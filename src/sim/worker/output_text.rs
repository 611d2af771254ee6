//! Output text: one word per token, always the same words in the same order.
//!
//! No word needs JSON escapes. Some have multi-byte characters, to expose readers that cut a stream
//! in the wrong place.

use std::ops::Range;

const WORDS: [&str; 24] = [
    "The", " water", " rises", " behind", " the", " wall", ",", " and", " the", " gate", " lets", " through",
    " what", " the", " mill", " can", " take", ":", " déjà", " vu", " 水", " —", " no", " more.",
];

pub(super) fn word(index: u32) -> &'static str {
    WORDS[index as usize % WORDS.len()]
}

pub(super) fn text(tokens: Range<u32>) -> String {
    tokens.map(word).collect()
}
