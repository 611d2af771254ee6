//! Who asks.

use super::Distinct;
use crate::config::file::{Anonymous, Callers, Plainly, Source, Stored};
use crate::config::place::{At, Report};
use crate::config::settings::{CallerKey, CallerSettings, CallerSource};

pub(super) fn validate(callers: &Callers, at: &At<'_>, report: &mut Report) -> CallerSettings {
    sources(callers, at, report);
    let mut headers = Distinct::new();
    for (index, header) in callers.key_header.as_slice().iter().enumerate() {
        headers.add(header.0.clone(), &at.key("key_header").index(index), report);
    }
    let (mut ids, mut digests) = (Distinct::new(), Distinct::new());
    for (index, key) in callers.keys.iter().enumerate() {
        let at = at.key("keys").index(index);
        ids.add(key.id.0.clone(), &at.key("id"), report);
        digests.add(key.sha256.0, &at.key("sha256"), report);
    }
    CallerSettings {
        from: callers.from.iter().map(source).collect(),
        trusted_proxies: callers.trusted_proxies.iter().map(|network| network.0.0).collect(),
        key_headers: callers.key_header.as_slice().iter().map(|header| header.0.clone()).collect(),
        refuse_anonymous: callers.anonymous == Anonymous::Refuse,
        default_class: callers.default_class.into(),
        forward_authorization: callers
            .forward_authorization
            .unwrap_or(callers.keys.is_empty() && callers.stored == Stored::None),
        keys: callers
            .keys
            .iter()
            .map(|key| CallerKey {
                id: key.id.0.0.clone(),
                team: key.team.as_ref().map(|team| team.0.0.clone()),
                digest: key.sha256.0,
                class: key.class.unwrap_or(callers.default_class).into(),
                weight: key.weight,
            })
            .collect(),
    }
}

fn source(source: &Source) -> CallerSource {
    match source {
        Source::Plainly(Plainly::ApiKey) => CallerSource::ApiKey,
        Source::Plainly(Plainly::Ip) => CallerSource::Ip,
        Source::Header(named) => CallerSource::Header(named.header.0.clone()),
    }
}

/// Settings that contradict each other would be read by one and overlooked by the other: better they are faults.
fn sources(callers: &Callers, at: &At<'_>, report: &mut Report) {
    let from = at.key("from");
    let mut seen: Vec<&Source> = Vec::new();
    for (index, source) in callers.from.iter().enumerate() {
        if seen.contains(&source) {
            report.fault(&from.index(index), "is in the list already");
        }
        seen.push(source);
        if let Source::Header(named) = source
            && callers.trusted_proxies.is_empty()
        {
            let header = named.header.0.as_str();
            let problem = format!(
                "`callers.from` names the header `{header}`, which only trusted proxies may set: name them here"
            );
            report.fault(&at.key("trusted_proxies"), problem);
        }
    }
    let by_key = callers.from.contains(&Source::Plainly(Plainly::ApiKey));
    if !callers.keys.is_empty() && !by_key {
        report.fault(&from, "must have `api_key` in it, because there are `callers.keys`");
    }
    if callers.stored == Stored::Redis && !by_key {
        report.fault(&from, "must have `api_key` in it, because `callers.stored` keeps keys");
    }
    if callers.stored == Stored::Redis {
        return;
    }
    if callers.anonymous == Anonymous::Refuse && callers.keys.is_empty() && report.is_known(&at.key("keys")) {
        report.fault(&at.key("anonymous"), "`refuse` would refuse everyone: there are no `callers.keys`");
    }
}
