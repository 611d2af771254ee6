//! An explanation that was asked for, on its way from who knows to who tells.

use std::sync::{Arc, OnceLock};

/// Set on a request by whoever may ask how the rules stand to it; filled by `limit`, one line for each rule.
#[derive(Clone, Debug, Default)]
pub struct Explaining(Arc<OnceLock<Vec<String>>>);

impl Explaining {
    /// Says how the rules stand. Only the first says it.
    pub fn tell(&self, lines: impl IntoIterator<Item = String>) {
        self.0.get_or_init(|| lines.into_iter().collect());
    }

    /// What was said; nothing when the request never met the rules.
    #[must_use]
    pub fn told(&self) -> &[String] {
        self.0.get().map_or(&[], Vec::as_slice)
    }
}
