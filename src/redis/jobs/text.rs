//! Text of hashes and streams that anybody may write to.
//!
//! One value that cannot be read must not hide the others: it is skipped, and named in the log once.

use std::collections::HashSet;

use parking_lot::Mutex;

/// Reads a text whose exact bytes do not matter.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Keys that hold values which cannot be read, so that each is named once.
#[derive(Debug, Default)]
pub(super) struct UnreadableKeys(Mutex<HashSet<String>>);

impl UnreadableKeys {
    /// Returns what `read` makes of the values of `key`, without those that it cannot read.
    pub(super) fn skip<T, U>(
        &self,
        key: &str,
        values: impl IntoIterator<Item = T>,
        read: impl Fn(T) -> Option<U>,
    ) -> Vec<U> {
        let mut skipped = 0_usize;
        let kept = values.into_iter().filter_map(|value| {
            let value = read(value);
            skipped += usize::from(value.is_none());
            value
        });
        let kept = kept.collect();
        self.note(key, skipped);
        kept
    }

    /// Warns of a key with values that were skipped, unless the read before had some too.
    fn note(&self, key: &str, skipped: usize) {
        let mut known = self.0.lock();
        if skipped == 0 {
            known.remove(key);
        } else if known.insert(key.to_owned()) {
            tracing::warn!(key, skipped, "skipped values in Redis that cannot be read");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unreadable_is_skipped_and_its_key_known_until_it_is_gone() {
        let keys = UnreadableKeys::default();
        let read = |values: &[&str]| keys.skip("k", values.iter(), |value| value.parse::<u8>().ok());
        assert_eq!(read(&["1", "x", "2"]), [1, 2]);
        assert!(keys.0.lock().contains("k"));
        assert_eq!(read(&["1"]), [1]);
        assert!(keys.0.lock().is_empty());
    }
}
