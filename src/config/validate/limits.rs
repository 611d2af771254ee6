//! Checks the rules.

use std::time::Duration;

use super::Distinct;
use crate::config::file::{ConfigFile, Reservation, RuleSection};
use crate::config::source::{ErrorCollector, SettingPath};
use crate::config::syntax::{PathGlob, Syntax};
use crate::limit::own_limits::{LONGEST_LOG, fill_time_ok};
use crate::limit::rule::{Algorithm, Match, Per, Quota, Rule};
use crate::refusal::Unit;

pub(super) fn validate(file: &ConfigFile, root: &SettingPath<'_>, report: &mut ErrorCollector) -> Vec<Rule> {
    let max_keys = usize::try_from(file.max_keys).unwrap_or(usize::MAX);
    let mut names = Distinct::new();
    let rules = file.limits.iter().enumerate().map(|(index, limit)| {
        let at = root.key("limits").index(index);
        names.add(limit.name.0.clone(), &at.key("name"), report);
        key(limit, &at, report);
        if limit.reserve == Reservation::Max && limit.unit == Unit::Requests {
            report.fault(&at.key("reserve"), "applies only to rules whose `unit` is `tokens`");
        }
        Rule {
            name: limit.name.0.0.clone(),
            algorithm: limit.algorithm,
            per: limit.per.as_slice().to_vec(),
            unit: limit.unit,
            quota: match limit.algorithm {
                Algorithm::TokenBucket => bucket(limit, &at, report),
                Algorithm::SlidingWindow | Algorithm::SlidingLog => window(limit, &at, report),
            },
            mode: limit.mode,
            matches: matching(limit, &at, report),
            reserve_max: limit.reserve == Reservation::Max,
            on_loss: limit.on_loss.unwrap_or(file.redis.on_loss),
            max_keys,
        }
    });
    rules.collect()
}

fn key(limit: &RuleSection, at: &SettingPath<'_>, report: &mut ErrorCollector) {
    let (parts, at) = (limit.per.as_slice(), at.key("per"));
    for (index, part) in parts.iter().enumerate() {
        if parts.iter().take(index).any(|earlier| earlier == part) {
            report.fault(&at.index(index), "is a duplicate");
        }
    }
    if parts.len() > 1 && parts.contains(&Per::All) {
        report.fault(&at, "`all` is one count for everything: it cannot be combined with others");
    }
}

fn bucket(limit: &RuleSection, at: &SettingPath<'_>, report: &mut ErrorCollector) -> Quota {
    for (key, given) in [("limit", limit.limit.is_some()), ("window", limit.window.is_some())] {
        if given {
            report.fault(
                &at.key(key),
                "applies only to sliding windows; a token bucket has `rate` and `burst`",
            );
        }
    }
    if limit.rate.is_none() {
        report.fault(&at.key("rate"), "is missing; a token bucket needs a rate such as `10/s`");
    }
    if limit.burst.is_none() {
        report.fault(&at.key("burst"), "is missing; a token bucket needs a number of at least 1");
    }
    // If something is missing the result is discarded, so any valid quota will do.
    let (rate, period) =
        limit.rate.as_ref().map_or((1, Duration::from_secs(1)), |rate| (rate.0.limit, rate.0.period));
    let burst = limit.burst.unwrap_or(1);
    let quota = Quota { limit: rate, period, burst };
    if limit.rate.is_some() && !fill_time_ok(&quota) {
        report.fault(&at.key("burst"), "would take more than a year to fill at this `rate`");
    }
    quota
}

fn window(limit: &RuleSection, at: &SettingPath<'_>, report: &mut ErrorCollector) -> Quota {
    for (key, given) in [("rate", limit.rate.is_some()), ("burst", limit.burst.is_some())] {
        if given {
            report.fault(
                &at.key(key),
                "applies only to token buckets; a sliding window has `limit` and `window`",
            );
        }
    }
    if limit.limit.is_none() {
        report.fault(&at.key("limit"), "is missing; a sliding window needs a number of at least 1");
    }
    match &limit.window {
        None => report.fault(&at.key("window"), "is missing; a sliding window needs a length such as `1m`"),
        Some(window) if window.0.is_zero() => report.fault(&at.key("window"), "must be greater than zero"),
        Some(_) => {}
    }
    let most = limit.limit.unwrap_or(1);
    if limit.algorithm == Algorithm::SlidingLog && most > LONGEST_LOG {
        let problem = format!(
            "a sliding log remembers every admission, so its limit is at most {LONGEST_LOG}; for more use `sliding_window`"
        );
        report.fault(&at.key("limit"), problem);
    }
    let period = limit.window.as_ref().map_or(Duration::from_secs(1), |window| window.0);
    Quota { limit: most, period, burst: most }
}

fn matching(limit: &RuleSection, at: &SettingPath<'_>, report: &mut ErrorCollector) -> Match {
    let (matching, at) = (&limit.matching, at.key("match"));
    // Rules see decoded, normal paths, as `paths` does; a `*` may stand for the first `/`.
    let matches_some = |path: &str| {
        PathGlob::read(path).is_some()
            || (path.starts_with('*') && PathGlob::read(&format!("/{path}")).is_some())
    };
    if matching.path.as_ref().is_some_and(|path| !matches_some(&path.0.0)) {
        report.fault(&at.key("path"), format!("matches no path: must be {}", PathGlob::EXPECTED));
    }
    Match {
        path: matching.path.as_ref().map(|pattern| pattern.0.0.clone()),
        model: matching.model.as_ref().map(|pattern| pattern.0.0.clone()),
        caller: matching.caller.as_ref().map(|pattern| pattern.0.0.clone()),
        class: matching.class,
    }
}
