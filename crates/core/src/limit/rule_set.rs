//! The rule set: evaluates all rules for a request.
//!
//! A request is charged to the rules that apply to it, from narrow keys to wide ones, so that a
//! flood of one caller stops at the caller's own rule and takes nothing from shared quotas. The
//! charge is all or nothing: the first refusal refunds the narrower rules. Between charge and
//! refund (some hundred nanoseconds, unless the thread is preempted) another request with the same
//! key may see too small a quota. To check all rules before charging any would cost a second
//! look-up per admitted request, and could still race.
//!
//! A refusal costs more than an admission: it also asks the remaining rules, so that its retry time
//! holds for all of them.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::active_rule::{ActiveRule, GatewayShare};
use super::charge::{Admission, Charge, ChargePart, ChargedCell, Decision, Decisions};
use super::denial::Denial;
use super::explained::{Explained, RuleView};
use super::keyed::CellPlace;
use super::meter::{CellMark, QuotaOverride, Shortage};
use super::retry_queue::RetryQueues;
use super::rule::{OnLoss, Per, Rule};
use super::subject::{ExpectedCost, KeyHasher, KeyHashes, Subject};
use crate::clock::Nanos;
use crate::refusal::{QuotaStatus, Unit};

/// All rules, shared by every request.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Arc<Rule>>,
    /// Narrow keys first.
    active_rules: Vec<ActiveRule>,
    hasher: KeyHasher,
    lines: Arc<RetryQueues>,
}

/// Units that a request needs from one rule.
#[derive(Clone, Debug)]
pub struct RuleCost {
    /// The rule's index in [`RuleSet::rules`].
    pub index: usize,
    /// The rule, with the caller's own quota if it has one.
    pub rule: Arc<Rule>,
    /// Units to charge; `None` if the rule can never admit this many at once.
    pub amount: Option<u64>,
}

struct Evaluation<'a> {
    hasher: &'a KeyHasher,
    subject: &'a Subject<'a>,
    cost: &'a ExpectedCost,
    now: Nanos,
    key_hashes: KeyHashes,
}

impl Evaluation<'_> {
    #[inline]
    fn key(&mut self, active_rule: &ActiveRule) -> u64 {
        self.hasher.key(&active_rule.rule.per, self.subject, &mut self.key_hashes)
    }

    #[inline]
    fn charge(&mut self, active_rule: &ActiveRule) -> Result<ChargePart, Shortage> {
        let own = active_rule.own_quota(self.subject.own);
        let amount = active_rule.amount(self.cost, own)?;
        let key = self.key(active_rule);
        let hold = match amount {
            // A request of no tokens passes even in debt; tokens used anyway are settled here.
            0 => ChargedCell { place: Some(CellPlace::Own(key)), mark: CellMark::default() },
            _ => active_rule.counter.charge(key, amount, active_rule.quota_override(own), self.now)?,
        };
        Ok(ChargePart { counts: active_rule.counts, amount, cell: hold })
    }

    fn shortage(&mut self, active_rule: &ActiveRule) -> Option<Shortage> {
        let (key, own) = (self.key(active_rule), active_rule.own_quota(self.subject.own));
        match active_rule.amount(self.cost, own) {
            Ok(0) => None,
            Ok(amount) => {
                active_rule.counter.shortage(key, amount, active_rule.quota_override(own), self.now)
            }
            Err(shortage) => Some(shortage),
        }
    }
}

impl RuleSet {
    /// Creates a rule set with all quotas full.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self::build(rules, &[], KeyHasher::random(), Arc::default())
    }

    /// Creates the rule set for a reload. A rule with unchanged name, algorithm, keys, unit and
    /// quota shares its counts with `self`; the others start full.
    #[must_use]
    pub fn rebuilt(&self, rules: Vec<Rule>) -> Self {
        Self::build(rules, &self.active_rules, self.hasher.clone(), Arc::clone(&self.lines))
    }

    /// Creates the rule set for use while Redis is lost: this gateway's share of each
    /// [`OnLoss::Share`] rule. Rules keep their indexes; counts of an older share, `before`, of any
    /// size go on.
    #[must_use]
    pub fn share(&self, size: GatewayShare, before: Option<&Self>) -> Self {
        let old = before.map_or(&[][..], |before| &before.active_rules);
        let shared = self.active_rules.iter().filter(|active_rule| active_rule.rule.on_loss == OnLoss::Share);
        let active_rule = |active_rule: &ActiveRule| {
            let kept = old.iter().find(|old| old.keeps_counts_for(&active_rule.rule));
            ActiveRule::new_share(active_rule.index, &active_rule.rule, size, kept)
        };
        let hasher = before.map_or_else(|| self.hasher.clone(), |before| before.hasher.clone());
        let (rules, lines) = (self.rules.clone(), Arc::clone(&before.unwrap_or(self).lines));
        Self { rules, active_rules: shared.map(active_rule).collect(), hasher, lines }
    }

    fn build(rules: Vec<Rule>, old: &[ActiveRule], hasher: KeyHasher, lines: Arc<RetryQueues>) -> Self {
        let normal = |mut rule: Rule| {
            rule.per.sort_unstable();
            rule.per.dedup();
            if rule.per.is_empty() || rule.per.contains(&Per::All) {
                rule.per = vec![Per::All];
            }
            Arc::new(rule)
        };
        let rules: Vec<_> = rules.into_iter().map(normal).collect();
        let active_rule = |(index, rule): (usize, &Arc<Rule>)| {
            let kept = old.iter().find(|active_rule| active_rule.keeps_counts_for(rule));
            ActiveRule::new(index, Arc::clone(rule), kept)
        };
        let mut active_rules: Vec<_> = rules.iter().enumerate().map(active_rule).collect();
        active_rules.sort_by_key(ActiveRule::sort_key);
        Self { rules, active_rules, hasher, lines }
    }

    /// Returns the rules in the configured order.
    #[must_use]
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Charges every rule that applies to the request, or none.
    ///
    /// Token rules charge the prompt and the expected output, at most the quota's burst. A rule in
    /// observe mode is charged only if it would admit the request.
    ///
    /// # Errors
    /// The refusal of the enforced rule with the longest wait.
    #[inline]
    #[expect(
        clippy::result_large_err,
        reason = "an admission is as large: a box would cost and save nothing"
    )]
    pub fn admit(&self, subject: &Subject<'_>, cost: &ExpectedCost, now: Nanos) -> Result<Admission, Denial> {
        let mut evaluation =
            Evaluation { hasher: &self.hasher, subject, cost, now, key_hashes: KeyHashes::default() };
        let mut admission = Admission::default();
        admission.charge.own = subject.own.cloned();
        match self.charge_all(&mut evaluation, &mut admission) {
            Ok(()) => Ok(admission),
            Err((position, shortage)) => {
                self.give_back(&admission.charge, now);
                let asked =
                    |active_rule: &ActiveRule| active_rule.enforced() && active_rule.applies_to(subject);
                Err(self.deny(position, shortage, evaluation, admission.decisions, asked))
            }
        }
    }

    /// Charges rule by rule, up to the first refusal. Fills `admission` in place, in the caller's
    /// frame once `admit` is inlined: moving its 250 bytes would cost as much as hashing a key.
    fn charge_all(
        &self,
        evaluation: &mut Evaluation<'_>,
        admission: &mut Admission,
    ) -> Result<(), (usize, Shortage)> {
        for (position, active_rule) in self.active_rules.iter().enumerate() {
            if !active_rule.applies_to(evaluation.subject) {
                continue;
            }
            admission.matched = true;
            let decision = match evaluation.charge(active_rule) {
                Ok(part) => {
                    admission.charge.parts.push(part);
                    Decision::Allowed
                }
                Err(_) if !active_rule.enforced() => Decision::WouldRefuse,
                Err(shortage) => return Err((position, shortage)),
            };
            admission.decisions.push((active_rule.index, decision));
        }
        Ok(())
    }

    /// Returns the refusal that a request gets now whatever its body says, if any. Charges nothing.
    #[must_use]
    pub fn refusal_before_body(&self, subject: &Subject<'_>, now: Nanos) -> Option<Denial> {
        let cost = ExpectedCost::default();
        let mut evaluation =
            Evaluation { hasher: &self.hasher, subject, cost: &cost, now, key_hashes: KeyHashes::default() };
        let asked = |active_rule: &ActiveRule| {
            active_rule.enforced() && !active_rule.rule.needs_body() && active_rule.applies_to(subject)
        };
        let mut active_rules =
            self.active_rules.iter().enumerate().filter(|(_, active_rule)| asked(active_rule));
        let (position, shortage) = active_rules
            .find_map(|(position, active_rule)| Some((position, evaluation.shortage(active_rule)?)))?;
        let denial = self.deny(position, shortage, evaluation, Decisions::new(), asked);
        (!denial.too_large).then_some(denial)
    }

    /// Returns the request cost per rule that applies, narrow keys first, for remote counts.
    pub fn rule_costs<'a>(
        &'a self,
        subject: &'a Subject<'a>,
        cost: &'a ExpectedCost,
    ) -> impl Iterator<Item = RuleCost> {
        let seen = self.active_rules.iter().filter(|active_rule| active_rule.applies_to(subject));
        seen.map(|active_rule| {
            let own = active_rule.own_quota(subject.own);
            RuleCost {
                index: active_rule.index,
                rule: active_rule.rule_by(own),
                amount: active_rule.amount(cost, own).ok(),
            }
        })
    }

    /// Returns the status of every rule for a request, in the configured order. Charges nothing.
    #[must_use]
    pub fn explain(&self, subject: &Subject<'_>, cost: &ExpectedCost, now: Nanos) -> Vec<Explained> {
        let mut evaluation =
            Evaluation { hasher: &self.hasher, subject, cost, now, key_hashes: KeyHashes::default() };
        let mut rules: Vec<_> = self
            .active_rules
            .iter()
            .map(|active_rule| {
                let own = active_rule.own_quota(subject.own);
                let (rule, index) = (active_rule.rule_by(own), active_rule.index);
                if !active_rule.applies_to(subject) {
                    return Explained { index, rule, seen: None };
                }
                let place = CellPlace::Own(evaluation.key(active_rule));
                let level = active_rule.counter.level(Some(place), active_rule.quota_override(own), now);
                let (amount, shortage) =
                    (active_rule.amount(cost, own).ok(), evaluation.shortage(active_rule));
                Explained { index, rule, seen: Some(RuleView { amount, level, shortage }) }
            })
            .collect();
        rules.sort_by_key(|explained| explained.index);
        rules
    }

    #[cold]
    fn deny(
        &self,
        position: usize,
        shortage: Shortage,
        mut evaluation: Evaluation<'_>,
        mut decisions: Decisions,
        asked: impl Fn(&ActiveRule) -> bool,
    ) -> Denial {
        let mut refusing = (&self.active_rules[position], shortage);
        let mut quotas = Vec::new();
        for (other, active_rule) in self.active_rules.iter().enumerate() {
            if !asked(active_rule) {
                continue;
            }
            let own = active_rule.own_quota(evaluation.subject.own);
            quotas.push(active_rule.quota_status(
                Some(CellPlace::Own(evaluation.key(active_rule))),
                own,
                evaluation.now,
            ));
            // The narrower rules admitted the request just now.
            let shortage = match other.cmp(&position) {
                Less => None,
                Equal => Some(shortage),
                Greater => evaluation.shortage(active_rule),
            };
            if let Some(shortage) = shortage {
                decisions.push((active_rule.index, Decision::Refused));
                if shortage > refusing.1 {
                    refusing = (active_rule, shortage);
                }
            }
        }
        let (retry_after, too_large) = match refusing.1 {
            Shortage::Wait(wait) => (Some(wait), false),
            Shortage::Never => (None, true),
        };
        let own = refusing.0.own_quota(evaluation.subject.own);
        let line = (refusing.0.counts, evaluation.key(refusing.0));
        Denial {
            line: Some(line),
            amount: refusing.0.amount(evaluation.cost, own).unwrap_or_default(),
            rule: refusing.0.index,
            retry_after,
            too_large,
            quotas,
            decisions,
            refused_by: refusing.0.rule_by(own),
            prompt_tokens: evaluation.cost.prompt_tokens,
        }
    }

    /// Adds a refusal to its retry queue: its retry time follows those of earlier refusals.
    #[must_use]
    pub fn join_retry_queue(&self, mut denial: Denial, now: Nanos) -> Denial {
        let found = denial.line.take().and_then(|line| {
            let active_rule = self.active_rules.iter().find(|active_rule| active_rule.counts == line.0)?;
            Some((line, active_rule, denial.turn(1)?))
        });
        if let Some((line, active_rule, turn)) = found {
            let mut by = active_rule.quota_override(None);
            if denial.refused_by.quota != active_rule.rule.quota {
                by = Some(QuotaOverride {
                    quota: denial.refused_by.quota,
                    fills_since: by.and_then(|by| by.fills_since),
                });
            }
            let wait = |units| match active_rule.counter.shortage(line.1, units, by, now) {
                Some(Shortage::Wait(wait)) => wait,
                Some(Shortage::Never) | None => Duration::ZERO,
            };
            denial.retry_after = Some(self.lines.join(line, turn, fastrand::f64(), now, wait));
        }
        denial
    }

    /// Corrects a charge to `actual_tokens` in every token rule. Requests stay charged.
    pub fn settle(&self, charge: Charge, actual_tokens: u64, now: Nanos) {
        for (part, active_rule) in self.parts(&charge) {
            if active_rule.rule.unit == Unit::Tokens && part.amount != actual_tokens {
                let by = active_rule.quota_override(active_rule.own_quota(charge.own.as_ref()));
                active_rule.counter.correct(part.cell, part.amount, actual_tokens, by, now);
            }
        }
    }

    /// Refunds a charge in every rule: the request was not served.
    pub fn refund(&self, charge: Charge, now: Nanos) {
        self.give_back(&charge, now);
    }

    fn give_back(&self, charge: &Charge, now: Nanos) {
        for (part, active_rule) in self.parts(charge) {
            let by = active_rule.quota_override(active_rule.own_quota(charge.own.as_ref()));
            active_rule.counter.correct(part.cell, part.amount, 0, by, now);
        }
    }

    /// Returns the quota status of the enforced rules that admitted a request, narrow keys first.
    #[must_use]
    pub fn quota_statuses(&self, charge: &Charge, now: Nanos) -> SmallVec<[QuotaStatus; 4]> {
        let enforced = self.parts(charge).filter(|(_, active_rule)| active_rule.enforced());
        enforced
            .map(|(part, active_rule)| {
                active_rule.quota_status(part.cell.place, active_rule.own_quota(charge.own.as_ref()), now)
            })
            .collect()
    }

    fn parts<'a>(&'a self, charge: &'a Charge) -> impl Iterator<Item = (&'a ChargePart, &'a ActiveRule)> {
        charge.parts.iter().filter_map(|part| {
            Some((part, self.active_rules.iter().find(|active_rule| active_rule.counts == part.counts)?))
        })
    }

    /// Returns the index and the number of remembered keys of each rule.
    pub fn keys(&self) -> impl Iterator<Item = (usize, usize)> {
        self.active_rules.iter().map(|active_rule| (active_rule.index, active_rule.counter.keys()))
    }

    /// Removes idle keys from a small part of each rule's table. Memory is bounded without it;
    /// called about once a second, it frees memory within minutes after a flood of keys.
    pub fn sweep(&self, now: Nanos) {
        for active_rule in &self.active_rules {
            active_rule.counter.sweep(now);
        }
    }
}
