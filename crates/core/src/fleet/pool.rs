//! A pool and its workers.

use std::fmt;
use std::sync::Arc;

use crate::glob::Glob;
use crate::shed::{GateHandle, PoolMember, QuotaHandle};

use super::provider::ProviderState;
use super::registry::ModelNames;
use super::spec::WorkerSpec;

/// One worker of the fleet.
#[derive(Clone, Debug)]
pub struct FleetWorker {
    /// Its description.
    pub spec: WorkerSpec,
    /// `true` if it may take new work: it is in the fleet, not held, and on the active colour.
    pub eligible: bool,
    /// `true` if its colour receives the pool's work. If not, even a pending connect is abandoned.
    pub active: bool,
    /// Its discovery source is away: a new connection is used only after it answered for one of
    /// these models.
    pub expects: Option<ModelNames>,
    /// `true` if its colour is on trial and gets only a share of the pool's work.
    pub canary: bool,
    /// The quota of its provider, if it is external; kept across reloads.
    pub quota: Option<Arc<ProviderState>>,
}

impl FleetWorker {
    /// Returns its description for the pool's gate.
    pub(super) fn member(&self) -> PoolMember {
        PoolMember {
            id: Arc::clone(&self.spec.id),
            slots: self.spec.slots,
            kv_tokens: self.spec.kv_tokens,
            eligible: self.eligible,
            external: self.quota.clone().map(|quota| QuotaHandle(quota)),
            canary: self.canary,
        }
    }
}

/// Workers that serve the same models, behind one gate.
pub struct Pool {
    /// Its name; a metric label.
    pub name: Arc<str>,
    /// Admits the requests to its workers.
    pub gate: GateHandle,
    /// The models it serves: the patterns of its workers.
    pub models: Vec<Glob>,
    /// Its workers, in the order of their configuration.
    pub workers: Vec<Arc<FleetWorker>>,
    /// `true` for the placeholder of pools that are not known yet.
    pub(super) placeholder: bool,
}

impl Pool {
    /// Returns `true` if it has workers and all are external.
    #[must_use]
    pub fn is_external(&self) -> bool {
        !self.workers.is_empty() && self.workers.iter().all(|worker| worker.spec.external.is_some())
    }

    /// Returns the most specific pattern that matches `model`.
    pub(super) fn best_match(&self, model: &str) -> Option<&Glob> {
        let matching = self.models.iter().filter(|pattern| pattern.matches(model));
        matching.max_by(|one, other| one.specificity(other))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.name)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}
