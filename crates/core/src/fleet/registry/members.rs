//! The single workers behind the sides of a queue: for people, and to find out who reads whose jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::report::WorkerReport;
use super::{WorkerRegistry, queue_workers};
use crate::fleet::heartbeat::name;
use crate::fleet::side;
use crate::fleet::spec::WorkerSpec;
use crate::fleet::turnover::SideState;

/// One worker of a side.
#[derive(Clone, Debug)]
pub struct QueueMember {
    /// Id of its side, under which the gate counts it.
    pub side_id: Arc<str>,
    /// Its pool.
    pub pool: Arc<str>,
    /// Its side: a colour, or one version of a colour.
    pub side: Arc<str>,
    /// Its colour.
    pub colour: Arc<str>,
    /// Its last heartbeat, and what follows from it.
    pub report: WorkerReport,
    /// `true` if it can take jobs.
    pub ready: bool,
}

impl QueueMember {
    /// Returns `true` if it has fallen silent without a word.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.report.weight <= 0.0 && !self.report.held
    }
}

/// Versions of the workers of a pool's colour.
type Versions = BTreeMap<(Arc<str>, Arc<str>), BTreeSet<Option<Arc<str>>>>;

impl WorkerRegistry {
    /// Returns every queue worker, by id; none unless workers take from a queue.
    #[must_use]
    pub fn queue_members(&self) -> Vec<QueueMember> {
        if !self.settings.queue {
            return Vec::new();
        }
        let member = |report: WorkerReport| {
            let spec = self.known.get(&report.beat.worker)?.spec.as_ref()?;
            let side = queue_workers::side(spec, report.beat.version.as_ref(), &self.named);
            let (pool, side_id) = (Arc::clone(&spec.pool), queue_workers::id(&spec.pool, &side));
            let (colour, ready) = (Arc::clone(&spec.colour), report.is_able());
            Some(QueueMember { side_id, pool, side, colour, report, ready })
        };
        let mut members: Vec<_> = self.worker_reports().into_iter().filter_map(member).collect();
        members.sort_by(|one, other| one.report.beat.worker.cmp(&other.report.beat.worker));
        members
    }

    /// Returns the sides of each pool, as the choice of the active one needs them.
    #[must_use]
    pub fn queue_sides(&self) -> BTreeMap<Arc<str>, Vec<SideState>> {
        let mut pools: BTreeMap<Arc<str>, Vec<SideState>> = BTreeMap::new();
        for QueueMember { pool, side, report, .. } in self.queue_members() {
            let sides = pools.entry(pool).or_default();
            let at = sides.iter().position(|known| known.side == side).unwrap_or_else(|| {
                sides.push(SideState { side, ready: 0, silent_for: None });
                sides.len() - 1
            });
            let Some(state) = sides.get_mut(at) else { continue };
            if !report.held {
                state.silent_for = Some(state.silent_for.map_or(report.age, |silent| silent.min(report.age)));
            }
            if report.is_able() {
                state.ready += u64::from(report.beat.slots.unwrap_or(1));
            }
        }
        pools
    }

    /// Returns the number of versions of each colour of each pool, among workers whose heartbeats
    /// are not too old.
    #[must_use]
    pub fn versions(&self) -> Vec<(Arc<str>, Arc<str>, u64)> {
        let mut versions = Versions::new();
        for QueueMember { pool, side, report, .. } in self.queue_members() {
            if report.weight > 0.0 || report.held {
                let colour: Arc<str> = side::parts(&side).0.into();
                versions.entry((pool, colour)).or_default().insert(report.beat.version.clone());
            }
        }
        versions.into_iter().map(|((pool, colour), versions)| (pool, colour, versions.len() as u64)).collect()
    }

    /// Returns `true` if the worker takes the jobs of `side` of `pool` by its heartbeats; `None` if
    /// no heartbeat of it is known.
    #[must_use]
    pub fn takes(&self, worker: &str, pool: &str, side: &str) -> Option<bool> {
        let heard = self.known.get(worker)?;
        let spec = heard.spec.as_ref()?;
        let takes = side::taken_by(&spec.colour, heard.beat.version.as_deref());
        // Its own stream is nobody else's.
        let own = side::of_worker(&spec.colour, heard.beat.version.as_deref(), worker);
        Some(*spec.pool == *pool && takes.iter().chain([&own]).any(|taken| **taken == *side))
    }

    /// Returns `true` if a worker of the colour, and of the version if one is named, could take work.
    /// One that never sent a heartbeat counts as ready; whether it answers, its gate knows.
    #[must_use]
    pub fn has_ready(
        &self,
        pool: &str,
        colour: &str,
        version: Option<&str>,
        answers: impl Fn(&str) -> bool,
    ) -> bool {
        let is_its = |spec: &WorkerSpec| *spec.pool == *pool && *spec.colour == *colour;
        let now = self.pulse.time();
        let heard = self.known.values().filter(|heard| {
            let beat = &heard.beat;
            self.spec_of(&beat.worker).is_some_and(is_its)
                && version.is_none_or(|version| beat.version.as_deref() == Some(version))
                // Whether another version of the colour is active now does not matter.
                && WorkerReport::new(beat, now.saturating_sub(heard.at)).is_able()
        });
        // The sides of a queue are no workers.
        let specs = if self.settings.queue { Vec::new() } else { self.specs() };
        let silent = specs
            .iter()
            .filter(|spec| is_its(spec) && version.is_none() && !self.known.contains_key(&spec.id));
        let mut ids = heard.map(|heard| &heard.beat.worker).chain(silent.map(|spec| &spec.id));
        // The gate knows the workers of a queue only as sides.
        ids.any(|id| self.settings.queue || answers(id))
    }

    /// Returns `true` if a worker of this version of the colour is known in `pool`.
    #[must_use]
    pub fn has_version(&self, pool: &str, colour: &str, version: &str) -> bool {
        // A version that is no name could not be told to the other gateways.
        name(version).is_some()
            && self.known.values().any(|heard| {
                let spec = self.spec_of(&heard.beat.worker);
                spec.is_some_and(|spec| *spec.pool == *pool && *spec.colour == *colour)
                    && heard.beat.version.as_deref() == Some(version)
            })
    }
}
