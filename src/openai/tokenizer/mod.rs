//! How many tokens is it? Counted by the model's own tokenizer, where the settings name its file.
//!
//! The crate behind it is written for trusted input and may panic on text nobody thought of; a request's text is not
//! trusted, so a panic ends the count and nothing else, and the estimate by bytes serves. What a worker's chat template
//! adds is not counted here: it is learned (`estimate`).

use std::panic::{AssertUnwindSafe, catch_unwind};

use sha2::{Digest, Sha256};

use super::demand::{Shape, prompt_text};

/// A tokenizer of some models.
#[derive(Debug)]
pub struct Tokenizer {
    tokenizer: tokenizers::Tokenizer,
    digest: [u8; 32],
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(file: &[u8]) -> Result<Self, String> {
        let read = || -> tokenizers::Result<tokenizers::Tokenizer> {
            let mut tokenizer = tokenizers::Tokenizer::from_bytes(file)?;
            // How a model was trained: the first would cut a long prompt's count, the second raise a short one's.
            tokenizer.with_truncation(None)?.with_padding(None);
            Ok(tokenizer)
        };
        let tokenizer = catch_unwind(read)
            .map_err(|_| "is no tokenizer that can be read".to_owned())?
            .map_err(|error| format!("is no tokenizer: {error}"))?;
        Ok(Self { tokenizer, digest: digest(file) })
    }

    /// Whether this was read from the same bytes.
    #[must_use]
    pub fn is_of(&self, file: &[u8]) -> bool {
        self.digest == digest(file)
    }

    /// Counts the text of a body that [`parse`](super::demand::parse) has read; nothing when it cannot be counted. Takes
    /// time by the length of the text.
    #[must_use]
    pub fn count(&self, shape: &Shape, body: &[u8]) -> Option<u64> {
        let mut count = Some(0);
        let mut add = |text: &str| {
            // The template's own tokens are not in the text: the worker adds them, and they are learned.
            count = count
                .and_then(|sum: u64| Some(sum + self.tokenizer.encode_fast(text, false).ok()?.len() as u64));
        };
        // Nothing of a count that ended in the middle is used, and the tokenizer is only read.
        catch_unwind(AssertUnwindSafe(|| prompt_text(shape, body, &mut add))).ok()?.ok()?;
        count
    }
}

fn digest(file: &[u8]) -> [u8; 32] {
    Sha256::digest(file).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Kind;

    /// Words are tokens, and no text is longer than two of them.
    const WORDS: &str = r#"{"version":"1.0","added_tokens":[],"normalizer":null,"post_processor":null,"decoder":null,
        "truncation":{"direction":"Right","max_length":2,"strategy":"LongestFirst","stride":0},
        "padding":{"strategy":{"Fixed":9},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,
            "pad_token":"?"},
        "pre_tokenizer":{"type":"Split","pattern":{"Regex":" +(?!$)"},"behavior":"Removed","invert":false},
        "model":{"type":"WordLevel","vocab":{"?":0},"unk_token":"?"}}"#;

    #[test]
    fn all_text_of_a_prompt_is_counted_and_nothing_else() {
        let words = Tokenizer::read(WORDS.as_bytes()).unwrap();
        let count = |kind, body: &str| words.count(&Shape::openai(kind), body.as_bytes());
        let chat = r#"{"messages":[{"role":"user","content":"one two three"},
            {"role":"user","content":[{"type":"text","text":"f\u006fur fi\nve \ud83d\ude00"},
            {"type":"image_url","image_url":{"url":"https://example.org/a/b/c"}}]}],"model":"no words of it"}"#;
        assert_eq!(count(Kind::Chat, chat), Some(6));
        assert_eq!(count(Kind::Chat, r#"{"messages":[],"tools":[{"a": 1, "b": 2}]}"#), Some(4));
        assert_eq!(count(Kind::Completion, r#"{"prompt":["one two",[1,2,3],"three"]}"#), Some(3));
        assert_eq!(count(Kind::Response, r#"{"instructions":"be short","input":"\ud800 what"}"#), Some(4));
        assert_eq!(count(Kind::Embedding, r#"{"input":""}"#), Some(0));
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_refused() {
        for file in ["", "{}", r#"{"model":{"type":"WordLevel","vocab":{}}"#] {
            assert!(Tokenizer::read(file.as_bytes()).unwrap_err().starts_with("is no tokenizer: "));
        }
        let words = Tokenizer::read(WORDS.as_bytes()).unwrap();
        assert!(words.is_of(WORDS.as_bytes()) && !words.is_of(b"{}"));
    }
}
