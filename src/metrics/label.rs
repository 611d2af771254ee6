//! Series found by a name from the configuration, and how many of them there may be.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;

/// How many values one label takes; what comes after them is counted under `other`. A scrape of so many takes
/// milliseconds, and a configuration with more routes, rules, pools or workers than this is no longer read by eye.
pub const LABEL_VALUES: usize = 1000;

/// The value that stands for all beyond [`LABEL_VALUES`].
pub(super) const OTHER: &str = "other";

/// Handles by label value.
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
    /// A family of so many values.
    pub(super) fn of(most: usize) -> Self {
        Self { known: RwLock::default(), most }
    }

    /// The handle of `name`, or of `other` when the label has all the values it may have.
    pub(super) fn get(&self, name: &str, make: impl FnOnce(&str) -> T) -> Arc<T> {
        if let Some(found) = self.known.read().get(name) {
            return Arc::clone(found);
        }
        let mut known = self.known.write();
        let name = if known.len() < self.most || known.contains_key(name) { name } else { OTHER };
        Arc::clone(known.entry(name.into()).or_insert_with(|| Arc::new(make(name))))
    }

    /// Looks at every handle.
    pub(super) fn each(&self, look: impl FnMut(&T)) {
        self.known.read().values().map(Arc::as_ref).for_each(look);
    }
}
