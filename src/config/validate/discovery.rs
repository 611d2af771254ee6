//! Checks the discovery sources.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Distinct, kubernetes, workers};
use crate::config::file::{AllowSection, ConfigFile, DiscoveryName, DnsSection, OneOrMany, WorkerMode};
use crate::config::settings::DiscoverySettings;
use crate::config::source::{ErrorCollector, SettingPath};
use crate::discovery::{DnsTarget, ScrapeSettings, SourceTarget};
use crate::fleet::discovery::{DiscoverySource, TargetId, TargetSettings};
use crate::fleet::heartbeat::SigningKey;
use crate::fleet::registry::RegistrySettings;
use crate::redis::publisher::health_channel;
use crate::redis::settings::RedisSettings;

/// Shortest time without an answer after which DNS is away, and in lookups.
const SILENCE: Duration = Duration::from_secs(3);
const LOOKUPS: u32 = 3;

pub(super) fn validate(
    file: &ConfigFile,
    root: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> DiscoverySettings {
    let at = root.key("workers");
    let named = file.workers.discovery.as_slice();
    if named.len() > 1 && named.contains(&DiscoveryName::None) {
        report.fault(&at.key("discovery"), "must not name `none` together with a source");
    }
    let queue = file.workers.mode == WorkerMode::Queue;
    let sources = [
        (DiscoveryName::Dns, "dns", file.workers.dns.is_empty()),
        (DiscoveryName::Kubernetes, "kubernetes", file.workers.kubernetes.is_empty()),
    ];
    for (source, key, empty) in sources {
        let used = file.workers.discovers_by(source);
        if used && queue {
            let problem = format!("must not name `{key}` with `mode: queue`: those workers send heartbeats");
            report.fault(&at.key("discovery"), problem);
        } else if used && empty {
            report.fault(&at.key(key), format!("is missing; `discovery: {key}` needs at least one entry"));
        } else if !used && !empty {
            report.fault(&at.key(key), format!("is used only with `discovery: {key}`"));
        }
    }
    if file.workers.discovers() && file.workers.allow.is_empty() && !queue {
        let problem = "is missing; list the networks and hosts where workers may be, such as `[10.0.0.0/8]`";
        report.fault(&at.key("allow"), problem);
    }
    let names = dns(file, &at.key("dns"), report).into_iter().map(SourceTarget::Dns);
    let endpoints = kubernetes::targets(&file.workers.kubernetes, &at.key("kubernetes"), report);
    let endpoints = endpoints.into_iter().map(SourceTarget::Kubernetes);
    pools(file, &at, report);
    DiscoverySettings { targets: names.chain(endpoints).collect() }
}

fn dns(file: &ConfigFile, at: &SettingPath<'_>, report: &mut ErrorCollector) -> Vec<DnsTarget> {
    let mut seen = Distinct::new();
    let sections = &file.workers.dns;
    let target = |(index, section): (usize, &DnsSection)| {
        let at = at.index(index);
        seen.add((section.name.0.0.clone(), section.port), &at.key("name"), report);
        let name: Arc<str> = section.name.0.0.as_str().into();
        let known = match section.port {
            Some(port) => format!("{name}:{port}").into(),
            None => Arc::clone(&name),
        };
        let refresh = workers::positive(section.refresh.0, &at.key("refresh"), report);
        DnsTarget {
            settings: TargetSettings {
                id: TargetId { source: DiscoverySource::Dns, name: known },
                pool: Arc::clone(&section.pool.0.0),
                model: section.model.as_ref().map(|model| Arc::clone(&model.0.0)),
                colour: Arc::clone(&section.colour.0.0),
                silence: SILENCE.max(refresh.saturating_mul(LOOKUPS)),
                scrape: section.scrape,
            },
            name,
            port: section.port,
            ids_with_port: sections.iter().filter(|other| other.name == section.name).count() > 1,
            https: section.https,
            family: section.family,
            slots: section.slots,
            refresh,
            servers: file.workers.dns_servers.iter().map(|server| server.0).collect(),
        }
    };
    sections.iter().enumerate().map(target).collect()
}

/// Checks that the workers of a pool serve one model, whoever names them.
fn pools(file: &ConfigFile, at: &SettingPath<'_>, report: &mut ErrorCollector) {
    let mut models: BTreeMap<&str, (&str, String)> = BTreeMap::new();
    let fixed = file.workers.fixed.iter().flatten().enumerate();
    let fixed =
        fixed.map(|(index, worker)| (&worker.pool, Some(&worker.model), at.key("static").index(index)));
    let dns = file.workers.dns.iter().enumerate();
    let dns = dns.map(|(index, entry)| (&entry.pool, entry.model.as_ref(), at.key("dns").index(index)));
    // Where pods choose, the registry compares what they chose.
    let sole = file.workers.kubernetes.iter().enumerate().filter_map(|(index, entry)| {
        let ([pool], Some([model])) = (entry.pool.as_slice(), entry.model.as_ref().map(OneOrMany::as_slice))
        else {
            return None;
        };
        Some((pool, Some(model), at.key("kubernetes").index(index)))
    });
    // Those in `static` are compared with each other elsewhere.
    let among_static = file.workers.fixed.as_ref().map_or(0, Vec::len);
    for (place, (pool, model, at)) in fixed.chain(dns).chain(sole).enumerate() {
        let Some(model) = model.map(|model| &*model.0.0) else { continue };
        let (first, field) = models.entry(&pool.0.0).or_insert_with(|| (model, at.field().to_owned()));
        if *first != model && place >= among_static {
            let problem = format!("must be `{first}`, like `{field}` in the same pool `{}`", pool.0.0);
            report.fault(&at.key("model"), problem);
        }
    }
}

/// Returns how workers are read.
pub(super) fn scrape(
    file: &ConfigFile,
    root: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> ScrapeSettings {
    let (scrape, at) = (&file.workers.scrape, root.key("workers").key("scrape"));
    ScrapeSettings {
        interval: workers::positive(scrape.interval.0, &at.key("interval"), report),
        path: scrape.path.0.0.to_string(),
        health: scrape.health.0.0.to_string(),
    }
}

/// Returns the settings of the worker registry.
pub(super) fn registry(
    file: &ConfigFile,
    sources: &DiscoverySettings,
    (redis, key): (&RedisSettings, Option<SigningKey>),
    root: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> RegistrySettings {
    let fixed = file.workers.fixed.iter().flatten();
    let at = root.key("workers").key("allow");
    let headers = file.workers.allow.iter().enumerate().filter_map(|(index, entry)| match entry {
        AllowSection::Hosts(_) => None,
        AllowSection::WithHeaders(entry) => {
            let at = at.index(index).key("headers");
            Some((entry.hosts.0.0.clone(), workers::headers(&entry.headers, &at, report)))
        }
    });
    RegistrySettings {
        channel: health_channel(&redis.prefix),
        key,
        headers: headers.collect(),
        allow: file.workers.allow.iter().map(|allowed| allowed.hosts().0.0.clone()).collect(),
        queue: file.workers.mode == WorkerMode::Queue,
        targets: sources.targets.iter().map(|target| target.settings().clone()).collect(),
        empty_grace: file.workers.empty_grace.0,
        scraped: fixed.filter(|worker| worker.scrape).map(|worker| Arc::clone(&worker.id.0.0)).collect(),
    }
}
