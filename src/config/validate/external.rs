//! Checks external workers.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::file::WorkerSection;
use crate::config::source::{ErrorCollector, SettingPath};
use crate::config::syntax::Rate;
use crate::fleet::provider::ProviderLimits;
use crate::fleet::spec::WorkerSpec;
use crate::glob::Glob;
use crate::limit::rule::{Mode, Quota, Rule};

/// Returns the limits of an external worker; `None` if the worker is not external.
pub(super) fn limits(
    worker: &WorkerSection,
    at: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> Option<ProviderLimits> {
    let Some(provider) = &worker.provider else {
        return worker.external.then(ProviderLimits::default);
    };
    let none = provider.requests.is_none() && provider.tokens.is_none();
    if none && report.is_known(&at.key("provider")) {
        let problem = "must have `requests` or `tokens`, such as `500/m`; for a worker without a known limit \
             write `external: true` instead";
        report.fault(&at.key("provider"), problem);
    }
    if none {
        // The result is discarded, so any bound will do.
        let one = Quota { limit: 1, period: Duration::from_secs(1), burst: 1 };
        return Some(ProviderLimits { requests: Some(one), tokens: None });
    }
    let quota = |rate: &Rate| Quota { limit: rate.limit, period: rate.period, burst: rate.limit };
    Some(ProviderLimits {
        requests: provider.requests.as_ref().map(|rate| quota(&rate.0)),
        tokens: provider.tokens.as_ref().map(|rate| quota(&rate.0)),
    })
}

/// Checks that what an external worker is sent, and may cost, is bounded: by `provider`, or by a
/// rule that holds for every request to its pool.
pub(super) fn check_bounds(
    workers: &[WorkerSpec],
    rules: &[Rule],
    at: &SettingPath<'_>,
    report: &mut ErrorCollector,
) {
    let bounded: BTreeSet<&str> = workers
        .iter()
        .filter(|worker| rules.iter().any(|rule| bounds(rule, worker)))
        .map(|worker| &*worker.pool)
        .collect();
    for (index, worker) in workers.iter().enumerate() {
        if worker.external == Some(ProviderLimits::default()) && !bounded.contains(&*worker.pool) {
            let problem = format!(
                "an external worker may cost money, and nothing limits its pool `{}`: set `provider` to the \
                 limits of the API, or add a rule to `limits` that counts the requests or tokens of all its callers",
                worker.pool
            );
            report.fault(&at.index(index), problem);
        }
    }
}

/// Returns `true` if every request to `worker` is subject to `rule`.
fn bounds(rule: &Rule, worker: &WorkerSpec) -> bool {
    let matches = &rule.matches;
    let all_models = matches
        .model
        .as_ref()
        .is_none_or(|pattern| *pattern == worker.model || Glob::new(pattern.clone()).matches(&worker.model));
    let unconditional = matches.path.is_none() && matches.caller.is_none() && matches.class.is_none();
    rule.mode == Mode::Enforce && all_models && unconditional
}
