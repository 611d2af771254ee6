//! The models that a caller may use.

use std::sync::Arc;

use crate::glob::Glob;

/// Patterns of the models that a caller may ask for; without any, it may use none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedModels(Box<[Glob]>);

impl AllowedModels {
    /// Creates the list of these patterns.
    #[must_use]
    pub fn new(patterns: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self(patterns.into_iter().map(Glob::new).collect())
    }

    /// Returns `true` if the caller may ask for `model`. A request that names none gets whatever its
    /// worker serves: only callers that may use all models may send it.
    #[must_use]
    pub fn allows(&self, model: Option<&str>) -> bool {
        match model {
            Some(model) => self.0.iter().any(|pattern| pattern.matches(model)),
            None => self.0.iter().any(|pattern| **pattern.text() == *"*"),
        }
    }

    /// Returns the patterns as they were written.
    pub fn patterns(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(Glob::text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_allowed_by_name_and_none_at_all_by_a_star() {
        let of = |patterns: &[&str]| AllowedModels::new(patterns.iter().map(|text| (*text).into()));
        for (patterns, model, allowed) in [
            (&["qwen*", "assistant"][..], Some("qwen3"), true),
            (&["qwen*", "assistant"], Some("assistant"), true),
            (&["qwen*", "assistant"], Some("llama"), false),
            (&["qwen*", "assistant"], None, false),
            (&["*"], None, true),
            (&[], Some("qwen3"), false),
            (&[], None, false),
        ] {
            assert_eq!(of(patterns).allows(model), allowed, "{patterns:?} {model:?}");
        }
    }
}
