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

use super::charge::{Admission, Charge, ChargePart, ChargedCell, Decision, Decisions};
use super::denial::Denial;
use super::explained::{Explained, Seen};
use super::keyed::Place;
use super::line::Lines;
use super::meter::{By, Mark, Shortage};
use super::rule::{OnLoss, Per, Rule};
use super::rung::{Rung, Share};
use super::subject::{Cost, Hashed, Seal, Subject};
use crate::clock::Nanos;
use crate::refusal::{Standing, Unit};

/// All rules, shared by every request.
#[derive(Debug)]
pub struct Ladder {
    rules: Vec<Arc<Rule>>,
    /// Narrow keys first.
    rungs: Vec<Rung>,
    seal: Seal,
    /// Retry queues of refused requests.
    lines: Arc<Lines>,
}

/// Units that a request needs from one rule.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The rule's index in [`Ladder::rules`].
    pub index: usize,
    /// The rule, with the caller's own quota if it has one.
    pub rule: Arc<Rule>,
    /// Units to charge; `None` if the rule can never admit this many at once.
    pub amount: Option<u64>,
}

/// Evaluation of one request.
struct Climber<'a> {
    seal: &'a Seal,
    subject: &'a Subject<'a>,
    cost: &'a Cost,
    now: Nanos,
    hashed: Hashed,
}

impl Climber<'_> {
    #[inline]
    fn key(&mut self, rung: &Rung) -> u64 {
        self.seal.key(&rung.rule.per, self.subject, &mut self.hashed)
    }

    #[inline]
    fn charge(&mut self, rung: &Rung) -> Result<ChargePart, Shortage> {
        let own = rung.own(self.subject.own);
        let amount = rung.amount(self.cost, own)?;
        let key = self.key(rung);
        let hold = match amount {
            // A request of no tokens passes even in debt; tokens used anyway are settled here.
            0 => ChargedCell { place: Some(Place::Own(key)), mark: Mark::default() },
            _ => rung.counter.charge(key, amount, rung.by(own), self.now)?,
        };
        Ok(ChargePart { counts: rung.counts, amount, hold })
    }

    fn shortage(&mut self, rung: &Rung) -> Option<Shortage> {
        let (key, own) = (self.key(rung), rung.own(self.subject.own));
        match rung.amount(self.cost, own) {
            Ok(0) => None,
            Ok(amount) => rung.counter.shortage(key, amount, rung.by(own), self.now),
            Err(shortage) => Some(shortage),
        }
    }
}

impl Ladder {
    /// Creates a rule set with all quotas full.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self::build(rules, &[], Seal::random(), Arc::default())
    }

    /// Creates the rule set for a reload. A rule with unchanged name, algorithm, keys, unit and
    /// quota shares its counts with `self`; the others start full.
    #[must_use]
    pub fn rebuilt(&self, rules: Vec<Rule>) -> Self {
        Self::build(rules, &self.rungs, self.seal.clone(), Arc::clone(&self.lines))
    }

    /// Creates the rule set for use while Redis is lost: this gateway's share of each
    /// [`OnLoss::Share`] rule. Rules keep their indexes; counts of an older share, `before`, of any
    /// size go on.
    #[must_use]
    pub fn share(&self, size: Share, before: Option<&Self>) -> Self {
        let old = before.map_or(&[][..], |before| &before.rungs);
        let shared = self.rungs.iter().filter(|rung| rung.rule.on_loss == OnLoss::Share);
        let rung = |rung: &Rung| {
            let kept = old.iter().find(|old| old.keeps_counts_for(&rung.rule));
            Rung::sharing(rung.index, &rung.rule, size, kept)
        };
        let seal = before.map_or_else(|| self.seal.clone(), |before| before.seal.clone());
        let (rules, lines) = (self.rules.clone(), Arc::clone(&before.unwrap_or(self).lines));
        Self { rules, rungs: shared.map(rung).collect(), seal, lines }
    }

    fn build(rules: Vec<Rule>, old: &[Rung], seal: Seal, lines: Arc<Lines>) -> Self {
        let normal = |mut rule: Rule| {
            rule.per.sort_unstable();
            rule.per.dedup();
            if rule.per.is_empty() || rule.per.contains(&Per::All) {
                rule.per = vec![Per::All];
            }
            Arc::new(rule)
        };
        let rules: Vec<_> = rules.into_iter().map(normal).collect();
        let rung = |(index, rule): (usize, &Arc<Rule>)| {
            let kept = old.iter().find(|rung| rung.keeps_counts_for(rule));
            Rung::new(index, Arc::clone(rule), kept)
        };
        let mut rungs: Vec<_> = rules.iter().enumerate().map(rung).collect();
        rungs.sort_by_key(Rung::width);
        Self { rules, rungs, seal, lines }
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
    pub fn admit(&self, subject: &Subject<'_>, cost: &Cost, now: Nanos) -> Result<Admission, Denial> {
        let mut climber = Climber { seal: &self.seal, subject, cost, now, hashed: Hashed::default() };
        let mut admission = Admission::default();
        admission.charge.own = subject.own.cloned();
        match self.climb(&mut climber, &mut admission) {
            Ok(()) => Ok(admission),
            Err((position, shortage)) => {
                self.give_back(&admission.charge, now);
                let asked = |rung: &Rung| rung.enforced() && rung.sees(subject);
                Err(self.deny(position, shortage, climber, admission.decisions, asked))
            }
        }
    }

    /// Charges rule by rule, up to the first refusal. Fills `admission` in place, in the caller's
    /// frame once `admit` is inlined: moving its 250 bytes would cost as much as hashing a key.
    fn climb(&self, climber: &mut Climber<'_>, admission: &mut Admission) -> Result<(), (usize, Shortage)> {
        for (position, rung) in self.rungs.iter().enumerate() {
            if !rung.sees(climber.subject) {
                continue;
            }
            admission.matched = true;
            let decision = match climber.charge(rung) {
                Ok(part) => {
                    admission.charge.parts.push(part);
                    Decision::Allowed
                }
                Err(_) if !rung.enforced() => Decision::WouldRefuse,
                Err(shortage) => return Err((position, shortage)),
            };
            admission.decisions.push((rung.index, decision));
        }
        Ok(())
    }

    /// Returns the refusal that a request gets now whatever its body says, if any. Charges nothing.
    #[must_use]
    pub fn refusal_unread(&self, subject: &Subject<'_>, now: Nanos) -> Option<Denial> {
        let cost = Cost::default();
        let mut climber = Climber { seal: &self.seal, subject, cost: &cost, now, hashed: Hashed::default() };
        let asked = |rung: &Rung| rung.enforced() && !rung.rule.needs_body() && rung.sees(subject);
        let mut rungs = self.rungs.iter().enumerate().filter(|(_, rung)| asked(rung));
        let (position, shortage) =
            rungs.find_map(|(position, rung)| Some((position, climber.shortage(rung)?)))?;
        let denial = self.deny(position, shortage, climber, Decisions::new(), asked);
        (!denial.too_large).then_some(denial)
    }

    /// Returns the request cost per rule that applies, narrow keys first, for remote counts.
    pub fn claims<'a>(&'a self, subject: &'a Subject<'a>, cost: &'a Cost) -> impl Iterator<Item = Claim> {
        let seen = self.rungs.iter().filter(|rung| rung.sees(subject));
        seen.map(|rung| {
            let own = rung.own(subject.own);
            Claim { index: rung.index, rule: rung.rule_by(own), amount: rung.amount(cost, own).ok() }
        })
    }

    /// Returns the status of every rule for a request, in the configured order. Charges nothing.
    #[must_use]
    pub fn explain(&self, subject: &Subject<'_>, cost: &Cost, now: Nanos) -> Vec<Explained> {
        let mut climber = Climber { seal: &self.seal, subject, cost, now, hashed: Hashed::default() };
        let mut rules: Vec<_> = self
            .rungs
            .iter()
            .map(|rung| {
                let own = rung.own(subject.own);
                let (rule, index) = (rung.rule_by(own), rung.index);
                if !rung.sees(subject) {
                    return Explained { index, rule, seen: None };
                }
                let place = Place::Own(climber.key(rung));
                let level = rung.counter.level(Some(place), rung.by(own), now);
                let (amount, shortage) = (rung.amount(cost, own).ok(), climber.shortage(rung));
                Explained { index, rule, seen: Some(Seen { amount, level, shortage }) }
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
        mut climber: Climber<'_>,
        mut decisions: Decisions,
        asked: impl Fn(&Rung) -> bool,
    ) -> Denial {
        let mut refusing = (&self.rungs[position], shortage);
        let mut standings = Vec::new();
        for (other, rung) in self.rungs.iter().enumerate() {
            if !asked(rung) {
                continue;
            }
            let own = rung.own(climber.subject.own);
            standings.push(rung.standing(Some(Place::Own(climber.key(rung))), own, climber.now));
            // The narrower rules admitted the request just now.
            let shortage = match other.cmp(&position) {
                Less => None,
                Equal => Some(shortage),
                Greater => climber.shortage(rung),
            };
            if let Some(shortage) = shortage {
                decisions.push((rung.index, Decision::Refused));
                if shortage > refusing.1 {
                    refusing = (rung, shortage);
                }
            }
        }
        let (retry_after, too_large) = match refusing.1 {
            Shortage::Wait(wait) => (Some(wait), false),
            Shortage::Never => (None, true),
        };
        let own = refusing.0.own(climber.subject.own);
        let line = (refusing.0.counts, climber.key(refusing.0));
        Denial {
            line: Some(line),
            amount: refusing.0.amount(climber.cost, own).unwrap_or_default(),
            rule: refusing.0.index,
            retry_after,
            too_large,
            standings,
            decisions,
            refused_by: refusing.0.rule_by(own),
            prompt_tokens: climber.cost.prompt_tokens,
        }
    }

    /// Adds a refusal to its retry queue: its retry time follows those of earlier refusals.
    #[must_use]
    pub fn in_line(&self, mut denial: Denial, now: Nanos) -> Denial {
        let found = denial.line.take().and_then(|line| {
            let rung = self.rungs.iter().find(|rung| rung.counts == line.0)?;
            Some((line, rung, denial.turn(1)?))
        });
        if let Some((line, rung, turn)) = found {
            let mut by = rung.by(None);
            if denial.refused_by.quota != rung.rule.quota {
                by = Some(By {
                    quota: denial.refused_by.quota,
                    fills_since: by.and_then(|by| by.fills_since),
                });
            }
            let wait = |units| match rung.counter.shortage(line.1, units, by, now) {
                Some(Shortage::Wait(wait)) => wait,
                Some(Shortage::Never) | None => Duration::ZERO,
            };
            denial.retry_after = Some(self.lines.join(line, turn, fastrand::f64(), now, wait));
        }
        denial
    }

    /// Corrects a charge to `actual_tokens` in every token rule. Requests stay charged.
    pub fn settle(&self, charge: Charge, actual_tokens: u64, now: Nanos) {
        for (part, rung) in self.parts(&charge) {
            if rung.rule.unit == Unit::Tokens && part.amount != actual_tokens {
                let by = rung.by(rung.own(charge.own.as_ref()));
                rung.counter.correct(part.hold, part.amount, actual_tokens, by, now);
            }
        }
    }

    /// Refunds a charge in every rule: the request was not served.
    pub fn refund(&self, charge: Charge, now: Nanos) {
        self.give_back(&charge, now);
    }

    fn give_back(&self, charge: &Charge, now: Nanos) {
        for (part, rung) in self.parts(charge) {
            let by = rung.by(rung.own(charge.own.as_ref()));
            rung.counter.correct(part.hold, part.amount, 0, by, now);
        }
    }

    /// Returns the quota status of the enforced rules that admitted a request, narrow keys first.
    #[must_use]
    pub fn standings(&self, charge: &Charge, now: Nanos) -> SmallVec<[Standing; 4]> {
        let enforced = self.parts(charge).filter(|(_, rung)| rung.enforced());
        enforced
            .map(|(part, rung)| rung.standing(part.hold.place, rung.own(charge.own.as_ref()), now))
            .collect()
    }

    fn parts<'a>(&'a self, charge: &'a Charge) -> impl Iterator<Item = (&'a ChargePart, &'a Rung)> {
        charge
            .parts
            .iter()
            .filter_map(|part| Some((part, self.rungs.iter().find(|rung| rung.counts == part.counts)?)))
    }

    /// Returns the index and the number of remembered keys of each rule.
    pub fn keys(&self) -> impl Iterator<Item = (usize, usize)> {
        self.rungs.iter().map(|rung| (rung.index, rung.counter.keys()))
    }

    /// Removes idle keys from a small part of each rule's table. Memory is bounded without it;
    /// called about once a second, it frees memory within minutes after a flood of keys.
    pub fn sweep(&self, now: Nanos) {
        for rung in &self.rungs {
            rung.counter.sweep(now);
        }
    }
}
