//! Describes in words what changed between two snapshots of a gateway.
//!
//! It compares snapshots instead of being notified, so the request path needs no code for the page
//! or the log. Changes that revert within one second are missed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::fleet::Light;
use crate::view::{CanaryState, CanaryView, GatewayView, PoolView, StrangerView, WorkerView};

/// Maximum number of workers named per kind of change; the rest is only counted.
const NAMED: usize = 5;

/// A change to report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FleetChange {
    /// Of the gateway. Logged already by the code that made it.
    Gateway(String),
    /// Of a pool: another colour is active.
    Switch { pool: Arc<str>, colour: Arc<str> },
    /// Of a pool: a canary began or ended. Logged already by the code that made it.
    Canary { pool: Arc<str>, text: String },
    /// Of a worker.
    Worker { worker: Arc<str>, pool: Arc<str>, turn: WorkerEvent, eligible: bool, why: Option<Arc<str>> },
    /// Of a pool: a process takes its jobs that is none of its workers.
    Stranger { pool: Arc<str>, worker: Arc<str>, why: Arc<str> },
    /// Of a pool: workers of several versions share the jobs of a side.
    Versions { pool: Arc<str>, side: Arc<str>, versions: Arc<str> },
    /// Of further workers.
    More { count: usize, turn: WorkerEvent },
}

/// Kind of change of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerEvent {
    Went,
    Came,
    Red,
    Well,
}

impl WorkerEvent {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Went => "left",
            Self::Came => "joined",
            Self::Red => "turned red",
            Self::Well => "recovered",
        }
    }
}

impl fmt::Display for FleetChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(text) => f.write_str(text),
            Self::Switch { pool, colour } => write!(f, "pool {pool}: active colour is now {colour}"),
            Self::Canary { pool, text } => write!(f, "pool {pool}: {text}"),
            Self::Worker { worker, turn, why, .. } => {
                write!(f, "worker {worker} {}", turn.as_str())?;
                why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
            }
            Self::Stranger { pool, worker, why } => write!(f, "pool {pool}: {worker} {why}"),
            Self::Versions { pool, side, versions } => {
                write!(f, "pool {pool}: several versions share the jobs of {side}: {versions}")
            }
            Self::More { count, turn } => write!(f, "{count} more workers: {}", turn.as_str()),
        }
    }
}

impl FleetChange {
    /// Logs the change unless it was logged already.
    pub(super) fn log(&self) {
        match self {
            Self::Gateway(_) | Self::Canary { .. } => {}
            Self::Switch { pool, colour } => {
                tracing::info!(pool = &**pool, colour = &**colour, "the active colour changed");
            }
            // Only informational for a worker that takes no work by the settings.
            Self::Worker { worker, pool, turn: turn @ WorkerEvent::Red, eligible: true, why } => {
                let reason = why.as_deref();
                tracing::warn!(worker = &**worker, pool = &**pool, reason, "a worker {}", turn.as_str());
            }
            Self::Worker { worker, pool, turn, .. } => {
                tracing::info!(worker = &**worker, pool = &**pool, "a worker {}", turn.as_str());
            }
            Self::Stranger { pool, worker, why } => {
                let reason = &**why;
                tracing::warn!(worker = &**worker, pool = &**pool, reason, "a stranger takes jobs");
            }
            Self::Versions { pool, side, versions } => {
                let (pool, side, versions) = (&**pool, &**side, &**versions);
                tracing::info!(pool, side, versions, "several versions share the jobs of a colour");
            }
            Self::More { count, turn: turn @ WorkerEvent::Red } => {
                tracing::warn!(count, "more workers: {}", turn.as_str());
            }
            Self::More { count, turn } => tracing::info!(count, "more workers: {}", turn.as_str()),
        }
    }
}

/// Returns the changes for the first snapshot: workers that are red but should not be.
pub(super) fn first(scene: &GatewayView) -> Vec<FleetChange> {
    let mut changes = vec![FleetChange::Gateway("the gateway started".to_owned())];
    let well = |worker: &WorkerView| {
        let light = if worker.eligible { Light::Green } else { worker.light };
        WorkerView { light, ..worker.clone() }
    };
    let pool = |pool: &PoolView| PoolView {
        workers: pool.workers.iter().map(well).collect(),
        ..PoolView::default()
    };
    workers(
        &GatewayView { pools: scene.pools.iter().map(pool).collect(), ..GatewayView::default() },
        scene,
        &mut changes,
    );
    changes
}

/// Returns the changes between two snapshots.
pub(super) fn changes(before: &GatewayView, after: &GatewayView) -> Vec<FleetChange> {
    let mut changes = Vec::new();
    let mut gateway = |text: String| changes.push(FleetChange::Gateway(text));
    if before.phase != after.phase {
        gateway(format!("the gateway is {}", after.phase));
    }
    if before.maintenance != after.maintenance {
        let what = if after.maintenance { "closed for maintenance" } else { "open again after maintenance" };
        gateway(what.to_owned());
    }
    for (what, before, after) in [
        ("heartbeats", before.feed, after.feed),
        ("discovery", sources(before), sources(after)),
        ("Redis", before.redis, after.redis),
    ] {
        match (before, after) {
            (Some(true) | None, Some(false)) => gateway(format!("{what}: lost")),
            (Some(false), Some(true)) => gateway(format!("{what}: back")),
            _ => {}
        }
    }
    if after.reloads.0 > before.reloads.0 {
        gateway("settings reloaded".to_owned());
    }
    if after.reloads.1 > before.reloads.1 {
        gateway("changed settings refused; the log says why".to_owned());
    }
    for pool in &after.pools {
        let old = before.pools.iter().find(|old| old.name == pool.name);
        if let (Some(old), Some(active)) = (old, &pool.active)
            && old.active.as_ref() != Some(active)
        {
            changes.push(FleetChange::Switch { pool: Arc::clone(&pool.name), colour: Arc::clone(active) });
        }
        let canary = old.and_then(|old| canary_change(old.canary.as_ref(), pool.canary.as_ref()));
        changes.extend(canary.map(|text| FleetChange::Canary { pool: Arc::clone(&pool.name), text }));
        let known = old.map_or(&[][..], strangers);
        let new = strangers(pool).iter().filter(|stranger| !known.contains(stranger)).take(NAMED);
        changes.extend(new.map(|stranger| FleetChange::Stranger {
            pool: Arc::clone(&pool.name),
            worker: Arc::clone(&stranger.worker),
            why: Arc::clone(&stranger.why),
        }));
        let mixed_before = old.map(mixed).unwrap_or_default();
        let new = mixed(pool).into_iter().filter(|side| !mixed_before.contains(side)).take(NAMED);
        changes.extend(new.map(|(side, versions)| {
            let pool = Arc::clone(&pool.name);
            FleetChange::Versions { pool, side, versions }
        }));
    }
    workers(before, after, &mut changes);
    changes
}

fn strangers(pool: &PoolView) -> &[StrangerView] {
    pool.strangers.as_deref().unwrap_or_default()
}

/// Returns the sides of a queue whose workers are of several versions, with the versions.
fn mixed(pool: &PoolView) -> Vec<(Arc<str>, Arc<str>)> {
    let mut sides: BTreeMap<&Arc<str>, BTreeSet<&str>> = BTreeMap::new();
    for worker in &pool.workers {
        let version = worker.said.as_ref().and_then(|said| said.version.as_deref());
        if let (Some(side), Some(version)) = (&worker.member_of, version) {
            sides.entry(side).or_default().insert(version);
        }
    }
    let text = |versions: BTreeSet<&str>| versions.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    let several = sides.into_iter().filter(|(_, versions)| versions.len() > 1);
    several.map(|(side, versions)| (Arc::clone(side), text(versions).into())).collect()
}

/// Returns what changed of a pool's canary.
fn canary_change(before: Option<&CanaryView>, after: Option<&CanaryView>) -> Option<String> {
    let same = |one: &&CanaryView| after.is_some_and(|after| after.epoch == one.epoch);
    let (known, Some(after)) = (before.filter(same), after) else {
        // Judged elsewhere: the line of the switch says which side is active.
        return before.map(|before| format!("the canary of {} ended", before.new));
    };
    if known.is_some_and(|known| known.state == after.state) {
        return None;
    }
    Some(match after.state {
        CanaryState::UnderWay => {
            format!("a canary began: {} gets {} % beside {}", after.new, after.share * 100.0, after.old)
        }
        state => {
            let what = if state == CanaryState::Promoted { "was promoted" } else { "went back" };
            format!("the canary of {} {what}: {}", after.new, after.why.as_deref().unwrap_or_default())
        }
    })
}

type EventPlace<'a> = (&'a PoolView, &'a WorkerView);

fn by_id(scene: &GatewayView) -> HashMap<&Arc<str>, EventPlace<'_>> {
    fn places(pool: &PoolView) -> impl Iterator<Item = (&Arc<str>, EventPlace<'_>)> {
        pool.workers.iter().map(move |worker| (&worker.id, (pool, worker)))
    }
    scene.pools.iter().flat_map(places).collect()
}

fn workers(before: &GatewayView, after: &GatewayView, changes: &mut Vec<FleetChange>) {
    let (old, new) = (by_id(before), by_id(after));
    let went = old.iter().filter(|(id, _)| !new.contains_key(**id)).map(|(_, place)| *place);
    let came = new.iter().filter(|(id, _)| !old.contains_key(**id)).map(|(_, place)| *place);
    // A busy worker alternates between green and yellow.
    let red = |(_, worker): EventPlace<'_>| worker.light == Light::Red;
    let both = || new.iter().filter_map(|(id, now)| Some((*now, *old.get(*id)?)));
    let failed = both().filter(|(now, then)| red(*now) && !red(*then)).map(|(now, _)| now);
    let healed = both().filter(|(now, then)| !red(*now) && red(*then)).map(|(now, _)| now);
    tell(WorkerEvent::Went, went, changes);
    tell(WorkerEvent::Came, came, changes);
    tell(WorkerEvent::Red, failed, changes);
    tell(WorkerEvent::Well, healed, changes);
}

fn tell<'a>(turn: WorkerEvent, places: impl Iterator<Item = EventPlace<'a>>, changes: &mut Vec<FleetChange>) {
    let mut places: Vec<_> = places.collect();
    places.sort_unstable_by_key(|(_, worker)| &worker.id);
    changes.extend(places.iter().take(NAMED).map(|(pool, worker)| FleetChange::Worker {
        worker: Arc::clone(&worker.id),
        pool: Arc::clone(&pool.name),
        turn,
        eligible: worker.eligible,
        why: worker.why.clone().filter(|_| turn == WorkerEvent::Red),
    }));
    if places.len() > NAMED {
        changes.push(FleetChange::More { count: places.len() - NAMED, turn });
    }
}

/// Returns `true` if all discovery sources answer; `None` without any.
fn sources(view: &GatewayView) -> Option<bool> {
    let all = view.discovery.iter().all(|source| source.away.is_empty());
    (!view.discovery.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests;
