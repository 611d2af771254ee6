//! Counts the tokens in a piece of JSON without keeping it.
//!
//! A stand-in for a tokeniser: four bytes of text are a token, and so is a number (a token id). It
//! reads in place: a body of millions of small values builds no JSON tree.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use smallvec::{SmallVec, smallvec};

/// Maximum prompts or messages in one request.
pub(super) const MAX_PARTS: usize = 2048;

/// Size of a prompt, a list of prompts, or a list of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PromptSize {
    pub(super) tokens: u64,
    /// Tokens of each element of a list of prompts or messages; one part for any other value.
    pub(super) parts: SmallVec<[u64; 1]>,
    /// Tokens of the parts marked with `cache_control`.
    pub(super) cached: u64,
    /// `true` for a bare number, which makes its list one prompt of token ids.
    number: bool,
}

impl PromptSize {
    fn whole(tokens: u64, number: bool) -> Self {
        Self { tokens, parts: smallvec![tokens], cached: 0, number }
    }
}

impl<'de> Deserialize<'de> for PromptSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeReader)
    }
}

struct SizeReader;

impl<'de> Visitor<'de> for SizeReader {
    type Value = PromptSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, token ids, or a list of them")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PromptSize, E> {
        Ok(PromptSize::whole(text.len().div_ceil(4) as u64, false))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<PromptSize, E> {
        Ok(PromptSize::whole(1, true))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<PromptSize, E> {
        Ok(PromptSize::whole(1, true))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<PromptSize, E> {
        Ok(PromptSize::whole(1, true))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<PromptSize, E> {
        Ok(PromptSize::whole(0, false))
    }

    fn visit_unit<E: Error>(self) -> Result<PromptSize, E> {
        Ok(PromptSize::whole(0, false))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PromptSize, A::Error> {
        let mut size = PromptSize::default();
        let mut ids = 0;
        while let Some(element) = list.next_element::<PromptSize>()? {
            size.tokens += element.tokens;
            size.cached += element.cached;
            if element.number {
                ids += 1;
            } else if size.parts.len() == MAX_PARTS {
                return Err(A::Error::custom(format_args!("a list has more than {MAX_PARTS} elements")));
            } else {
                size.parts.push(element.tokens);
            }
        }
        if ids > 0 {
            size.parts = smallvec![size.tokens];
        }
        Ok(size)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PromptSize, A::Error> {
        let (mut tokens, mut cached, mut marked) = (0, 0, false);
        while let Some(key) = map.next_key::<SizeKey>()? {
            match key {
                SizeKey::Text => {
                    let size = map.next_value::<PromptSize>()?;
                    tokens += size.tokens;
                    cached += size.cached;
                }
                SizeKey::CacheControl => {
                    marked = true;
                    map.next_value::<IgnoredAny>()?;
                }
                SizeKey::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let cached = if marked { tokens } else { cached };
        Ok(PromptSize { cached, ..PromptSize::whole(tokens, false) })
    }
}

enum SizeKey {
    Text,
    CacheControl,
    Other,
}

impl<'de> Deserialize<'de> for SizeKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeKeyVisitor;
        impl Visitor<'_> for SizeKeyVisitor {
            type Value = SizeKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<SizeKey, E> {
                Ok(match name {
                    "text" | "content" | "thinking" => SizeKey::Text,
                    "cache_control" => SizeKey::CacheControl,
                    _ => SizeKey::Other,
                })
            }
        }
        deserializer.deserialize_str(SizeKeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(json: &str) -> (u64, Vec<u64>) {
        let size: PromptSize = serde_json::from_str(json).unwrap();
        (size.tokens, size.parts.into_vec())
    }

    #[test]
    fn every_form_of_prompt_is_sized() {
        assert_eq!(size(r#""eight by""#), (2, vec![2]));
        assert_eq!(size(r#"["four","eight by"]"#), (3, vec![1, 2]));
        assert_eq!(size("[5,6,7]"), (3, vec![3]));
        assert_eq!(size("[[5,6],[7]]"), (3, vec![2, 1]));
        assert_eq!(size("[]"), (0, vec![]));
        let messages = r#"[{"role":"user","content":"four"},
            {"role":"user","content":[{"type":"text","text":"eight by"},{"type":"image_url","image_url":{"url":"x"}}]},
            {"role":"assistant","content":null}]"#;
        assert_eq!(size(messages), (3, vec![1, 2, 0]));
        let system =
            r#"[{"type":"text","text":"eight by","cache_control":{"type":"ephemeral"}},{"text":"four"}]"#;
        assert_eq!(serde_json::from_str::<PromptSize>(system).unwrap().cached, 2);
    }

    #[test]
    fn a_list_has_a_bound() {
        let list = |elements| format!("[{}]", vec!["\"x\""; elements].join(","));
        assert_eq!(size(&list(MAX_PARTS)).1.len(), MAX_PARTS);
        assert!(serde_json::from_str::<PromptSize>(&list(MAX_PARTS + 1)).is_err());
    }
}
