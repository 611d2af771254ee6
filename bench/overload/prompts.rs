//! Prompts: their text does not matter, only their drawn length.

use std::borrow::Cow;

use crate::arrivals::Arrival;

/// Source text of alike prompts, four bytes to a token.
const FILLER: &str = "Tell me why water finds its level, ";
/// Words of varied prompts.
const WORDS: [&str; 16] = [
    "water", "finds", "its", "own", "level", "because", "the", "pressure", "at", "equal", "depth", "must",
    "be", "same", "in", "every",
];
/// A small tokenizer spells words: about five tokens each.
const TOKENS_PER_WORD: u32 = 5;
/// Every real engine has room for this many.
const MOST_WORDS: u32 = 80;

/// Source of prompts.
#[derive(Debug)]
pub(crate) enum Prompts {
    /// All prompts are the start of one text: the simulated worker uses only their length.
    Alike(String),
    /// No two prompts are alike; holds the seed of their words.
    Varied(u64),
}

impl Prompts {
    pub(crate) fn alike() -> Self {
        Self::Alike(FILLER.repeat(200))
    }

    /// Returns varied prompts, different for each client.
    pub(crate) fn varied() -> Self {
        Self::Varied(fastrand::u64(..))
    }

    /// Returns the prompt of an arrival.
    pub(crate) fn of(&self, arrival: &Arrival) -> Cow<'_, str> {
        match self {
            Self::Alike(text) => Cow::Borrowed(&text[..(arrival.prompt_tokens as usize * 4).min(text.len())]),
            Self::Varied(seed) => Cow::Owned(words(arrival, *seed)),
        }
    }
}

fn words(arrival: &Arrival, seed: u64) -> String {
    let due = arrival.due.as_nanos() as u64;
    let mut random = fastrand::Rng::with_seed(seed ^ due.rotate_left(16) ^ u64::from(arrival.caller));
    let count = (arrival.prompt_tokens / TOKENS_PER_WORD).clamp(1, MOST_WORDS);
    let words: Vec<&str> = (0..count).map(|_| WORDS[random.usize(..WORDS.len())]).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn varied_prompts_are_all_different() {
        let arrival = |millis, prompt_tokens| Arrival {
            due: Duration::from_millis(millis),
            caller: 0,
            class: crate::arrivals::Class::Interactive,
            streamed: true,
            prompt_tokens,
            max_tokens: None,
        };
        let all: std::collections::HashSet<String> = (0..500).map(|ms| words(&arrival(ms, 150), 7)).collect();
        assert_eq!(all.len(), 500);
        assert!(all.iter().all(|prompt| prompt.split(' ').count() == 30));
        assert_eq!(words(&arrival(1, 1500), 7).split(' ').count(), MOST_WORDS as usize);
    }
}
