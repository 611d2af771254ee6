//! Counting prompts exactly, beside the requests that wait for it.
//!
//! A tokenizer reads some megabytes in a second: too slow for a thread that serves, and enough to keep every core busy
//! when long prompts come at once, before any limit has seen them. So long texts are counted on threads of their own, by
//! few at a time, and whoever finds no seat free or has too long a text is estimated by bytes instead: less exact, never
//! later.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::glob::Glob;
use crate::openai::demand::{Facts, Shape};
use crate::openai::tokenizer::Tokenizer;

/// Bytes of text that are counted where they are: about half a millisecond at some megabytes in a second.
const SHORT: u64 = 2048;
/// The longest text that is counted, in bytes: some 250 000 tokens, more than most models take.
const LONGEST: u64 = 1 << 20;

/// The tokenizers of models.
#[derive(Debug)]
pub struct Exact {
    models: Vec<(Glob, Arc<Tokenizer>)>,
    seats: Arc<Semaphore>,
}

impl Exact {
    /// Counts with the first tokenizer whose pattern matches a model, for at most `seats` long texts at once.
    #[must_use]
    pub fn new(models: Vec<(Glob, Arc<Tokenizer>)>, seats: usize) -> Self {
        Self { models, seats: Arc::new(Semaphore::new(seats)) }
    }

    /// The tokenizer that was read from these bytes, if one was.
    #[must_use]
    pub fn tokenizer_of(&self, file: &[u8]) -> Option<Arc<Tokenizer>> {
        self.models.iter().map(|(_, tokenizer)| tokenizer).find(|tokenizer| tokenizer.is_of(file)).cloned()
    }

    /// The tokens of a body's text; nothing when it has to be estimated.
    pub async fn count(&self, shape: &Shape, facts: &Facts, body: &Bytes) -> Option<u64> {
        let model = facts.model.as_deref()?;
        let (_, tokenizer) = self.models.iter().find(|(pattern, _)| pattern.matches(model))?;
        if facts.prompt_bytes <= SHORT {
            return tokenizer.count(shape, body);
        }
        if facts.prompt_bytes > LONGEST {
            return None;
        }
        let seat = Arc::clone(&self.seats).try_acquire_owned().ok()?;
        let (tokenizer, shape, body) = (Arc::clone(tokenizer), shape.clone(), body.clone());
        let count = tokio::task::spawn_blocking(move || {
            // Held until the work is done, also when nobody waits for it any longer.
            let _seat = seat;
            tokenizer.count(&shape, &body)
        });
        count.await.ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::demand::parse;
    use crate::request::Kind;

    async fn count(exact: &Exact, model: &str, words: usize) -> Option<u64> {
        let body = serde_json::json!({ "model": model, "prompt": "word ".repeat(words) }).to_string();
        let shape = Shape::openai(Kind::Completion);
        exact.count(&shape, &parse(&shape, body.as_bytes()).unwrap(), &body.into()).await
    }

    #[tokio::test]
    async fn texts_are_counted_if_they_are_not_too_long_and_a_seat_is_free() {
        let file = br#"{"model":{"type":"WordLevel","vocab":{"?":0},"unk_token":"?"},"pre_tokenizer":{"type":"Whitespace"}}"#;
        let tokenizer = Arc::new(Tokenizer::read(file).unwrap());
        let mut exact = Exact::new(vec![(Glob::new("qwen*"), tokenizer)], 1);
        assert_eq!(count(&exact, "qwen3", 3).await, Some(3));
        assert_eq!(count(&exact, "qwen3", 4000).await, Some(4000));
        assert_eq!(count(&exact, "llama", 3).await, None);
        assert_eq!(count(&exact, "qwen3", 220_000).await, None);
        exact.seats = Arc::new(Semaphore::new(0));
        assert_eq!((count(&exact, "qwen3", 3).await, count(&exact, "qwen3", 4000).await), (Some(3), None));
    }
}
