//! Ejections of workers that were removed.
//!
//! A discovery source may leave out a worker for a moment and name it again. It is the same worker,
//! so its ejection goes on: leaving must not be a way back.

use std::collections::VecDeque;
use std::sync::Arc;

use super::worker::GateWorker;
use super::worker_ejection::{WorkerEjection, WorkerTrouble};

/// Most ejections that are remembered; the oldest is forgotten first.
const MOST: usize = 256;

/// The ejections of removed workers, by id.
#[derive(Debug, Default)]
pub(super) struct EjectedMemory(VecDeque<(Arc<str>, WorkerEjection)>);

impl EjectedMemory {
    /// Remembers the ejection of a worker that is removed, if it is ejected.
    pub(super) fn remember(&mut self, worker: &GateWorker) {
        if worker.aside.trouble() == Some(WorkerTrouble::Ejected) {
            self.0.push_back((Arc::clone(&worker.member.id), worker.aside.without_trial()));
            self.0.drain(..self.0.len().saturating_sub(MOST));
        }
    }

    /// Returns the ejection of a worker that comes back, which is then forgotten here.
    pub(super) fn take(&mut self, id: &str) -> Option<WorkerEjection> {
        let place = self.0.iter().rposition(|(known, _)| **known == *id)?;
        self.0.remove(place).map(|(_, ejection)| ejection)
    }
}
