//! Patterns in which `*` stands for any run of characters, as the settings use them.
//!
//! One implementation for paths, models, callers and rules: two readings of one pattern would let a request past the
//! one while the other promises to stop it.

use std::cmp::Ordering;
use std::sync::Arc;

/// A pattern in which `*` stands for any run of characters, also an empty one. Everything else stands for itself.
///
/// Cut at the stars once, so that matching is a prefix, leftmost searches and a suffix: no memory, and no pattern that
/// makes it slow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: Arc<str>,
    /// What stands between the stars; never empty.
    pieces: Box<[Box<str>]>,
}

impl Glob {
    /// The pattern written as `text`.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        let pieces = text.split('*').map(Box::from).collect();
        Self { text, pieces }
    }

    /// The pattern as it was written.
    #[must_use]
    pub const fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Whether it matches all of `text`.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let [first, between @ .., last] = &*self.pieces else { return *self.text == *text };
        let Some(rest) = text.strip_prefix(&**first).and_then(|rest| rest.strip_suffix(&**last)) else {
            return false;
        };
        // Between both ends, taking the leftmost place of each piece leaves most room for those that follow.
        between.iter().try_fold(rest, |rest, piece| Some(rest.split_once(&**piece)?.1)).is_some()
    }

    /// Whether a text exists that both patterns match.
    ///
    /// Walks both patterns at once: `reached[j]` says whether the first `i` bytes of one and the first `j` of the
    /// other can match the same text. Time is the product of the lengths: 2¹⁶ steps for the longest that settings take.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.text.bytes(), other.text.as_bytes());
        let step = |above: Option<&[bool]>, x: Option<u8>| {
            let mut row: Vec<bool> = Vec::with_capacity(b.len() + 1);
            for (j, y) in std::iter::once(None).chain(b.iter().copied().map(Some)).enumerate() {
                let at = |row: &[bool], index: usize| row.get(index).copied().unwrap_or(false);
                let up = above.is_some_and(|above| at(above, j));
                let left = j > 0 && at(&row, j - 1);
                let across = j > 0 && above.is_some_and(|above| at(above, j - 1));
                let start = x.is_none() && y.is_none();
                // A star takes what the other pattern has, or nothing; two equal bytes go together.
                let by_star = (x == Some(b'*') || y == Some(b'*')) && (up || left);
                row.push(start || by_star || (x.is_some() && x == y && across));
            }
            row
        };
        let first = step(None, None);
        let last = a.fold(first, |above, x| step(Some(&above), Some(x)));
        last.last().copied().unwrap_or(false)
    }

    /// Which of two patterns that both match says more about a text: an exact one, then the one with more characters
    /// that are not `*`.
    #[must_use]
    pub fn specificity(&self, other: &Self) -> Ordering {
        let key = |glob: &Self| {
            let stars = glob.pieces.len() - 1;
            (stars == 0, glob.text.len() - stars)
        };
        key(self).cmp(&key(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, letter by letter.
    fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|skip| by_definition(rest, &text[skip..])),
            Some((letter, rest)) => {
                text.first() == Some(letter) && text.get(1..).is_some_and(|text| by_definition(rest, text))
            }
        }
    }

    #[test]
    fn stars_stand_for_any_run() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("*", "anything", true),
            ("/v1/*", "/v1/files", true),
            ("/v1/*", "/v1/", true),
            ("/v1/*", "/v1", false),
            ("*/end", "/a/b/end", true),
            ("/a*b*c", "/aXbYbZc", true),
            ("/a*b*c", "/aXbYbZ", false),
            ("/exact", "/exact", true),
            ("/exact", "/exactly", false),
            ("", "x", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*bc*c", "abc", false),
            ("**x**", "aaxbb", true),
            ("*é*", "café au lait", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn patterns_overlap_where_a_text_fits_both() {
        for (a, b, both) in [
            ("/a", "/a", true),
            ("/a", "/b", false),
            ("/a/*", "/a/b", true),
            ("/a/*/c", "/a/b/*", true),
            ("/a/*", "/b/*", false),
            ("/*x", "/*y", false),
            ("/*x*", "/*y*", true),
            ("*", "", true),
        ] {
            let (a, b) = (Glob::new(a), Glob::new(b));
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (both, both), "{a:?} {b:?}");
        }
    }

    #[test]
    fn exact_beats_longer_beats_star() {
        let ranked = ["*", "q*", "qwen*", "qwen*4b", "qwen3-14b"].map(Glob::new);
        for pair in ranked.windows(2) {
            let [low, high] = pair else { unreachable!() };
            assert_eq!(low.specificity(high), Ordering::Less, "{low:?} and {high:?}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_as_defined(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            let fits = by_definition(pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(Glob::new(pattern).matches(&text), fits);
        }

        #[test]
        fn an_overlap_is_a_text_that_both_match(a in "[ab*]{0,4}", b in "[ab*]{0,4}") {
            // Patterns this short have a common text of at most the sum of their lengths, if they have one.
            let texts = (0..=8).flat_map(|length| (0..1_u32 << length).map(move |bits| {
                (0..length).map(|bit| if bits >> bit & 1 == 0 { b'a' } else { b'b' }).collect::<Vec<_>>()
            }));
            let fits = |pattern: &str, text: &[u8]| by_definition(pattern.as_bytes(), text);
            let common = texts.into_iter().any(|text| fits(&a, &text) && fits(&b, &text));
            prop_assert_eq!(Glob::new(a).overlaps(&Glob::new(b)), common);
        }
    }
}
