//! Workers that take their work from a queue: each colour of a pool is seen as one worker.
//!
//! The workers decide which of them takes a request. So the gate keeps one ledger per colour, and
//! reports are combined: slots are summed, and weights are averaged by slots.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, Uri};

use super::NamedVersions;
use super::report::WorkerReport;
use crate::fleet::Light;
use crate::fleet::heartbeat::{CheckStatus, DesiredState, HealthCheck, Heartbeat};
use crate::fleet::side;
use crate::fleet::spec::WorkerSpec;

/// Most workers of one colour that are shown one by one.
const SHOWN: usize = 16;

/// Returns the id of a side of a pool, used in place of a worker's id.
pub(super) fn id(pool: &str, side: &str) -> Arc<str> {
    format!("{pool}.{side}").into()
}

/// Returns the side of a worker: its colour, or its version of the colour if only that version
/// takes the pool's work.
pub(super) fn side(spec: &WorkerSpec, version: Option<&Arc<str>>, named: &NamedVersions) -> Arc<str> {
    let named = named.get(&(Arc::clone(&spec.pool), Arc::clone(&spec.colour)));
    match named.filter(|named| version == Some(named)) {
        Some(named) => side::of_version(&spec.colour, named),
        None => Arc::clone(&spec.colour),
    }
}

/// Returns the URL of a worker that the gateway does not connect to; the host can never exist.
pub(super) fn nowhere(worker: &str) -> Uri {
    Uri::builder()
        .scheme("http")
        .authority("queue.invalid")
        .path_and_query(format!("/{worker}"))
        .build()
        .unwrap_or_default()
}

/// Combines the workers of each side of a pool into one, sorted by id.
pub(super) fn specs<'a>(
    workers: impl Iterator<Item = (&'a WorkerSpec, &'a Heartbeat)>,
    named: &NamedVersions,
) -> Vec<WorkerSpec> {
    let mut sides: BTreeMap<Arc<str>, WorkerSpec> = BTreeMap::new();
    for (spec, beat) in workers {
        let colour = side(spec, beat.version.as_ref(), named);
        let id = id(&spec.pool, &colour);
        sides
            .entry(Arc::clone(&id))
            .and_modify(|side| {
                side.slots = side.slots.zip(spec.slots).map(|(all, one)| all.saturating_add(one))
            })
            .or_insert_with(|| WorkerSpec {
                url: nowhere(&id),
                id,
                pool: Arc::clone(&spec.pool),
                model: Arc::clone(&spec.model),
                slots: spec.slots,
                // Total tokens in flight of the workers say nothing about the room in one of them.
                kv_tokens: None,
                colour,
                headers: HeaderMap::new(),
                external: None,
                address: None,
                http2: None,
            });
    }
    sides.into_values().collect()
}

/// Combines the reports of the workers of each side of a pool.
pub(super) fn reports(reports: Vec<(WorkerReport, &WorkerSpec)>, named: &NamedVersions) -> Vec<WorkerReport> {
    let mut sides: BTreeMap<Arc<str>, Vec<(WorkerReport, &WorkerSpec)>> = BTreeMap::new();
    for (report, spec) in reports {
        let side = side(spec, report.beat.version.as_ref(), named);
        sides.entry(id(&spec.pool, &side)).or_default().push((report, spec));
    }
    sides.into_iter().filter_map(|(id, workers)| together(id, &workers)).collect()
}

fn together(id: Arc<str>, workers: &[(WorkerReport, &WorkerSpec)]) -> Option<WorkerReport> {
    let reports = || workers.iter().map(|(report, _)| report);
    let freshest = reports().min_by_key(|report| report.age)?;
    let slots = |report: &WorkerReport| f64::from(report.beat.slots.unwrap_or(1));
    let all: f64 = reports().map(slots).sum();
    let able: f64 =
        reports().map(|report| if report.held { 0.0 } else { slots(report) * report.weight }).sum();
    let sum = |said: fn(&Heartbeat) -> Option<u32>| {
        reports().filter_map(|report| said(&report.beat)).reduce(u32::saturating_add)
    };
    let serving = || reports().filter(|report| report.is_able());
    // The longest queue counts: it hurts as much as it would on a single worker.
    let waiting = serving().filter_map(|report| report.beat.waiting).max();
    let held = reports().all(|report| report.held);
    let beat = Heartbeat {
        worker: id,
        boot: Arc::clone(&freshest.beat.boot),
        seq: freshest.beat.seq,
        at_ms: freshest.beat.at_ms,
        interval: freshest.beat.interval,
        url: None,
        pool: None,
        model: None,
        colour: None,
        version: common_version(workers),
        state: if held { freshest.beat.state } else { DesiredState::Ready },
        slots: workers
            .iter()
            .map(|(_, spec)| spec.slots)
            .reduce(|one, other| Some(one?.saturating_add(other?)))
            .flatten(),
        running: sum(|beat| beat.running),
        waiting,
        kv_used: serving().filter_map(|report| report.beat.kv_used).reduce(f64::max),
        kv_tokens: None,
        ttft_p90: serving().filter_map(|report| report.beat.ttft_p90).max(),
        itl_p90: serving().filter_map(|report| report.beat.itl_p90).max(),
        checks: workers.iter().take(SHOWN).map(|(report, _)| shown(report)).collect(),
    };
    Some(WorkerReport {
        beat: Arc::new(beat),
        age: freshest.age,
        // A colour serves as long as one of its workers does.
        light: reports().map(|report| report.light).max().unwrap_or(Light::Red),
        weight: able / all.max(f64::MIN_POSITIVE),
        held,
        scraped: false,
    })
}

/// Returns the version of a side whose workers all have the same.
fn common_version(workers: &[(WorkerReport, &WorkerSpec)]) -> Option<Arc<str>> {
    let mut versions = workers.iter().map(|(report, _)| &report.beat.version);
    let first = versions.next()?;
    versions.all(|version| version == first).then(|| first.clone()).flatten()
}

/// Shows one worker as a check of its colour.
fn shown(report: &WorkerReport) -> HealthCheck {
    let beat = &report.beat;
    let count = |count: Option<u32>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
    HealthCheck {
        name: Arc::clone(&beat.worker),
        status: match report.light {
            Light::Red => CheckStatus::Red,
            Light::Yellow => CheckStatus::Yellow,
            Light::Green => CheckStatus::Green,
        },
        message: format!("{}, {} of {} slots", beat.state.as_str(), count(beat.running), count(beat.slots))
            .into(),
    }
}
