//! Counts prompts exactly with a tokenizer, off the serving threads.
//!
//! A tokenizer reads a few megabytes per second: too slow for a serving thread, and many long
//! prompts at once would keep every core busy before any limit has seen them. So long texts are
//! counted on blocking threads, a few at a time. If no thread is free or the text is too long, the
//! count is estimated from bytes: less exact, but never later.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::glob::Glob;
use crate::openai::body::{Facts, Shape};
use crate::openai::tokenizer::Tokenizer;

/// Bytes of text counted on the serving thread: about half a millisecond.
const SHORT: u64 = 2048;
/// The longest text that is counted, in bytes: about 250 000 tokens, more than most models take.
const LONGEST: u64 = 1 << 20;

/// Tokenizers by model, with a bound on long counts at once.
#[derive(Debug)]
pub(crate) struct Tokenizers {
    models: Vec<(Glob, Arc<Tokenizer>)>,
    permits: Arc<Semaphore>,
}

impl Tokenizers {
    /// Uses the first tokenizer that matches a model, for at most `permits` long texts at once.
    #[must_use]
    pub(crate) fn new(models: Vec<(Glob, Arc<Tokenizer>)>, permits: usize) -> Self {
        Self { models, permits: Arc::new(Semaphore::new(permits)) }
    }

    /// Returns the tokenizer that was read from the bytes `file`, if there is one.
    #[must_use]
    pub(crate) fn tokenizer_of(&self, file: &[u8]) -> Option<Arc<Tokenizer>> {
        self.models.iter().map(|(_, tokenizer)| tokenizer).find(|tokenizer| tokenizer.is_of(file)).cloned()
    }

    /// Counts the tokens of a body's text for the model that it names, or that is `served` in its
    /// place. `None` if they must be estimated.
    pub(crate) async fn count(
        &self,
        shape: &Shape,
        facts: &Facts,
        served: Option<&str>,
        body: &Bytes,
    ) -> Option<u64> {
        let of = |model: &str| self.models.iter().find(|(pattern, _)| pattern.matches(model));
        let (_, tokenizer) = of(facts.model.as_deref()?).or_else(|| of(served?))?;
        if facts.prompt_bytes <= SHORT {
            return tokenizer.count(shape, body);
        }
        if facts.prompt_bytes > LONGEST {
            return None;
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let (tokenizer, shape, body) = (Arc::clone(tokenizer), shape.clone(), body.clone());
        let count = tokio::task::spawn_blocking(move || {
            // Held until the count is done, also if its request is gone.
            let _seat = permit;
            tokenizer.count(&shape, &body)
        });
        count.await.ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::body::parse;
    use crate::request::Kind;

    async fn count(exact: &Tokenizers, model: &str, words: usize) -> Option<u64> {
        count_as(exact, model, None, words).await
    }

    async fn count_as(exact: &Tokenizers, model: &str, served: Option<&str>, words: usize) -> Option<u64> {
        let body = serde_json::json!({ "model": model, "prompt": "word ".repeat(words) }).to_string();
        let shape = Shape::of_kind(Kind::Completion);
        exact.count(&shape, &parse(&shape, body.as_bytes()).unwrap(), served, &body.into()).await
    }

    #[tokio::test]
    async fn texts_are_counted_if_they_are_not_too_long_and_a_seat_is_free() {
        let file = br#"{"model":{"type":"WordLevel","vocab":{"?":0},"unk_token":"?"},"pre_tokenizer":{"type":"Whitespace"}}"#;
        let tokenizer = Arc::new(Tokenizer::read(file).unwrap());
        let mut exact = Tokenizers::new(vec![(Glob::new("qwen*"), tokenizer)], 1);
        assert_eq!(count(&exact, "qwen3", 3).await, Some(3));
        assert_eq!(count(&exact, "qwen3", 4000).await, Some(4000));
        assert_eq!(count(&exact, "llama", 3).await, None);
        assert_eq!(count_as(&exact, "assistant", Some("qwen3"), 3).await, Some(3));
        assert_eq!(count(&exact, "qwen3", 220_000).await, None);
        exact.permits = Arc::new(Semaphore::new(0));
        assert_eq!((count(&exact, "qwen3", 3).await, count(&exact, "qwen3", 4000).await), (Some(3), None));
    }
}
