//! An explanation of a request, handed from the layers inside to the `explain` layer.

use std::sync::{Arc, OnceLock};

/// Request extension, set by `explain`. `limit` fills it with one line per rule, and `cost` with one
/// about the body if it is special.
#[derive(Clone, Debug, Default)]
pub struct Explaining(Arc<ExplainedParts>);

#[derive(Debug, Default)]
struct ExplainedParts {
    body: OnceLock<&'static str>,
    rules: OnceLock<Vec<String>>,
}

impl Explaining {
    /// Stores the explanation of the rules. Only the first call has an effect.
    pub fn set(&self, lines: impl IntoIterator<Item = String>) {
        self.0.rules.get_or_init(|| lines.into_iter().collect());
    }

    /// Stores what is special about the body. Only the first call has an effect.
    pub fn set_body(&self, line: &'static str) {
        self.0.body.get_or_init(|| line);
    }

    /// Returns the lines of the explanation; none if nothing was evaluated.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        let rules = self.0.rules.get().into_iter().flatten().map(String::as_str);
        self.0.body.get().copied().into_iter().chain(rules)
    }
}
