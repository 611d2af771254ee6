//! Through which a source hands its sets to the worker registry.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::fleet::discovery::{DiscoveredWorker, TargetId};
use crate::fleet::registry::WorkerRegistry;

/// Returns the TLS client configuration for workers; `None` if the settings need none.
pub(crate) type TlsSource = Arc<dyn Fn() -> Option<Arc<ClientConfig>> + Send + Sync>;

/// Context that all tasks of this module share.
#[derive(Clone)]
pub(crate) struct DiscoveryContext {
    /// Merges the sets.
    pub registry: Arc<Mutex<WorkerRegistry>>,
    /// Notified on news.
    pub changed: Arc<Notify>,
    /// Time of the registry.
    pub clock: Clock,
    /// TLS for workers.
    pub tls: TlsSource,
}

impl fmt::Debug for DiscoveryContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryContext").field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// Reports what one target has.
#[derive(Debug)]
pub(crate) struct TargetHandle {
    id: TargetId,
    context: DiscoveryContext,
    failing: AtomicBool,
}

impl TargetHandle {
    pub(super) const fn new(id: TargetId, context: DiscoveryContext) -> Self {
        Self { id, context, failing: AtomicBool::new(false) }
    }

    /// Reports the whole set of workers, even if it is empty or the same as before. `excluded`:
    /// addresses, such as the API server's, that are used only if `workers.allow` has an entry for them
    /// alone.
    pub(crate) fn publish(&self, set: Vec<DiscoveredWorker>, excluded: &[IpAddr]) {
        self.worked();
        let context = &self.context;
        context.registry.lock().discover(&self.id, set, excluded, context.clock.now());
        context.changed.notify_one();
    }

    /// Reports that the source answers, and that the set is the same as before.
    pub(crate) fn alive(&self) {
        self.worked();
        self.context.registry.lock().source_works(&self.id, self.context.clock.now());
    }

    /// Reports that the source does not answer. It changes nothing by itself: the registry sees that
    /// signs of life are missing.
    pub(crate) fn failed(&self, error: &dyn Display) {
        let (source, target) = (self.id.source.as_str(), &*self.id.name);
        if self.failing.swap(true, Ordering::Relaxed) {
            tracing::debug!(source, target, %error, "the discovery source still does not answer");
        } else {
            tracing::warn!(
                source,
                target,
                %error,
                "the discovery source does not answer; its workers stay as they were"
            );
        }
    }

    fn worked(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            let (source, target) = (self.id.source.as_str(), &*self.id.name);
            tracing::info!(source, target, "the discovery source answers again");
        }
    }
}
