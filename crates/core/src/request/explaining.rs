//! An explanation of the rules, handed from the `limit` layer to the `explain` layer.

use std::sync::{Arc, OnceLock};

/// Request extension, set by `explain` and filled by `limit` with one line per rule.
#[derive(Clone, Debug, Default)]
pub struct Explaining(Arc<OnceLock<Vec<String>>>);

impl Explaining {
    /// Stores the explanation. Only the first call has an effect.
    pub fn set(&self, lines: impl IntoIterator<Item = String>) {
        self.0.get_or_init(|| lines.into_iter().collect());
    }

    /// Returns the explanation; empty if the rules were not evaluated.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        self.0.get().map_or(&[], Vec::as_slice)
    }
}
