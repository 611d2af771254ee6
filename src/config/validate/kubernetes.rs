//! Checks the entries of `workers.kubernetes`.

use std::sync::Arc;
use std::time::Duration;

use super::Distinct;
use crate::config::file::{KubernetesSection, OneOrMany, PortSection};
use crate::config::source::{ErrorCollector, SettingPath};
use crate::config::syntax::{Glob, Id, Text};
use crate::discovery::{KubernetesEndpoints, KubernetesPort, KubernetesTarget, LabelChoices};
use crate::fleet::discovery::{DiscoverySource, TargetId, TargetSettings};

/// Without a sign of life for this long the API server is away. There is one about every five seconds.
const SILENCE: Duration = Duration::from_secs(12);

pub(super) fn targets(
    sections: &[KubernetesSection],
    at: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> Vec<KubernetesTarget> {
    let mut seen = Distinct::new();
    let mut targets = Vec::with_capacity(sections.len());
    for (index, section) in sections.iter().enumerate() {
        let at = at.index(index);
        let Some(endpoints) = endpoints(section, &at, report) else { continue };
        check(section, &at, report);
        let port = section.port.as_ref().map(port);
        let key = match &endpoints {
            KubernetesEndpoints::Service(_) => "service",
            KubernetesEndpoints::Selector(_) => "selector",
            KubernetesEndpoints::InferencePool(_) => "inference_pool",
        };
        let namespace = section.namespace.as_ref().map(|name| Arc::clone(&name.0.0));
        seen.add((namespace, endpoints.clone(), port.clone()), &at.key(key), report);
        let same = sections.iter().filter(|other| named(other) == named(section)).count();
        targets.push(target(section, endpoints, port, same > 1));
    }
    targets
}

fn target(
    section: &KubernetesSection,
    endpoints: KubernetesEndpoints,
    port: Option<KubernetesPort>,
    ids_with_port: bool,
) -> KubernetesTarget {
    let namespace = section.namespace.as_ref().map(|name| Arc::clone(&name.0.0));
    KubernetesTarget {
        settings: TargetSettings {
            id: TargetId {
                source: DiscoverySource::Kubernetes,
                name: known_as(namespace.as_deref(), &endpoints, port.as_ref().filter(|_| ids_with_port)),
            },
            pool: first(&section.pool),
            model: section.model.as_ref().and_then(|models| globs(models).into_iter().next()),
            colour: first(&section.colour),
            silence: SILENCE,
            scrape: section.scrape,
        },
        namespace,
        endpoints,
        port,
        ids_with_port,
        https: section.https,
        family: section.family,
        slots: section.slots,
        kv_tokens: section.kv_tokens,
        any_target: section.any_target,
        labels: section.labels.then(|| LabelChoices {
            pools: ids(&section.pool),
            models: section.model.as_ref().map(globs).unwrap_or_default(),
            colours: ids(&section.colour),
        }),
    }
}

/// Returns what tells whose endpoints an entry names.
fn named(section: &KubernetesSection) -> impl PartialEq {
    let KubernetesSection { namespace, service, selector, inference_pool, .. } = section;
    (namespace, service, selector, inference_pool)
}

/// Returns whose endpoints an entry names; `None` if it is wrong.
fn endpoints(
    section: &KubernetesSection,
    at: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> Option<KubernetesEndpoints> {
    let service = section.service.as_ref().map(|it| KubernetesEndpoints::Service(Arc::clone(&it.0.0)));
    let selector = section.selector.as_ref().map(|it| KubernetesEndpoints::Selector(Arc::clone(&it.0.0)));
    let pool =
        section.inference_pool.as_ref().map(|it| KubernetesEndpoints::InferencePool(Arc::clone(&it.0.0)));
    let mut named = [service, selector, pool].into_iter().flatten();
    let (endpoints, more) = (named.next(), named.next());
    if endpoints.is_none() || more.is_some() {
        report.fault(at, "must have exactly one of `service`, `selector` and `inference_pool`");
        return None;
    }
    endpoints
}

/// Checks keys that depend on each other.
fn check(section: &KubernetesSection, at: &SettingPath<'_>, report: &mut ErrorCollector) {
    match (&section.port, &section.service, &section.selector) {
        (None, _, Some(_)) => {
            report.fault(&at.key("port"), "is missing; give the number, because a `selector` names no port");
        }
        (Some(PortSection::Name(_)), None, _) => {
            report.fault(&at.key("port"), "must be a number, because only ports of a `service` have names");
        }
        _ => {}
    }
    if section.any_target && section.service.is_none() {
        report.fault(&at.key("any_target"), "is used only with `service`: all others are pods");
    }
    let pools = section.pool.as_slice().iter().map(|it| &*it.0.0).collect();
    let models = section.model.as_ref().map_or(&[][..], OneOrMany::as_slice);
    let models = models.iter().map(|it| &*it.0.0).collect();
    let colours = section.colour.as_slice().iter().map(|it| &*it.0.0).collect();
    let lists: [(&str, Vec<&str>); 3] = [("pool", pools), ("model", models), ("colour", colours)];
    for (key, values) in lists {
        let mut seen = Distinct::new();
        for (index, value) in values.iter().enumerate() {
            seen.add(*value, &at.key(key).index(index), report);
        }
        if values.len() > 1 && !section.labels {
            report.fault(&at.key(key), "must be one value; pods choose from a list only with `labels: true`");
        }
    }
}

fn known_as(
    namespace: Option<&str>,
    endpoints: &KubernetesEndpoints,
    port: Option<&KubernetesPort>,
) -> Arc<str> {
    let place = namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let name = match endpoints {
        KubernetesEndpoints::Service(name) => name.to_string(),
        KubernetesEndpoints::Selector(selector) => format!("pods/{selector}"),
        KubernetesEndpoints::InferencePool(name) => format!("inferencepools/{name}"),
    };
    match port {
        Some(port) => format!("{place}{name}:{port}").into(),
        None => format!("{place}{name}").into(),
    }
}

fn port(section: &PortSection) -> KubernetesPort {
    match section {
        PortSection::Number(number) => KubernetesPort::Number(*number),
        PortSection::Name(name) => KubernetesPort::Name(Arc::clone(&name.0.0)),
    }
}

fn ids(names: &OneOrMany<Text<Id>>) -> Vec<Arc<str>> {
    names.as_slice().iter().map(|name| Arc::clone(&name.0.0)).collect()
}

fn globs(patterns: &OneOrMany<Text<Glob>>) -> Vec<Arc<str>> {
    patterns.as_slice().iter().map(|pattern| Arc::clone(&pattern.0.0)).collect()
}

/// Returns the first name; a list has at least one.
fn first(names: &OneOrMany<Text<Id>>) -> Arc<str> {
    ids(names).into_iter().next().unwrap_or_default()
}
