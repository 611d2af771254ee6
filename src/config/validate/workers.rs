//! Checks and converts the workers and the concurrency settings.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Distinct, external};
use crate::config::file::{self, ConcurrencyLimit, ConfigFile, LimitFinder, WorkerSection};
use crate::config::settings::PrefixHashing;
use crate::config::source::{ErrorCollector, SettingPath};
use crate::config::syntax::{Secret, Text, quarter};
use crate::fleet::heartbeat::signing_keys;
use crate::fleet::spec::WorkerSpec;
use crate::layers::cost::SessionSource;
use crate::request::Class;
use crate::shed::settings::{GateSettings, LimitSource, PrefixSettings};
use crate::shed::{EjectionSettings, prefix_key};
use crate::upstream::UpstreamTimeouts;

pub(super) fn validate(
    file: &ConfigFile,
    root: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> Vec<WorkerSpec> {
    let at = root.key("workers");
    if file.workers.mode == file::WorkerMode::Queue {
        if file.workers.fixed.as_ref().is_some_and(|fixed| !fixed.is_empty()) {
            let problem =
                "must not be set with `mode: queue`: every process that reads the queue is a worker";
            report.fault(&at.key("static"), problem);
        }
        return Vec::new();
    }
    let discovers = file.workers.discovers();
    if discovers && file.workers.fixed.is_none() {
        return Vec::new();
    }
    let Some(workers) = &file.workers.fixed else {
        let problem = "is missing; name at least one worker, or `[]` to start without any";
        report.fault(&at.key("static"), problem);
        return Vec::new();
    };
    let at_concurrency = root.key("concurrency").key("limit");
    let by_slots = matches!(file.concurrency.limit, ConcurrencyLimit::LimitFinder(LimitFinder::Slots))
        && report.is_known(&at_concurrency);
    let (mut ids, mut addresses) = (Distinct::new(), Distinct::new());
    let mut specs = Vec::with_capacity(workers.len());
    for (index, worker) in workers.iter().enumerate() {
        let at = at.key("static").index(index);
        ids.add(worker.id.0.clone(), &at.key("id"), report);
        // One process may serve two models, as two pools; twice in one pool it would count twice.
        addresses.add((worker.pool.0.clone(), worker.url.to_string()), &at.key("url"), report);
        if by_slots && worker.slots.is_none() {
            let problem = "is missing; set it to the number of requests that the worker decodes at once \
                 (or set `concurrency.limit` to a number for all workers)";
            report.fault(&at.key("slots"), problem);
        }
        specs.push(WorkerSpec {
            id: worker.id.0.0.clone(),
            url: worker.url.0.0.clone(),
            pool: worker.pool.0.0.clone(),
            model: worker.model.0.0.clone(),
            slots: worker.slots,
            kv_tokens: worker.kv_tokens,
            colour: worker.colour.0.0.clone(),
            headers: headers(&worker.headers, &at.key("headers"), report),
            external: external::limits(worker, &at, report),
            address: None,
            http2: worker.http2,
        });
    }
    pools(workers, &at, report);
    if !discovers {
        active_colour(file, workers, &at, report);
    }
    specs
}

/// Checks that each pool has one model pattern and each model pattern one pool. Otherwise the order in
/// the file would decide to which pool a request goes.
fn pools(workers: &[WorkerSection], at: &SettingPath<'_>, report: &mut ErrorCollector) {
    let mut model_of: BTreeMap<&str, (&str, String)> = BTreeMap::new();
    let mut pool_of: BTreeMap<&str, (&str, String)> = BTreeMap::new();
    for (index, worker) in workers.iter().enumerate() {
        let (pool, model): (&str, &str) = (&worker.pool.0.0, &worker.model.0.0);
        let at = at.key("static").index(index);
        let (first_model, first) = model_of.entry(pool).or_insert_with(|| (model, at.field().to_owned()));
        if *first_model != model {
            let problem = format!("must be `{first_model}`, like `{first}` in the same pool `{pool}`");
            report.fault(&at.key("model"), problem);
        }
        let (first_pool, first) = pool_of.entry(model).or_insert_with(|| (pool, at.field().to_owned()));
        if *first_pool != pool {
            let problem = format!(
                "must be `{first_pool}`, like `{first}` with the same model `{model}`, or the models must differ"
            );
            report.fault(&at.key("pool"), problem);
        }
    }
}

fn active_colour(
    file: &ConfigFile,
    workers: &[WorkerSection],
    at: &SettingPath<'_>,
    report: &mut ErrorCollector,
) {
    let Some(colour) = file.workers.active_colour.as_ref().filter(|_| report.is_known(&at.key("static")))
    else {
        return;
    };
    let mut served: BTreeMap<&str, bool> = BTreeMap::new();
    for worker in workers {
        *served.entry(&worker.pool.0.0).or_insert(false) |= worker.colour == *colour;
    }
    for (pool, _) in served.iter().filter(|(_, served)| !**served) {
        report.fault(&at.key("active_colour"), format!("no worker of the pool `{pool}` has this colour"));
    }
}

/// Headers that frame a message or belong to one connection; the HTTP client sets them.
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub(super) fn headers(
    configured: &BTreeMap<String, Text<Secret>>,
    at: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, secret) in configured {
        let at = at.key(name);
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            report.fault(&at, "this is not the name of an HTTP header");
            continue;
        };
        if FRAMING.contains(&header.as_str()) {
            report.fault(&at, "this header belongs to the connection and cannot be set");
        }
        let text = Some(secret.0.expose()).filter(|text| text.is_ascii());
        let Some(Ok(mut value)) = text.map(HeaderValue::from_str) else {
            report.fault(&at, "must be visible ASCII, as HTTP headers are");
            continue;
        };
        value.set_sensitive(true);
        if headers.insert(header, value).is_some() {
            report.fault(&at, "is set twice: header names are not case-sensitive");
        }
    }
    headers
}

pub(super) fn gate(file: &ConfigFile, root: &SettingPath<'_>, report: &mut ErrorCollector) -> GateSettings {
    let at = root.key("concurrency");
    let concurrency = &file.concurrency;
    let (critical, interactive) = (concurrency.reserve.critical, concurrency.reserve.interactive);
    if critical + interactive >= 1.0 {
        report.fault(&at.key("reserve"), "must sum to less than 1: `batch` may use only the rest");
    }
    let mut reserve = [0.0; 3];
    for (class, share) in [(Class::Critical, critical), (Class::Interactive, interactive)] {
        if let Some(slot) = reserve.get_mut(class as usize) {
            *slot = share;
        }
    }
    let queue = &concurrency.queue;
    GateSettings {
        limit: match concurrency.limit {
            ConcurrencyLimit::LimitFinder(LimitFinder::Adaptive) => LimitSource::Adaptive,
            ConcurrencyLimit::LimitFinder(LimitFinder::Slots) => LimitSource::Slots,
            ConcurrencyLimit::Number(number) => LimitSource::Fixed(number),
        },
        law: concurrency.law,
        queue_length: usize::try_from(queue.length).unwrap_or(usize::MAX),
        queue_bytes: queue.bytes.get(),
        queue_wait: queue.wait.as_ref().map_or_else(|| quarter(concurrency.ttft_slo.0), |wait| wait.0),
        wait_no_worker: queue.wait_no_worker.0,
        promote: queue.promote.0,
        reserve,
        ttft_slo: positive(concurrency.ttft_slo.0, &at.key("ttft_slo"), report),
        ttft_per_1k: concurrency.per_1k_prompt_tokens.0,
        itl_slo: positive(concurrency.itl_slo.0, &at.key("itl_slo"), report),
        fleet_factor: concurrency.fleet_factor,
        gateways: file.gateways,
        ejection: ejection(&file.workers.ejection, &root.key("workers").key("ejection"), report),
        // With a queue the gateway does not choose the worker.
        prefix: (concurrency.prefix == file::PrefixChoice::Auto
            && file.workers.mode == file::WorkerMode::Http)
            .then_some(PrefixSettings { capacity: file.prefix.capacity }),
        canary: None,
    }
}

pub(super) fn prefix(file: &ConfigFile) -> PrefixHashing {
    // While the signing key is replaced, only the one that signs is the same at all gateways.
    let signing = file.redis.hmac_key.as_ref().and_then(|secret| signing_keys(secret.0.expose()).next());
    let secret = file.prefix.key.as_ref().map(|secret| secret.0.expose()).or(signing);
    PrefixHashing { key: secret.map(prefix_key), share: file.prefix.share }
}

fn ejection(
    ejection: &file::Ejection,
    at: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> EjectionSettings {
    let (base, max) = (ejection.base_ejection_time.0, ejection.max_ejection_time.0);
    if max < base {
        report.fault(&at.key("max_ejection_time"), "must not be shorter than `base_ejection_time`");
    }
    EjectionSettings {
        mode: ejection.mode,
        consecutive: ejection.consecutive,
        failure_percentage: ejection.failure_percentage,
        request_volume: ejection.request_volume,
        interval: positive(ejection.interval.0, &at.key("interval"), report),
        base: positive(base, &at.key("base_ejection_time"), report),
        max,
        max_percent: ejection.max_ejection_percent,
    }
}

/// Returns how long a turn of a session waits for its worker.
pub(super) fn sticky_wait(concurrency: &file::Concurrency) -> Duration {
    concurrency.queue.sticky_wait.as_ref().map_or_else(|| quarter(concurrency.ttft_slo.0), |wait| wait.0)
}

pub(super) fn sticky(sticky: &file::StickySection) -> SessionSource {
    match sticky {
        file::StickySection::Header(name) => SessionSource::Header(name.0.clone()),
        file::StickySection::Cookie(name) => SessionSource::Cookie(name.0.0.clone()),
        file::StickySection::Body(pointer) => SessionSource::Body(pointer.0.clone()),
    }
}

pub(super) fn timeouts(
    timeouts: &file::TimeoutsSection,
    at: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> UpstreamTimeouts {
    UpstreamTimeouts {
        connect: positive(timeouts.connect.0, &at.key("connect"), report),
        first_token: positive(timeouts.first_token.0, &at.key("first_token"), report),
        hold: timeouts.hold.0,
        idle: positive(timeouts.idle.0, &at.key("idle"), report),
        total: positive(timeouts.total.0, &at.key("total"), report),
    }
}

/// Reports an error if the duration is zero.
pub(super) fn positive(length: Duration, at: &SettingPath<'_>, report: &mut ErrorCollector) -> Duration {
    if length.is_zero() {
        report.fault(at, "must be greater than zero");
    }
    length
}
