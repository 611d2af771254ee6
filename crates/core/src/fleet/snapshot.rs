//! The snapshot of all workers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Nanos};
use crate::glob::Glob;
use crate::shed::settings::GateSettings;
use crate::shed::{Gate, GateHandle};

use super::eligibility::{CanarySide, Eligibility};
use super::pick::PICK;
use super::pool::{FleetWorker, Pool};
use super::provider::ProviderState;
use super::spec::WorkerSpec;

/// Placeholder pool before any pool is known; also the pool of workers that name none.
const LOBBY: &str = "default";
/// Number of pools beyond which a pool is removed with its last worker.
const MOST_AWAITED: usize = 256;

/// All workers and pools at one moment.
#[derive(Debug)]
pub struct Fleet {
    /// In the order in which the configuration first names them.
    pools: Vec<Arc<Pool>>,
    workers: Vec<Arc<FleetWorker>>,
    /// Removed workers that may still have permits in use.
    leaving: Vec<Arc<FleetWorker>>,
    by_id: HashMap<Arc<str>, Arc<FleetWorker>>,
    /// Pools without workers that may still have permits in use or queued requests.
    closing: Vec<Arc<Pool>>,
    /// Canaries under way, by pool.
    canaries: BTreeMap<Arc<str>, CanarySide>,
    settings: GateSettings,
    clock: Clock,
}

impl Fleet {
    /// Creates a fleet of `specs`; all pools have the same settings. Only workers that `eligibility`
    /// allows take work. Of two workers with the same id the first counts.
    #[must_use]
    pub fn new(
        specs: Vec<WorkerSpec>,
        settings: GateSettings,
        eligibility: impl Into<Eligibility>,
        clock: Clock,
    ) -> Self {
        let empty = Self {
            pools: Vec::new(),
            workers: Vec::new(),
            leaving: Vec::new(),
            by_id: HashMap::new(),
            closing: Vec::new(),
            canaries: BTreeMap::new(),
            settings: settings.clone(),
            clock,
        };
        let fleet = empty.rebuilt(specs, settings, eligibility);
        fleet.take_over();
        fleet
    }

    /// Creates the fleet after a reload. Pools of the same name keep their gates, and workers of
    /// the same id and pool their ledgers.
    ///
    /// Call [`Fleet::take_over`] on it after it is published, to update the gates: a gate that
    /// chose a worker which the snapshot does not know would send requests nowhere.
    #[must_use = "the snapshot is to be published, and then to take over"]
    pub fn rebuilt(
        &self,
        specs: Vec<WorkerSpec>,
        settings: GateSettings,
        eligibility: impl Into<Eligibility>,
    ) -> Self {
        let eligibility = eligibility.into();
        let mut by_id: HashMap<Arc<str>, Arc<FleetWorker>> = HashMap::new();
        let mut workers = Vec::new();
        for spec in specs {
            let (eligible, active) = (eligibility.allows(&spec), eligibility.has_active_colour(&spec));
            let canary = eligibility.is_canary(&spec);
            let expects = eligibility.unverified.get(&spec.id);
            // An unchanged worker keeps its `Arc`, and with it its connections.
            let same = self.by_id.get(&spec.id).filter(|known| {
                (known.eligible, known.active, known.canary) == (eligible, active, canary)
                    && known.expects.as_ref() == expects
                    && known.spec == spec
            });
            let worker = match same {
                Some(same) => Arc::clone(same),
                None => {
                    let quota = self.quota(&spec);
                    Arc::new(FleetWorker { expects: expects.cloned(), spec, eligible, active, canary, quota })
                }
            };
            if !by_id.contains_key(&worker.spec.id) {
                by_id.insert(Arc::clone(&worker.spec.id), Arc::clone(&worker));
                workers.push(worker);
            }
        }
        let open = eligibility.workers_may_join;
        let mut fleet = Self {
            pools: Vec::new(),
            workers,
            leaving: Vec::new(),
            by_id,
            closing: Vec::new(),
            canaries: eligibility.colours.canaries,
            settings,
            clock: self.clock.clone(),
        };
        fleet.pools = fleet.build_pools(self);
        if open {
            fleet.keep_empty_pools(self);
        }
        fleet.keep_leaving(self);
        fleet
    }

    /// Updates the gates: queued requests see new workers and room at once, and removed workers
    /// take no new requests.
    pub fn take_over(&self) {
        for pool in self.pools.iter().chain(&self.closing) {
            let members = pool.workers.iter().map(|worker| worker.member()).collect();
            let canary = self.canaries.get(&pool.name).map(|canary| canary.share);
            pool.gate.rebuild(GateSettings { canary, ..self.settings.clone() }, members);
        }
    }

    /// Returns the pool that serves `model`. An exact name beats a longer pattern (counted without
    /// its stars), which beats `*`; on a tie the pool configured first wins. A request without a
    /// model goes to the pool that serves `*`, else to the first.
    #[must_use]
    pub fn route(&self, model: Option<&str>) -> Option<&Arc<Pool>> {
        // Pools that wait for their workers come after all that have some.
        let staffed = self.pools.iter().position(|pool| pool.workers.is_empty()).unwrap_or(self.pools.len());
        let (staffed, awaited) = self.pools.split_at(staffed);
        best_of(staffed, model).or_else(|| best_of(awaited, model))
    }

    /// Returns the name under which `model` counts, and its pool. A name counts as the pattern that
    /// serves it, so an invented one gets no quota of its own; all unserved names count together.
    #[must_use]
    pub fn served(&self, model: Option<&str>) -> (Arc<str>, Option<Arc<Pool>>) {
        let pool = self.route(model);
        let pattern = pool.and_then(|pool| match model {
            Some(model) => pool.best_match(model),
            None => pool.models.first(),
        });
        match pattern {
            Some(pattern) => (Arc::clone(pattern.text()), pool.cloned()),
            None => Self::unserved(),
        }
    }

    /// Returns the name under which unserved models count.
    #[must_use]
    pub fn unserved() -> (Arc<str>, Option<Arc<Pool>>) {
        ("*".into(), None)
    }

    /// Returns the time of the gates, and the wait that they allow.
    pub(super) fn gate_wait(&self) -> (Nanos, Duration) {
        (self.clock.now(), self.settings.queue_wait)
    }

    /// Returns the worker with this id, even while it is leaving.
    #[must_use]
    pub fn worker(&self, id: &str) -> Option<&Arc<FleetWorker>> {
        self.by_id.get(id)
    }

    /// All pools, in the order of their configuration.
    #[must_use]
    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// All configured workers, in the order of their configuration.
    #[must_use]
    pub fn workers(&self) -> &[Arc<FleetWorker>] {
        &self.workers
    }

    /// Returns the quota of an external worker: the one of the same id, with the limits of `spec`.
    fn quota(&self, spec: &WorkerSpec) -> Option<Arc<ProviderState>> {
        let limits = spec.external?;
        let known = self.by_id.get(&spec.id).and_then(|known| known.quota.as_ref());
        Some(known.map_or_else(
            || Arc::new(ProviderState::new(limits)),
            |quota| {
                quota.reconfigure(limits);
                Arc::clone(quota)
            },
        ))
    }

    fn build_pools(&self, before: &Self) -> Vec<Arc<Pool>> {
        let mut names: Vec<&Arc<str>> = Vec::new();
        for worker in &self.workers {
            if !names.contains(&&worker.spec.pool) {
                names.push(&worker.spec.pool);
            }
        }
        let pool = |name: &Arc<str>| {
            let mine = self.workers.iter().filter(|worker| worker.spec.pool == *name);
            let workers: Vec<_> = mine.map(Arc::clone).collect();
            let mut models: Vec<Glob> = Vec::new();
            for pattern in workers.iter().map(|worker| Glob::new(Arc::clone(&worker.spec.model))) {
                if !models.contains(&pattern) {
                    models.push(pattern);
                }
            }
            Arc::new(Pool {
                name: Arc::clone(name),
                gate: before.gate(name, self),
                models,
                workers,
                placeholder: false,
            })
        };
        names.into_iter().map(pool).collect()
    }

    /// Keeps the pools that lost all workers, so that their requests wait or get a retry time, and
    /// their queues stay visible. Before the first worker has come, one pool takes all requests.
    fn keep_empty_pools(&mut self, before: &Self) {
        for pool in before.pools.iter().filter(|pool| !pool.placeholder) {
            if self.pools.len() < MOST_AWAITED && !self.pools.iter().any(|kept| kept.name == pool.name) {
                self.pools.push(Arc::new(Pool {
                    name: Arc::clone(&pool.name),
                    gate: pool.gate.clone(),
                    models: pool.models.clone(),
                    workers: Vec::new(),
                    placeholder: false,
                }));
            }
        }
        if self.pools.is_empty() {
            let name: Arc<str> = LOBBY.into();
            self.pools.push(Arc::new(Pool {
                gate: before.gate(&name, self),
                name,
                models: vec![Glob::new("*")],
                workers: Vec::new(),
                placeholder: true,
            }));
        }
    }

    /// Returns the gate of pool `name`, or a new one for `next`.
    fn gate(&self, name: &Arc<str>, next: &Self) -> GateHandle {
        let known = self.pools.iter().chain(&self.closing).find(|pool| pool.name == *name);
        known.map_or_else(
            || {
                let gate = Gate::new(Arc::clone(name), next.settings.clone(), PICK, fastrand::u64(..));
                GateHandle::new(gate, next.clock.clone())
            },
            |pool| pool.gate.clone(),
        )
    }

    /// Keeps what `before` has and this snapshot lacks, while it may be needed: all that was
    /// current until now, and of what was already leaving, that which still has permits in use.
    fn keep_leaving(&mut self, before: &Self) {
        let gone = |pool: &&Arc<Pool>| !self.pools.iter().any(|kept| kept.name == pool.name);
        let busy = |pool: &&Arc<Pool>| {
            let gate = pool.gate.snapshot();
            gate.in_flight() > 0 || gate.queue.iter().sum::<usize>() > 0
        };
        let closing = before.pools.iter().chain(before.closing.iter().filter(busy)).filter(gone);
        self.closing = closing
            .map(|pool| {
                Arc::new(Pool {
                    name: Arc::clone(&pool.name),
                    gate: pool.gate.clone(),
                    models: Vec::new(),
                    workers: Vec::new(),
                    placeholder: false,
                })
            })
            .collect();
        let occupied: Vec<Arc<str>> = before
            .pools
            .iter()
            .chain(&before.closing)
            .flat_map(|pool| pool.gate.snapshot().workers)
            .filter(|worker| worker.in_flight > 0)
            .map(|worker| worker.id)
            .collect();
        let still = before.leaving.iter().filter(|worker| occupied.contains(&worker.spec.id));
        for worker in before.workers.iter().chain(still) {
            if !self.by_id.contains_key(&worker.spec.id) {
                let worker = Arc::new(FleetWorker { eligible: false, ..(**worker).clone() });
                self.by_id.insert(Arc::clone(&worker.spec.id), Arc::clone(&worker));
                self.leaving.push(worker);
            }
        }
    }
}

/// Returns the pool with the most specific pattern for `model`.
fn best_of<'a>(pools: &'a [Arc<Pool>], model: Option<&str>) -> Option<&'a Arc<Pool>> {
    let Some(model) = model else {
        let any = |pool: &&Arc<Pool>| pool.models.iter().any(|pattern| **pattern.text() == *"*");
        return pools.iter().find(any).or_else(|| pools.first());
    };
    let matching = pools.iter().filter_map(|pool| Some((pool, pool.best_match(model)?)));
    // The reduction keeps the first of equals.
    let best = matching.reduce(|best, next| if next.1.specificity(best.1).is_gt() { next } else { best });
    best.map(|(pool, _)| pool)
}
