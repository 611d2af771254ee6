//! What this gateway reads from workers itself: their health and their metrics.
//!
//! A reading has the shape of a heartbeat, so the same rules weigh it. The heartbeats of a worker
//! that sends its own come first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{WorkerRegistry, WorkerReport};
use crate::clock::Nanos;
use crate::fleet::heartbeat::Heartbeat;
use crate::fleet::spec::WorkerSpec;

/// The last reading of each worker, with its time on the process clock.
#[derive(Debug, Default)]
pub(super) struct Scraped(HashMap<Arc<str>, (Arc<Heartbeat>, Duration)>);

impl Scraped {
    /// Fills in the sizes that are neither configured nor reported.
    pub(super) fn complete(&self, spec: &mut WorkerSpec) {
        if let Some((reading, _)) = self.0.get(&spec.id) {
            spec.slots = spec.slots.or(reading.slots);
            spec.kv_tokens = spec.kv_tokens.or(reading.kv_tokens);
        }
    }

    /// Returns the reports of the workers for which `speaks` is `false`.
    pub(super) fn reports(
        &self,
        now: Duration,
        speaks: impl Fn(&Arc<str>) -> bool,
    ) -> impl Iterator<Item = WorkerReport> {
        let silent = self.0.iter().filter(move |(id, _)| !speaks(id));
        silent.map(move |(_, (reading, at))| WorkerReport {
            scraped: true,
            ..WorkerReport::new(reading, now.saturating_sub(*at))
        })
    }
}

impl WorkerRegistry {
    /// Takes what was read from a worker, named by `reading`, at `now`.
    pub fn take_reading(&mut self, reading: Heartbeat, now: Nanos) {
        let at = self.tick(now);
        let sizes = |reading: &Heartbeat| (reading.slots, reading.kv_tokens);
        let id = Arc::clone(&reading.worker);
        let new = sizes(&reading);
        let before = self.scraped.0.insert(id, (Arc::new(reading), at));
        if before.map_or((None, None), |(before, _)| sizes(&before)) != new {
            self.revision += 1;
        }
    }

    /// Forgets the reading of a worker.
    pub fn forget_reading(&mut self, id: &str) {
        self.keep_readings(|kept| kept != id);
    }

    /// Forgets the readings of all workers for which `keep` is `false`: they are no longer read.
    pub fn keep_readings(&mut self, keep: impl Fn(&str) -> bool) {
        let before = self.scraped.0.len();
        self.scraped.0.retain(|id, _| keep(id));
        if self.scraped.0.len() < before {
            self.revision += 1;
        }
    }
}
