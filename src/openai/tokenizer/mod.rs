//! Token counts by the model's own tokenizer, if its file is configured.
//!
//! The `tokenizers` crate is written for trusted input and may panic on odd text. A request's text
//! is not trusted, so a panic only ends the count, and the estimate by bytes is used. The tokens
//! that a worker's chat template adds are not counted here but learned (`estimate`).

use std::panic::{AssertUnwindSafe, catch_unwind};

use sha2::{Digest, Sha256};

use super::body::{Shape, prompt_text};

/// Tokenizer of one or more models.
#[derive(Debug)]
pub(crate) struct Tokenizer {
    tokenizer: tokenizers::Tokenizer,
    digest: [u8; 32],
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// A message that says what is wrong with the file.
    pub(crate) fn read(file: &[u8]) -> Result<Self, String> {
        let read = || -> tokenizers::Result<tokenizers::Tokenizer> {
            let mut tokenizer = tokenizers::Tokenizer::from_bytes(file)?;
            // Training settings: truncation would cut a long count, padding raise a short one.
            tokenizer.with_truncation(None)?.with_padding(None);
            Ok(tokenizer)
        };
        let tokenizer = catch_unwind(read)
            .map_err(|_| "is not a readable tokenizer file".to_owned())?
            .map_err(|error| format!("is not a tokenizer file: {error}"))?;
        Ok(Self { tokenizer, digest: digest(file) })
    }

    /// Returns `true` if this was read from the same bytes.
    #[must_use]
    pub(crate) fn is_of(&self, file: &[u8]) -> bool {
        self.digest == digest(file)
    }

    /// Counts the prompt tokens of a body that [`parse`](super::body::parse) has read; `None` if
    /// that fails. Takes time proportional to the text.
    #[must_use]
    pub(crate) fn count(&self, shape: &Shape, body: &[u8]) -> Option<u64> {
        let mut count = Some(0);
        let mut add = |text: &str| {
            // The worker adds the template's own tokens; they are learned.
            count = count
                .and_then(|sum: u64| Some(sum + self.tokenizer.encode_fast(text, false).ok()?.len() as u64));
        };
        // A count that panicked is discarded, and the tokenizer is only read.
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

    /// Words are tokens; texts are truncated to two and padded to nine.
    const WORDS: &str = r#"{"version":"1.0","added_tokens":[],"normalizer":null,"post_processor":null,"decoder":null,
        "truncation":{"direction":"Right","max_length":2,"strategy":"LongestFirst","stride":0},
        "padding":{"strategy":{"Fixed":9},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,
            "pad_token":"?"},
        "pre_tokenizer":{"type":"Split","pattern":{"Regex":" +(?!$)"},"behavior":"Removed","invert":false},
        "model":{"type":"WordLevel","vocab":{"?":0},"unk_token":"?"}}"#;

    #[test]
    fn all_text_of_a_prompt_is_counted_and_nothing_else() {
        let words = Tokenizer::read(WORDS.as_bytes()).unwrap();
        let count = |kind, body: &str| words.count(&Shape::of_kind(kind), body.as_bytes());
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
            assert!(Tokenizer::read(file.as_bytes()).unwrap_err().starts_with("is not a tokenizer file: "));
        }
        let words = Tokenizer::read(WORDS.as_bytes()).unwrap();
        assert!(words.is_of(WORDS.as_bytes()) && !words.is_of(b"{}"));
    }
}
