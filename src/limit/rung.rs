//! One rule at work: its data, its matcher, its counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::counter::{Counter, counter};
use super::keyed::Place;
use super::matcher::Matcher;
use super::meter::{By, Shortage};
use super::own::own_quota;
use super::rule::{Algorithm, Match, Mode, Per, Quota, Rule};
use super::subject::{Cost, Subject};
use crate::clock::{Nanos, saturating_nanos};
use crate::refusal::{Standing, Unit};
use crate::request::OwnLimits;

/// Names counts across ladders, so that a charge can never be settled on the counts of another rule.
static NEXT_COUNTS: AtomicU32 = AtomicU32::new(0);

/// The part of a quota that one of `dams` gateways gives by itself: less than its share, because a gateway more may be
/// at work than was last heard of.
const SHARE_PERCENT: u64 = 83;

/// The size of one gateway's share of the quotas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The number of gateways that share.
    pub dams: u32,
    /// When the share began to fill, with one unit in it; `None` if it was whole from the first.
    pub fills_since: Option<Nanos>,
}

/// The part of a rule that one of `dams` gateways counts while it cannot ask what the others do.
fn share(whole: &Rule, dams: u32) -> Rule {
    let dams = u64::from(dams.max(1));
    let Quota { limit, period, .. } = whole.quota;
    // Exact, and in range: a share of one per day among many becomes a longer period, not none.
    let (limit, period) = (limit.saturating_mul(SHARE_PERCENT), u128::from(saturating_nanos(period)));
    let period = u64::try_from(period * 100 * u128::from(dams)).unwrap_or(u64::MAX);
    Rule {
        algorithm: Algorithm::TokenBucket,
        quota: Quota { limit, period: Duration::from_nanos(period), burst: (whole.capacity() / dams).max(1) },
        ..whole.clone()
    }
}

/// What one caller has of a rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnQuota {
    pub(crate) quota: Quota,
    /// The largest prompt that may ever pass.
    largest: u64,
}

/// One rule at work.
#[derive(Debug)]
pub(crate) struct Rung {
    pub(crate) index: usize,
    pub(crate) rule: Arc<Rule>,
    /// Of a share: the rule of which it is one, and how large it is.
    whole: Option<(Arc<Rule>, Share)>,
    /// `None` sees everything: most rules, without a look at each field.
    matcher: Option<Matcher>,
    pub(crate) counts: u32,
    pub(crate) counter: Arc<dyn Counter>,
    /// Whether it sees callers without a team.
    all_teams: bool,
    /// The largest prompt that may ever pass.
    largest: u64,
}

impl Rung {
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
        Self { index, matcher, all_teams, largest, whole: None, rule, counts, counter }
    }

    /// The same for a share of the rule's quota: what the whole quota could hold is not too large for ever. A share of
    /// another size takes the same time to fill, so that counts go on as a part of that time.
    pub(crate) fn sharing(index: usize, whole: &Arc<Rule>, size: Share, kept: Option<&Self>) -> Self {
        let largest = whole.capacity();
        let share = Self::new(index, Arc::new(share(whole, size.dams)), kept);
        Self { largest, whole: Some((Arc::clone(whole), size)), ..share }
    }

    /// The quota to count by, if it is another than the one that the counts were made for: those of a share may have been
    /// made for one of another size.
    #[inline]
    pub(crate) fn by(&self, own: Option<OwnQuota>) -> Option<By> {
        match &self.whole {
            None => own.map(|own| own.quota.into()),
            Some((_, share)) => {
                let quota = own.map_or(self.rule.quota, |own| own.quota);
                Some(By { quota, fills_since: share.fills_since })
            }
        }
    }

    /// The quota of a caller that has another than the rule's.
    #[inline]
    pub(crate) fn own(&self, limits: Option<&Arc<OwnLimits>>) -> Option<OwnQuota> {
        self.own_of(limits?)
    }

    #[cold]
    fn own_of(&self, limits: &OwnLimits) -> Option<OwnQuota> {
        let (rule, size) = self.whole.as_ref().map_or((&self.rule, None), |(rule, size)| (rule, Some(*size)));
        let quota = own_quota(rule, limits)?;
        let largest = rule.algorithm.capacity(&quota);
        Some(match size {
            None => OwnQuota { quota, largest },
            Some(size) => OwnQuota { quota: share(&rule.with_quota(quota), size.dams).quota, largest },
        })
    }

    /// The rule as it is for a caller with that quota.
    pub(crate) fn rule_by(&self, own: Option<OwnQuota>) -> Arc<Rule> {
        match own {
            None => Arc::clone(&self.rule),
            Some(own) => Arc::new(self.rule.with_quota(own.quota)),
        }
    }

    #[inline]
    pub(crate) fn sees(&self, subject: &Subject<'_>) -> bool {
        (self.all_teams || subject.team.is_some())
            && self.matcher.as_ref().is_none_or(|matcher| matcher.matches(subject))
    }

    /// Whether counts made under this rule go on under `rule`, of which this one may be a share.
    pub(crate) fn keeps_counts_for(&self, rule: &Rule) -> bool {
        let mine = self.whole.as_ref().map_or(&*self.rule, |(whole, _)| whole);
        mine.name == rule.name
            && (mine.algorithm, mine.unit, mine.quota) == (rule.algorithm, rule.unit, rule.quota)
            && mine.per == rule.per
    }

    /// The place of this rule on the ladder: the share of the traffic that meets in one key, roughly.
    pub(crate) fn width(&self) -> (u8, usize) {
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

    /// What to charge for a request.
    #[inline]
    pub(crate) fn amount(&self, cost: &Cost, own: Option<OwnQuota>) -> Result<u64, Shortage> {
        if self.rule.unit == Unit::Requests {
            return Ok(1);
        }
        let (largest, capacity) = match own {
            None => (self.largest, self.rule.capacity()),
            Some(own) => (own.largest, self.rule.algorithm.capacity(&own.quota)),
        };
        if cost.prompt_tokens > largest {
            return Err(Shortage::Never);
        }
        let output = match cost.max_output {
            Some(bound) if self.rule.reserve_max => bound,
            bound => cost.expected_output.min(bound.unwrap_or(u64::MAX)),
        };
        // What it then takes beyond the capacity becomes debt: refusing it now would refuse it for ever.
        Ok(cost.prompt_tokens.saturating_add(output).min(capacity))
    }

    pub(crate) fn standing(&self, place: Option<Place>, own: Option<OwnQuota>, now: Nanos) -> Standing {
        let level = self.counter.level(place, self.by(own), now);
        match own {
            None => self.rule.standing(level),
            Some(own) => self.rule.with_quota(own.quota).standing(level),
        }
    }
}
