//! A pool and its workers.

use std::fmt;
use std::sync::Arc;

use crate::glob::Glob;
use crate::shed::{GateHandle, Member};

use super::spec::WorkerSpec;

/// One worker of the fleet.
#[derive(Clone, Debug)]
pub struct Worker {
    /// As it was described.
    pub spec: WorkerSpec,
    /// Whether it may take new work: it is configured, and on the active colour.
    pub eligible: bool,
    /// Whether its colour has the work of its pool. Only one of the other colour must not even finish connecting.
    pub active: bool,
}

impl Worker {
    /// What its pool's gate needs to know.
    pub(super) fn member(&self) -> Member {
        Member {
            id: Arc::clone(&self.spec.id),
            slots: self.spec.slots,
            kv_tokens: self.spec.kv_tokens,
            eligible: self.eligible,
        }
    }
}

/// Workers that serve the same models, behind one gate.
pub struct Pool {
    /// Its name; a metric label.
    pub name: Arc<str>,
    /// Who gets in.
    pub gate: GateHandle,
    /// The models it serves: the patterns of its workers.
    pub models: Vec<Glob>,
    /// Its workers, in the order of their configuration.
    pub workers: Vec<Arc<Worker>>,
    /// Whether it only stands for the pools that are still to come.
    pub(super) lobby: bool,
}

impl Pool {
    /// The pattern that says most about `model`, of those that match.
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
