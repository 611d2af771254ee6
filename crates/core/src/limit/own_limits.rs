//! Own limits of a caller: a different quota under a rule that counts per caller.
//!
//! Counts belong to the caller, not to the quota: if its limit changes, used units still count.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rule::{Algorithm, Per, Quota, Rule};
use crate::request::{OwnLimit, OwnLimits};

/// Largest limit of a sliding log. The log keeps one entry per admission and key: more would exceed
/// 150 KiB per key, and `sliding_window` counts nearly as well in a few bytes.
pub const LONGEST_LOG: u64 = 10_000;

/// The most units that a quota may hold.
pub const MOST_UNITS: u64 = 1_000_000_000_000;

/// Longest time that a bucket may take to fill. Nobody waits longer than this, and the arithmetic
/// of a limiter (nanoseconds in 64 bits) has room for 500 times as much.
pub(crate) const FILL: Duration = Duration::from_secs(366 * 86_400);

/// Returns `true` if a bucket of `quota` fills within `FILL`.
#[must_use]
pub fn fill_time_ok(quota: &Quota) -> bool {
    let fill = quota.period.as_nanos().saturating_mul(quota.burst.into()) / u128::from(quota.limit).max(1);
    fill <= FILL.as_nanos()
}

/// The rates that [`read_rate`] accepts, to complete "must be …".
pub const RATE_EXPECTED: &str = "a whole number per s, m, h or d, such as `10/s` or `30/m`, at least 1 and at most \
     1000000000 per second";

/// Parses a rate such as `10/s` or `600/m`; `None` if it is malformed.
#[must_use]
pub fn read_rate(text: &str) -> Option<(u64, Duration)> {
    let (number, unit) = text.split_once('/')?;
    let (_, seconds) = PERIODS.iter().find(|(name, _)| *name == unit)?;
    // A bucket counts time in whole nanoseconds: a faster rate would have no interval.
    let most = seconds.saturating_mul(1_000_000_000);
    let units = number.parse().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()))?;
    (1..=most).contains(&units).then_some((units, Duration::from_secs(*seconds)))
}

/// Formats a rate for [`read_rate`].
#[must_use]
pub fn write_rate(units: u64, period: Duration) -> String {
    let seconds = period.as_secs();
    let unit = PERIODS.iter().find(|(_, period)| *period == seconds).map_or("s", |(unit, _)| unit);
    format!("{units}/{unit}")
}

/// Names of the periods of a rate, and their lengths in seconds.
pub const PERIODS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

/// A limit in its JSON form.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct WrittenLimit {
    /// Rate of a token bucket, such as `10/s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// Units in a full token bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// Units per window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

impl WrittenLimit {
    /// Parses the limit.
    ///
    /// # Errors
    /// If `rate` is malformed.
    pub fn read(&self) -> Result<OwnLimit, String> {
        let rate = self.rate.as_deref().map(|rate| {
            let fault = || format!("`rate` must be {RATE_EXPECTED}; found \"{rate}\"");
            read_rate(rate).ok_or_else(fault)
        });
        Ok(OwnLimit { rate: rate.transpose()?, burst: self.burst, limit: self.limit })
    }
}

impl From<&OwnLimit> for WrittenLimit {
    fn from(limit: &OwnLimit) -> Self {
        let rate = limit.rate.map(|(units, period)| write_rate(units, period));
        Self { rate, burst: limit.burst, limit: limit.limit }
    }
}

/// Returns the quota of `rule` for a caller with this limit of its own.
///
/// # Errors
/// Reason why the limit does not fit the rule.
pub fn quota(rule: &Rule, limit: &OwnLimit) -> Result<Quota, &'static str> {
    if !rule.per.contains(&Per::Caller) {
        return Err("the rule does not count per caller, so no caller can have its own limit");
    }
    with_limit(rule, limit)
}

/// Returns the quota of `rule` with the values given in `limit` in place of its own.
///
/// # Errors
/// Reason why the limit does not fit the rule.
pub(crate) fn with_limit(rule: &Rule, limit: &OwnLimit) -> Result<Quota, &'static str> {
    let units = [limit.burst, limit.limit, limit.rate.map(|(units, _)| units)];
    if units.iter().flatten().any(|units| !(1..=MOST_UNITS).contains(units)) {
        return Err("`rate`, `burst` and `limit` must be from 1 to 1000000000000");
    }
    match (rule.algorithm, limit) {
        (Algorithm::TokenBucket, OwnLimit { limit: Some(_), .. }) => {
            Err("the rule is a token bucket: set `rate` and `burst`, not `limit`")
        }
        (Algorithm::TokenBucket, OwnLimit { rate, burst, .. }) => {
            let (limit, period) = rate.unwrap_or((rule.quota.limit, rule.quota.period));
            let quota = Quota { limit, period, burst: burst.unwrap_or(rule.quota.burst) };
            if fill_time_ok(&quota) {
                Ok(quota)
            } else {
                Err("the bucket would take more than a year to fill")
            }
        }
        (_, OwnLimit { rate: Some(_), .. } | OwnLimit { burst: Some(_), .. }) => {
            Err("the rule is a sliding window: set `limit`, not `rate` or `burst`")
        }
        (Algorithm::SlidingLog, OwnLimit { limit: Some(limit), .. }) if *limit > LONGEST_LOG => {
            Err("a sliding log stores every admission, so `limit` must be at most 10000")
        }
        (_, OwnLimit { limit, .. }) => {
            let limit = limit.unwrap_or(rule.quota.limit);
            Ok(Quota { limit, burst: limit, ..rule.quota })
        }
    }
}

/// Returns the caller's own quota under `rule`; `None` if it has none. A limit that does not fit
/// the rule counts as none: the rule may have changed since the limit was written.
#[must_use]
pub(crate) fn own_quota(rule: &Rule, limits: &OwnLimits) -> Option<Quota> {
    quota(rule, limits.get(&rule.name)?).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Nanos;
    use crate::limit::rule::{Match, Mode, OnLoss};
    use crate::limit::{ExpectedCost, GatewayShare, RuleSet, Served, Subject};
    use crate::refusal::Unit;
    use crate::request::Class;

    const HOUR: Duration = Duration::from_secs(3600);

    fn rule(name: &str, algorithm: Algorithm, per: Per, unit: Unit, limit: u64) -> Rule {
        Rule {
            name: name.into(),
            algorithm,
            per: vec![per],
            unit,
            quota: Quota { limit, period: HOUR, burst: limit },
            mode: Mode::Enforce,
            matches: Match::default(),
            reserve_max: false,
            on_loss: OnLoss::Share,
            max_keys: 10,
        }
    }

    fn limits(limits: &[(&str, OwnLimit)]) -> Arc<OwnLimits> {
        Arc::new(limits.iter().map(|(name, limit)| ((*name).into(), *limit)).collect())
    }

    fn subject(own: Option<&Arc<OwnLimits>>) -> Subject<'_> {
        Subject {
            caller: "key:a",
            team: None,
            ip: None,
            model: None,
            served: Served::AS_ASKED,
            route: "/",
            path: "/",
            class: Class::Interactive,
            own,
        }
    }

    /// Returns how many requests of `tokens` are admitted.
    fn admitted(rule_set: &RuleSet, own: Option<&Arc<OwnLimits>>, tokens: u64) -> u64 {
        let cost = ExpectedCost { prompt_tokens: tokens, ..ExpectedCost::default() };
        (0..).find(|_| rule_set.admit(&subject(own), &cost, Nanos::from_secs(1)).is_err()).unwrap()
    }

    const BURST_OF_8: OwnLimit = OwnLimit { rate: None, burst: Some(8), limit: None };
    const LIMIT_OF_8: OwnLimit = OwnLimit { rate: None, burst: None, limit: Some(8) };

    #[test]
    fn a_caller_has_its_own_quota_whatever_the_algorithm() {
        for (algorithm, own) in [
            (Algorithm::TokenBucket, BURST_OF_8),
            (Algorithm::SlidingWindow, LIMIT_OF_8),
            (Algorithm::SlidingLog, LIMIT_OF_8),
        ] {
            let rule_set = RuleSet::new(vec![rule("r", algorithm, Per::Caller, Unit::Requests, 3)]);
            let own = limits(&[("r", own)]);
            assert_eq!(admitted(&rule_set, None, 0), 3);
            assert_eq!(admitted(&rule_set, Some(&own), 0), 5, "it goes on from what it has used");
            assert_eq!(admitted(&rule_set, None, 0), 0);
        }
    }

    #[test]
    fn a_refusal_names_the_callers_own_quota() {
        let rule_set = RuleSet::new(vec![rule("r", Algorithm::SlidingLog, Per::Caller, Unit::Tokens, 100)]);
        let own = limits(&[("r", OwnLimit { limit: Some(300), ..OwnLimit::default() })]);
        let cost = ExpectedCost { prompt_tokens: 250, ..ExpectedCost::default() };
        let large = rule_set.admit(&subject(None), &cost, Nanos::ZERO).unwrap_err();
        assert!(large.too_large);
        let charge = rule_set.admit(&subject(Some(&own)), &cost, Nanos::ZERO).unwrap().charge;
        let quotas = rule_set.quota_statuses(&charge, Nanos::ZERO);
        assert_eq!((quotas[0].limit, quotas[0].remaining), (300, 50));
        let refusal = rule_set.admit(&subject(Some(&own)), &cost, Nanos::ZERO).unwrap_err().into_refusal();
        assert!(refusal.message.contains("300 tokens per hour"), "{}", refusal.message);
        rule_set.settle(charge, 60, Nanos::ZERO);
        let explained = rule_set.explain(&subject(Some(&own)), &cost, Nanos::ZERO);
        assert_eq!((explained[0].rule.quota.limit, explained[0].seen.unwrap().level.remaining), (300, 240));
    }

    #[test]
    fn a_bucket_is_settled_by_the_rate_that_it_was_charged_by() {
        let rule_set = RuleSet::new(vec![rule("r", Algorithm::TokenBucket, Per::Caller, Unit::Tokens, 10)]);
        let own = limits(&[("r", OwnLimit { rate: Some((1000, HOUR)), burst: Some(1000), limit: None })]);
        let cost = ExpectedCost { prompt_tokens: 600, ..ExpectedCost::default() };
        let charge = rule_set.admit(&subject(Some(&own)), &cost, Nanos::ZERO).unwrap().charge;
        rule_set.refund(charge, Nanos::ZERO);
        assert_eq!(admitted(&rule_set, None, 1), 10, "nothing is left of it");
    }

    #[test]
    fn a_share_is_one_of_the_callers_own_quota() {
        let whole = RuleSet::new(vec![rule("r", Algorithm::SlidingWindow, Per::Caller, Unit::Requests, 3)]);
        let own = limits(&[("r", OwnLimit { limit: Some(40), ..OwnLimit::default() })]);
        let mut size = GatewayShare { gateways: 4, fills_since: None };
        assert_eq!(admitted(&whole.share(size, None), Some(&own), 0), 10);
        size.fills_since = Some(Nanos::from_secs(1));
        assert_eq!(admitted(&whole.share(size, None), Some(&own), 0), 1, "what is here now begins to fill");
    }

    #[test]
    fn a_rate_that_is_not_one_is_told_what_would_be() {
        for rate in ["0.5/s", "1.5/s", "0/s", "10000000000/s", "10"] {
            let written = WrittenLimit { rate: Some(rate.to_owned()), ..WrittenLimit::default() };
            let fault = written.read().unwrap_err();
            for words in ["a whole number", "`30/m`", "at least 1", "1000000000 per second", rate] {
                assert!(fault.contains(words), "{fault}");
            }
        }
        assert_eq!(read_rate("1000000000/s"), Some((1_000_000_000, Duration::from_secs(1))));
        assert_eq!(read_rate("1000000001/s"), None);
    }

    #[test]
    fn what_does_not_fit_the_rule_is_none() {
        let bucket = rule("r", Algorithm::TokenBucket, Per::Caller, Unit::Requests, 3);
        let log = rule("r", Algorithm::SlidingLog, Per::Caller, Unit::Requests, 3);
        let all = rule("r", Algorithm::TokenBucket, Per::All, Unit::Requests, 3);
        let most = |number| OwnLimit { burst: Some(number), ..OwnLimit::default() };
        for (rule, own, words) in [
            (&bucket, LIMIT_OF_8, "set `rate` and `burst`"),
            (&log, BURST_OF_8, "set `limit`"),
            (&log, OwnLimit { limit: Some(10_001), ..OwnLimit::default() }, "at most 10000"),
            (&all, BURST_OF_8, "does not count per caller"),
            (&bucket, most(0), "from 1 to"),
            (&bucket, most(MOST_UNITS), "more than a year"),
        ] {
            assert!(quota(rule, &own).unwrap_err().contains(words), "{words}");
            let rule_set = RuleSet::new(vec![rule.clone()]);
            assert_eq!(admitted(&rule_set, Some(&limits(&[("r", own), ("s", BURST_OF_8)])), 0), 3);
        }
    }
}
