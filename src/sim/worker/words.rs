//! What the worker says: one word a token, always the same ones in the same order.
//!
//! Words hold nothing that JSON escapes; some hold characters of several bytes, so that a reader that cuts a stream
//! in the wrong place shows it.

use bytes::BufMut;

const WORDS: [&str; 24] = [
    "The", " water", " rises", " behind", " the", " wall", ",", " and", " the", " gate", " lets", " through",
    " what", " the", " mill", " can", " take", ":", " déjà", " vu", " 水", " —", " no", " more.",
];

/// The text of the token with this number.
pub(super) fn word(index: u32) -> &'static str {
    WORDS[index as usize % WORDS.len()]
}

/// Writes the text of the first `count` tokens.
pub(super) fn put_text(count: u32, out: &mut impl BufMut) {
    (0..count).for_each(|index| out.put_slice(word(index).as_bytes()));
}
