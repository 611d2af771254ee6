//! Which models a pool serves.

use std::cmp::Ordering;
use std::sync::Arc;

/// A model's name, or a pattern in which `*` stands for any run of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Arc<str>,
    literal: usize,
    exact: bool,
}

impl Pattern {
    /// The pattern written as `text`.
    #[must_use]
    pub fn new(text: &Arc<str>) -> Self {
        let stars = text.matches('*').count();
        Self { text: Arc::clone(text), literal: text.len() - stars, exact: stars == 0 }
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `name` matches. Takes at most `name.len() × pattern length` steps.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let mut pieces = self.text.split('*');
        let first = pieces.next().unwrap_or("");
        if self.exact {
            return name == first;
        }
        let last = pieces.next_back().unwrap_or("");
        let Some(rest) = name.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else {
            return false;
        };
        // Between both ends, taking the leftmost place of each piece leaves most room for those that follow.
        pieces.try_fold(rest, |rest, piece| rest.find(piece).map(|at| &rest[at + piece.len()..])).is_some()
    }

    /// Which of two patterns that both match says more about a name: an exact one, then the one with more characters
    /// that are not `*`.
    #[must_use]
    pub fn specificity(&self, other: &Self) -> Ordering {
        (self.exact, self.literal).cmp(&(other.exact, other.literal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(&Arc::from(text))
    }

    #[test]
    fn stars_stand_for_any_run() {
        for (text, name, matches) in [
            ("*", "", true),
            ("*", "anything", true),
            ("qwen3", "qwen3", true),
            ("qwen3", "qwen3-14b", false),
            ("qwen*", "qwen", true),
            ("*-14b", "qwen3-14b", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a-c-b-c", true),
            ("a*b*c", "a-c-c", false),
            ("a*bc*c", "abc", false),
            ("**x**", "aaxbb", true),
            ("*é*", "café au lait", true),
        ] {
            assert_eq!(pattern(text).matches(name), matches, "{text} on {name}");
        }
    }

    #[test]
    fn exact_beats_longer_beats_star() {
        let ranked = ["*", "q*", "qwen*", "qwen*4b", "qwen3-14b"];
        for pair in ranked.windows(2) {
            let [low, high] = pair else { unreachable!() };
            assert_eq!(pattern(low).specificity(&pattern(high)), Ordering::Less, "{low} and {high}");
        }
    }
}
