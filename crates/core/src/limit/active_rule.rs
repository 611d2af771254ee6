//! A rule with its matcher and its counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::counter::{RuleCounter, counter};
use super::keyed::CellPlace;
use super::matcher::Matcher;
use super::meter::{QuotaOverride, Shortage};
use super::own_limits::own_quota;
use super::rule::{Algorithm, Match, Mode, Per, Quota, Rule};
use super::subject::{ExpectedCost, Subject};
use crate::clock::{Nanos, saturating_nanos};
use crate::refusal::{QuotaStatus, Unit};
use crate::request::OwnLimits;

/// Next id of a rule's counts, unique across rule sets, so that no charge is settled on another rule.
static NEXT_COUNTS: AtomicU32 = AtomicU32::new(0);

/// Percentage of its equal share that a gateway admits on its own: below 100, because one gateway
/// more may be running than last known.
const SHARE_PERCENT: u64 = 83;

/// Size of one gateway's share of the quotas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayShare {
    /// Number of gateways that share the quotas.
    pub gateways: u32,
    /// Time at which the share began to fill, with one unit in it; `None` if it started full.
    pub fills_since: Option<Nanos>,
}

/// Returns the part of a rule that one of `gateways` gateways counts by itself while Redis is lost.
fn share(whole: &Rule, gateways: u32) -> Rule {
    let gateways = u64::from(gateways.max(1));
    let Quota { limit, period, .. } = whole.quota;
    // Lengthens the period instead of dividing the limit: a share of 1 per day would become 0.
    let (limit, period) = (limit.saturating_mul(SHARE_PERCENT), u128::from(saturating_nanos(period)));
    let period = period * 100 * u128::from(gateways);
    // Long windows of many gateways are beyond what counters measure: both are scaled down then.
    let scale = u64::try_from(period.div_ceil(u128::from(u64::MAX))).unwrap_or(u64::MAX).max(1);
    let limit = (limit / scale).max(1);
    let period = u64::try_from(period / u128::from(scale)).unwrap_or(u64::MAX);
    Rule {
        algorithm: Algorithm::TokenBucket,
        quota: Quota {
            limit,
            period: Duration::from_nanos(period),
            burst: (whole.capacity() / gateways).max(1),
        },
        ..whole.clone()
    }
}

/// A caller's own quota under a rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnQuota {
    pub(crate) quota: Quota,
    /// Largest prompt that can ever pass, in tokens.
    largest_prompt: u64,
}

#[derive(Debug)]
pub(crate) struct ActiveRule {
    pub(crate) index: usize,
    pub(crate) rule: Arc<Rule>,
    /// For a share: the whole rule, and the size of the share.
    whole_rule: Option<(Arc<Rule>, GatewayShare)>,
    /// `None` matches everything, as most rules do, without a check of each field.
    matcher: Option<Matcher>,
    pub(crate) counts: u32,
    pub(crate) counter: Arc<dyn RuleCounter>,
    /// `true` if the rule also applies to callers without a team.
    all_teams: bool,
    /// Largest prompt that can ever pass, in tokens.
    largest: u64,
}

impl ActiveRule {
    pub(crate) fn new(index: usize, rule: Arc<Rule>, kept: Option<&Self>) -> Self {
        let (counts, counter) = match kept {
            Some(kept) => {
                kept.counter.set_max_keys(rule.max_keys);
                (kept.counts, Arc::clone(&kept.counter))
            }
            None => (NEXT_COUNTS.fetch_add(1, Ordering::Relaxed), counter(&rule)),
        };
        let matcher = (rule.matches != Match::default()).then(|| Matcher::new(&rule.matches));
        let (all_teams, largest) = (!rule.per.contains(&Per::Team), rule.capacity());
        Self { index, matcher, all_teams, largest, whole_rule: None, rule, counts, counter }
    }

    /// Creates a share of the rule's quota. A request is too large only if it exceeds the whole quota,
    /// which applies again once Redis answers. The counts of a bucket are times, and shares of all sizes take the same
    /// time to fill, so counts stay valid when the size changes.
    pub(crate) fn new_share(
        index: usize,
        whole: &Arc<Rule>,
        size: GatewayShare,
        kept: Option<&Self>,
    ) -> Self {
        let largest = whole.capacity();
        let share = Self::new(index, Arc::new(share(whole, size.gateways)), kept);
        Self { largest, whole_rule: Some((Arc::clone(whole), size)), ..share }
    }

    /// Returns the quota to count with if it may differ from the one that the counts were created
    /// with: a caller's own, or a share's, whose counts may come from a share of another size.
    #[inline]
    pub(crate) fn quota_override(&self, own: Option<OwnQuota>) -> Option<QuotaOverride> {
        match &self.whole_rule {
            None => own.map(|own| own.quota.into()),
            Some((_, share)) => {
                let quota = own.map_or(self.rule.quota, |own| own.quota);
                Some(QuotaOverride { quota, fills_since: share.fills_since })
            }
        }
    }

    /// Returns the caller's own quota under this rule, if it has one.
    #[inline]
    pub(crate) fn own_quota(&self, limits: Option<&Arc<OwnLimits>>) -> Option<OwnQuota> {
        self.own_of(limits?)
    }

    #[cold]
    fn own_of(&self, limits: &OwnLimits) -> Option<OwnQuota> {
        let (rule, size) =
            self.whole_rule.as_ref().map_or((&self.rule, None), |(rule, size)| (rule, Some(*size)));
        let quota = own_quota(rule, limits)?;
        let largest = rule.algorithm.capacity(&quota);
        Some(match size {
            None => OwnQuota { quota, largest_prompt: largest },
            Some(size) => OwnQuota {
                quota: share(&rule.with_quota(quota), size.gateways).quota,
                largest_prompt: largest,
            },
        })
    }

    /// Returns the rule with the caller's own quota, if it has one.
    pub(crate) fn rule_by(&self, own: Option<OwnQuota>) -> Arc<Rule> {
        match own {
            None => Arc::clone(&self.rule),
            Some(own) => Arc::new(self.rule.with_quota(own.quota)),
        }
    }

    #[inline]
    pub(crate) fn applies_to(&self, subject: &Subject<'_>) -> bool {
        (self.all_teams || subject.team.is_some())
            && self.matcher.as_ref().is_none_or(|matcher| matcher.matches(subject))
    }

    /// Returns `true` if the counts of this rule, or of this share of it, stay valid under `rule`.
    pub(crate) fn keeps_counts_for(&self, rule: &Rule) -> bool {
        let mine = self.whole_rule.as_ref().map_or(&*self.rule, |(whole, _)| whole);
        mine.name == rule.name
            && (mine.algorithm, mine.unit, mine.quota) == (rule.algorithm, rule.unit, rule.quota)
            && mine.per == rule.per
    }

    /// Returns the sort key of this rule: roughly the share of the traffic that falls on one key.
    pub(crate) fn sort_key(&self) -> (u8, usize) {
        let per = &self.rule.per;
        let widest = match () {
            () if per.contains(&Per::All) => 2,
            () if per.contains(&Per::Caller) || per.contains(&Per::Ip) => 0,
            () => 1,
        };
        (widest, usize::MAX - per.len())
    }

    #[inline]
    pub(crate) fn enforced(&self) -> bool {
        self.rule.mode == Mode::Enforce
    }

    /// Returns the units to charge for a request.
    #[inline]
    pub(crate) fn amount(&self, cost: &ExpectedCost, own: Option<OwnQuota>) -> Result<u64, Shortage> {
        if self.rule.unit == Unit::Requests {
            return Ok(1);
        }
        let (largest, capacity) = match own {
            None => (self.largest, self.rule.capacity()),
            Some(own) => (own.largest_prompt, self.rule.algorithm.capacity(&own.quota)),
        };
        if cost.prompt_tokens > largest {
            return Err(Shortage::Never);
        }
        let output = match cost.max_output {
            Some(bound) if self.rule.reserve_max => bound,
            bound => cost.expected_output.min(bound.unwrap_or(u64::MAX)),
        };
        // A larger charge could never be admitted. Tokens used beyond it become debt.
        Ok(cost.prompt_tokens.saturating_add(output).min(capacity))
    }

    pub(crate) fn quota_status(
        &self,
        place: Option<CellPlace>,
        own: Option<OwnQuota>,
        now: Nanos,
    ) -> QuotaStatus {
        let level = self.counter.level(place, self.quota_override(own), now);
        match own {
            None => level.quota_status(&self.rule),
            Some(own) => level.quota_status(&self.rule.with_quota(own.quota)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::rule::{Match, OnLoss};

    #[test]
    fn the_shares_of_many_gateways_are_no_more_than_the_quota_whatever_the_window() {
        const DAY: Duration = Duration::from_secs(86_400);
        for (limit, days, gateways) in
            [(1000, 1, 3), (1_000_000, 30, 100), (1_000_000, 366, 6), (100, 366, 600)]
        {
            let quota = Quota { limit, period: DAY * days, burst: limit };
            let whole = Rule {
                name: "r".into(),
                algorithm: Algorithm::TokenBucket,
                per: vec![Per::All],
                unit: Unit::Requests,
                quota,
                mode: Mode::Enforce,
                matches: Match::default(),
                reserve_max: false,
                on_loss: OnLoss::Share,
                max_keys: 1,
            };
            let rate = |quota: &Quota| quota.limit as f64 / quota.period.as_secs_f64();
            let shares = f64::from(gateways) * rate(&share(&whole, gateways).quota);
            let part = shares / rate(&whole.quota);
            assert!((0.8..=0.84).contains(&part), "{limit} in {days} days, {gateways} gateways: {part}");
        }
    }
}
