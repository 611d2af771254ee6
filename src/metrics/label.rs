//! Metrics by a configured name, with a bound on their number.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;

/// Maximum values of one label; further ones count as `other`. A scrape of this many takes
/// milliseconds, and nobody reads a configuration with more routes, rules, pools or workers by eye.
pub(crate) const LABEL_VALUES: usize = 1000;

/// Label value of everything beyond [`LABEL_VALUES`].
pub(super) const OTHER: &str = "other";

#[derive(Debug)]
pub(super) struct Family<T> {
    known: RwLock<HashMap<Arc<str>, Arc<T>>>,
    most: usize,
}

impl<T> Default for Family<T> {
    fn default() -> Self {
        Self::of(LABEL_VALUES)
    }
}

impl<T> Family<T> {
    /// Creates a family of at most `most` values.
    pub(super) fn of(most: usize) -> Self {
        Self { known: RwLock::default(), most }
    }

    /// Returns the handle of `name`, or of `other` if the label has reached its bound.
    pub(super) fn get(&self, name: &str, make: impl FnOnce(&str) -> T) -> Arc<T> {
        if let Some(found) = self.known.read().get(name) {
            return Arc::clone(found);
        }
        let mut known = self.known.write();
        let name = if known.len() < self.most || known.contains_key(name) { name } else { OTHER };
        Arc::clone(known.entry(name.into()).or_insert_with(|| Arc::new(make(name))))
    }

    /// Calls `look` with every handle.
    pub(super) fn each(&self, look: impl FnMut(&T)) {
        self.known.read().values().map(Arc::as_ref).for_each(look);
    }
}
