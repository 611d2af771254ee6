//! Checks the callers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use super::{Distinct, Files};
use crate::config::file::{
    Anonymous, BuiltinSource, CallerStore, CallersSection, Jwt, KeyLimit, OneOrMany, SourceSection,
};
use crate::config::settings::{JwksSource, TokenSource};
use crate::config::source::{ErrorCollector, SettingPath};
use crate::config::syntax::{Jwks, Text, Word};
use crate::layers::identify::{CallerSettings, IdentitySource};
use crate::layers::jwt::{Claims, TokenSettings};
use crate::limit::own_limits::quota;
use crate::limit::rule::Rule;
use crate::redis::callers::{NO_KEY, of_no_key};
use crate::request::{AllowedModels, CallerRights, KeyOwner, OwnLimit, OwnLimits};

pub(super) fn validate(
    callers: &CallersSection,
    at: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> CallerSettings {
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
        if of_no_key(&key.sha256.0.0) {
            report.fault(&at.key("sha256"), NO_KEY);
        }
    }
    CallerSettings {
        from: callers.from.iter().map(source).collect(),
        trusted_proxies: callers.trusted_proxies.iter().map(|network| network.0.0).collect(),
        key_headers: callers.key_header.as_slice().iter().map(|header| header.0.clone()).collect(),
        anonymous: callers.anonymous == Anonymous::Allow,
        default_class: callers.default_class,
        forward_authorization: callers.forwards_authorization(),
        keys: callers
            .keys
            .iter()
            .map(|key| {
                let models =
                    key.models.as_ref().map(|models| models.iter().map(|pattern| pattern.0.0.clone()));
                let rights = CallerRights {
                    class: key.class,
                    team: key.team.as_ref().map(|team| team.0.0.clone()),
                    weight: key.weight,
                    limits: own_limits(&key.limits),
                    models: models.map(|models| Arc::new(AllowedModels::new(models))),
                    answer_headers: key.answer_headers,
                    external: key.external,
                };
                KeyOwner { id: key.id.0.0.clone(), sha256: key.sha256.0.0, rights }
            })
            .collect(),
    }
}

/// Minimum of `refresh`: fetching more often is only load on the issuer.
const OFTENEST: Duration = Duration::from_secs(1);

pub(super) fn tokens(
    jwt: &Jwt,
    at: &SettingPath<'_>,
    files: Files<'_>,
    report: &mut ErrorCollector,
) -> TokenSource {
    let mut algorithms = Distinct::new();
    for (index, algorithm) in jwt.algorithms.iter().enumerate() {
        algorithms.add(format!("{algorithm:?}"), &at.key("algorithms").index(index), report);
    }
    if jwt.refresh.0 < OFTENEST {
        report.fault(&at.key("refresh"), "must be at least `1s`");
    }
    let keys = match &jwt.jwks.0 {
        Jwks::File(file) => {
            if jwt.ca.is_some() {
                report.fault(&at.key("ca"), "applies only to an `https` URL in `jwks`");
            }
            JwksSource::File(files.readable(file, &at.key("jwks"), report))
        }
        Jwks::Url(url) => JwksSource::Url {
            // The syntax check has parsed it before.
            url: url.parse().unwrap_or_else(|_| Uri::default()),
            ca: jwt.ca.as_ref().map(|ca| files.readable(&ca.0, &at.key("ca"), report)),
            refresh: jwt.refresh.0,
        },
    };
    let words =
        |words: &OneOrMany<Text<Word>>| words.as_slice().iter().map(|word| word.0.0.clone()).collect();
    let claim = |name: &Option<Text<Word>>| name.as_ref().map(|name| name.0.0.clone());
    let tokens = TokenSettings {
        algorithms: jwt.algorithms.iter().map(|algorithm| (*algorithm).into()).collect(),
        audience: words(&jwt.audience),
        issuer: words(&jwt.issuer),
        claims: Claims {
            caller: jwt.claims.caller.0.0.clone(),
            class: claim(&jwt.claims.class),
            team: claim(&jwt.claims.team),
            models: claim(&jwt.claims.models),
            external: claim(&jwt.claims.external),
        },
        leeway: jwt.leeway.0,
    };
    TokenSource { tokens, keys }
}

fn own_limits(limits: &BTreeMap<String, KeyLimit>) -> Option<Arc<OwnLimits>> {
    let read = limits.iter().map(|(rule, KeyLimit { rate, burst, limit })| {
        let rate = rate.as_ref().map(|rate| (rate.0.limit, rate.0.period));
        (rule.as_str().into(), OwnLimit { rate, burst: *burst, limit: *limit })
    });
    (!limits.is_empty()).then(|| Arc::new(read.collect()))
}

/// Checks that each override of a limit fits the rule that it names.
pub(super) fn check_limits(
    callers: &CallerSettings,
    rules: &[Rule],
    at: &SettingPath<'_>,
    report: &mut ErrorCollector,
) {
    for (index, key) in callers.keys.iter().enumerate() {
        let at = at.key("keys").index(index).key("limits");
        for (name, limit) in key.rights.limits.iter().flat_map(|limits| limits.iter()) {
            let fault = match rules.iter().find(|rule| rule.name == *name) {
                None => Some("there is no rule of this name in `limits`"),
                Some(rule) => quota(rule, limit).err(),
            };
            if let Some(fault) = fault {
                report.fault(&at.key(name), fault);
            }
        }
    }
}

fn source(source: &SourceSection) -> IdentitySource {
    match source {
        SourceSection::Plainly(BuiltinSource::ApiKey) => IdentitySource::ApiKey,
        SourceSection::Plainly(BuiltinSource::Ip) => IdentitySource::Ip,
        SourceSection::Header(named) => IdentitySource::Header(named.header.0.clone()),
    }
}

/// Checks that `callers.from` agrees with other settings. Otherwise one would silently be ignored.
fn sources(callers: &CallersSection, at: &SettingPath<'_>, report: &mut ErrorCollector) {
    let from = at.key("from");
    let mut seen: Vec<&SourceSection> = Vec::new();
    for (index, source) in callers.from.iter().enumerate() {
        if seen.contains(&source) {
            report.fault(&from.index(index), "is a duplicate");
        }
        seen.push(source);
        if let SourceSection::Header(named) = source
            && callers.trusted_proxies.is_empty()
        {
            let header = named.header.0.as_str();
            let problem = format!(
                "`callers.from` names the header `{header}`, which only trusted proxies may set: name them here"
            );
            report.fault(&at.key("trusted_proxies"), problem);
        }
    }
    let by_key = callers.from.contains(&SourceSection::Plainly(BuiltinSource::ApiKey));
    if !callers.keys.is_empty() && !by_key {
        report.fault(&from, "must contain `api_key`, because there are `callers.keys`");
    }
    if callers.stored == CallerStore::Redis && !by_key {
        report.fault(&from, "must contain `api_key`, because `callers.stored` stores API keys");
    }
    if callers.jwt.is_some() && !by_key {
        report.fault(&from, "must contain `api_key`, because tokens of `callers.jwt` are sent as API keys");
    }
    if callers.anonymous == Anonymous::Refuse && callers.without_keys() && report.is_known(&at.key("keys")) {
        report.fault(&at.key("anonymous"), "`refuse` would refuse everyone: there are no `callers.keys`");
    }
}
