//! Patterns of the settings, in which `*` stands for any run of characters.
//!
//! Paths, models, callers and rules share this implementation: if two checks read a pattern
//! differently, a request could pass one that the other is meant to stop.

use std::cmp::Ordering;
use std::sync::Arc;

/// A pattern in which `*` is any run of characters, even empty; all else stands for itself.
///
/// The pattern is split at the stars once. A match is then a prefix, leftmost searches and a
/// suffix: it allocates nothing, and no pattern makes it slow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: Arc<str>,
    /// The text between the stars; the list has at least one piece.
    pieces: Box<[Box<str>]>,
}

impl Glob {
    /// Creates the pattern `text`.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        let pieces = text.split('*').map(Box::from).collect();
        Self { text, pieces }
    }

    /// Returns the pattern as it was written.
    #[must_use]
    pub const fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Returns `true` if the pattern matches all of `text`.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let [first, between @ .., last] = &*self.pieces else { return *self.text == *text };
        let Some(rest) = text.strip_prefix(&**first).and_then(|rest| rest.strip_suffix(&**last)) else {
            return false;
        };
        // The leftmost match of each piece leaves most room for the following pieces.
        between.iter().try_fold(rest, |rest, piece| Some(rest.split_once(&**piece)?.1)).is_some()
    }

    /// Returns `true` if some text matches both patterns.
    ///
    /// Dynamic programming: entry `j` of row `i` is `true` if the first `i` bytes of one pattern
    /// and the first `j` of the other match a common text. Time is the product of the lengths: 2¹⁶
    /// steps for the longest patterns that settings allow.
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
                // A star takes a byte of the other pattern, or nothing; equal bytes match.
                let by_star = (x == Some(b'*') || y == Some(b'*')) && (up || left);
                row.push(start || by_star || (x.is_some() && x == y && across));
            }
            row
        };
        let first = step(None, None);
        let last = a.fold(first, |above, x| step(Some(&above), Some(x)));
        last.last().copied().unwrap_or(false)
    }

    /// Compares specificity: exact patterns first, then those with more characters besides `*`.
    #[must_use]
    pub(crate) fn specificity(&self, other: &Self) -> Ordering {
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
            // If such short patterns have a common text, one is at most as long as both together.
            let texts = (0..=8).flat_map(|length| (0..1_u32 << length).map(move |bits| {
                (0..length).map(|bit| if bits >> bit & 1 == 0 { b'a' } else { b'b' }).collect::<Vec<_>>()
            }));
            let fits = |pattern: &str, text: &[u8]| by_definition(pattern.as_bytes(), text);
            let common = texts.into_iter().any(|text| fits(&a, &text) && fits(&b, &text));
            prop_assert_eq!(Glob::new(a).overlaps(&Glob::new(b)), common);
        }
    }
}
