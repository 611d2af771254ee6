//! Logs which discovered workers are not used.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;

/// Most workers that are remembered as logged.
const REMEMBERED: usize = 1024;

/// The workers that the log names as not used.
#[derive(Debug, Default)]
pub(crate) struct UnusedWorkers(BTreeSet<Arc<str>>);

impl UnusedWorkers {
    /// Logs each of the workers that are not used now, with the reason, unless it is logged already.
    pub(crate) fn report<R: Display>(&mut self, unused: &[(Arc<str>, R)]) {
        let ids: BTreeSet<&Arc<str>> = unused.iter().map(|(worker, _)| worker).collect();
        self.0.retain(|id| ids.contains(id));
        for (worker, reason) in unused.iter().take(REMEMBERED) {
            if self.0.insert(Arc::clone(worker)) {
                tracing::warn!(worker = &**worker, %reason, "a discovered worker is not used");
            }
        }
    }
}
