//! Decides on a request.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use smallvec::SmallVec;

use super::SharedRules;
use super::cell::Cell;
use super::holding::{ChargeSource, Holding, Part};
use super::plan::{CellRequest, Plan};
use super::round_trip::{HeardReply, RuleReply};
use crate::clock::Nanos;
use crate::limit::lease::LeaseTake;
use crate::limit::meter::Shortage;
use crate::limit::rule::{Mode, OnLoss};
use crate::limit::{Decision, Decisions, Denial, ExpectedCost, Subject};
use crate::redis::link::{BACK, RedisLoss};
use crate::refusal::{Reason, Refusal, with_jitter};

/// Extra time for which a cached refusal holds if the answer to a retry is late.
const LATE: Duration = Duration::from_millis(100);

/// Result for a request that all rules admit.
#[derive(Debug)]
pub struct Admitted {
    /// Its charges.
    pub holding: Holding,
    /// Decision of each rule that matched.
    pub decisions: Decisions,
}

/// Result for a refused request; no quota was charged.
#[derive(Debug)]
pub struct RuleRefusal {
    /// The refusal for the client.
    pub(crate) refusal: Refusal,
    /// Decision of each rule that was asked.
    pub(crate) decisions: Decisions,
}

type LeasedKeys<'a> = SmallVec<[(&'a CellRequest, u64); 2]>;

impl SharedRules {
    /// Charges all matching rules, or none, with at most one round trip to Redis.
    ///
    /// # Errors
    /// Returns the refusal of the enforced rule with the longest wait or, while Redis is away, of a
    /// rule with `on_loss: closed`.
    pub async fn admit(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        cost: &ExpectedCost,
    ) -> Result<Admitted, Box<RuleRefusal>> {
        let now = self.clock().now();
        let mut plan = self.planner.plan(&self.rule_set, &self.counted, subject, cost);
        let mut decisions = Decisions::new();
        if let Some(refused) = self.refuse_cached(&mut plan, cost, &mut decisions, now) {
            return Err(Box::new(refused));
        }
        if plan.strict.is_empty() && plan.leased.is_empty() {
            decisions.extend(plan.free.iter().map(|ask| (ask.index, Decision::Allowed)));
            return Ok(Admitted { holding: self.holding(&plan), decisions });
        }
        if !self.store.link.is_up() {
            return self.decide_locally(subject, cost);
        }
        let mut holding = self.holding(&plan);
        let mut said = SmallVec::<[RuleReply; 4]>::new();
        let missing = self.take_leased(&plan, &mut holding, &mut said, now);
        match self.travel(&plan, &missing).await {
            Ok(heard) => {
                for heard in heard {
                    holding.absorb(heard.holding);
                    said.extend(heard.said);
                }
                self.conclude(holding, &plan, said, cost, decisions)
            }
            Err(_) => {
                holding.refund();
                match self.still_refused(&plan, cost, &mut decisions) {
                    Some(refused) => Err(Box::new(refused)),
                    None => self.decide_locally(subject, cost),
                }
            }
        }
    }

    /// Returns the refusal that does not depend on the body, if it is known without asking Redis.
    #[must_use]
    pub(crate) fn refusal_unread(self: &Arc<Self>, subject: &Subject<'_>) -> Option<RuleRefusal> {
        let cost = ExpectedCost::default();
        let mut plan = self.planner.plan(&self.rule_set, &self.counted, subject, &cost);
        plan.never.clear();
        plan.strict.retain(|ask| !ask.rule.needs_body());
        plan.leased.retain(|ask| !ask.rule.needs_body());
        self.refuse_cached(&mut plan, &cost, &mut Decisions::new(), self.clock().now())
    }

    /// Returns a holding of the free asks only, which are settled in any case.
    fn holding(self: &Arc<Self>, plan: &Plan) -> Holding {
        let mut holding = Holding::new(self, self.id());
        holding.parts.extend(plan.free.iter().map(|ask| Part { ask: ask.clone(), how: ChargeSource::Free }));
        holding
    }

    /// Refuses by locally known refusals. Drops asks of observing rules that have no room.
    fn refuse_cached(
        &self,
        plan: &mut Plan,
        cost: &ExpectedCost,
        decisions: &mut Decisions,
        now: Nanos,
    ) -> Option<RuleRefusal> {
        let up = self.store.link.is_up();
        let mut refused = SmallVec::<[RuleReply; 4]>::new();
        for (index, rule) in &plan.never {
            if rule.mode == Mode::Enforce {
                let (level, shortage) = (Cell::of(rule).level([0; 3]), Some(Shortage::Never));
                let rule = Arc::clone(rule);
                refused.push(RuleReply { index: *index, rule, hash: 0, amount: 0, level, shortage });
            } else {
                decisions.push((*index, Decision::WouldRefuse));
            }
        }
        for asks in [&mut plan.strict, &mut plan.leased] {
            asks.retain(|ask| {
                let denied = if up {
                    self.denials.find(ask.hash, ask.amount, now)
                } else {
                    self.denials.find_within(ask.hash, ask.amount, Duration::ZERO, now)
                };
                let Some(denied) = denied else { return true };
                if !up && ask.rule.on_loss == OnLoss::Open {
                    return true;
                }
                let enforced = ask.enforced();
                if enforced {
                    refused.push(ask.said(denied.level, Some(Shortage::Wait(denied.wait))));
                } else {
                    decisions.push((ask.index, Decision::WouldRefuse));
                }
                enforced
            });
        }
        let refusing = !refused.is_empty();
        refusing.then(|| self.deny(&refused, cost, std::mem::take(decisions)))
    }

    /// Refuses by a recent refusal if only this answer is late: Redis still counts, and a local
    /// admission would exceed the quota.
    fn still_refused(
        &self,
        plan: &Plan,
        cost: &ExpectedCost,
        decisions: &mut Decisions,
    ) -> Option<RuleRefusal> {
        if !self.store.link.is_answering() {
            return None;
        }
        let now = self.clock().now();
        let counted = |ask: &&CellRequest| ask.enforced() && ask.rule.on_loss != OnLoss::Closed;
        let refused = plan.strict.iter().chain(&plan.leased).filter(counted).filter_map(|ask| {
            let denied = self.denials.find_within(ask.hash, ask.amount, LATE, now)?;
            Some(ask.said(denied.level, Some(Shortage::Wait(denied.wait.max(LATE)))))
        });
        let refused: SmallVec<[RuleReply; 4]> = refused.collect();
        (!refused.is_empty()).then(|| self.deny(&refused, cost, std::mem::take(decisions)))
    }

    /// Takes units from local leases. Returns the asks without enough, with the size to lease.
    fn take_leased<'p>(
        self: &Arc<Self>,
        plan: &'p Plan,
        holding: &mut Holding,
        said: &mut SmallVec<[RuleReply; 4]>,
        now: Nanos,
    ) -> LeasedKeys<'p> {
        let mut missing = LeasedKeys::new();
        for ask in &plan.leased {
            match self.leases.take(ask.hash, ask.amount, &ask.rule.quota, self.gateways(), now) {
                LeaseTake::Taken(fill) => {
                    holding.parts.push(Part { ask: ask.clone(), how: ChargeSource::Lease });
                    if let Some(level) = self.leases.level(ask.hash, now) {
                        said.push(ask.said(level, None));
                    }
                    if let Some(size) = fill {
                        self.fill(ask.clone(), size);
                    }
                }
                LeaseTake::TooFew(size) => missing.push((ask, size)),
            }
        }
        missing
    }

    /// Sends the charge and the leases concurrently, in one round trip.
    async fn travel(
        self: &Arc<Self>,
        plan: &Plan,
        missing: &LeasedKeys<'_>,
    ) -> Result<Vec<HeardReply>, RedisLoss> {
        let charge = async { if plan.strict.is_empty() { None } else { Some(self.charge(plan).await) } };
        let (charged, leased) = match missing.as_slice() {
            [] => (charge.await, Vec::new()),
            missing => {
                let leases = missing.iter().map(|(ask, size)| self.lease(ask, *size, true));
                join(charge, join_all(leases)).await
            }
        };
        charged.into_iter().chain(leased).collect()
    }

    fn conclude(
        self: &Arc<Self>,
        mut holding: Holding,
        plan: &Plan,
        said: SmallVec<[RuleReply; 4]>,
        cost: &ExpectedCost,
        mut decisions: Decisions,
    ) -> Result<Admitted, Box<RuleRefusal>> {
        let now = self.clock().now();
        let mut refused = false;
        for said in &said {
            if let Some(Shortage::Wait(wait)) = said.shortage {
                self.denials.remember(said.hash, said.amount, wait, said.level, now);
            }
            refused |= said.shortage.is_some() && said.rule.mode == Mode::Enforce;
        }
        if refused {
            holding.refund();
            return Err(Box::new(self.deny(&said, cost, decisions)));
        }
        for said in &said {
            let decision = if said.shortage.is_some() { Decision::WouldRefuse } else { Decision::Allowed };
            decisions.push((said.index, decision));
            if said.rule.mode == Mode::Enforce {
                holding.quotas.push(said.level.quota_status(&said.rule));
            }
        }
        decisions.extend(plan.free.iter().map(|ask| (ask.index, Decision::Allowed)));
        Ok(Admitted { holding, decisions })
    }

    /// Builds the refusal. At least one of `said` is enforced and has a shortage.
    fn deny(&self, said: &[RuleReply], cost: &ExpectedCost, mut decisions: Decisions) -> RuleRefusal {
        let mut quotas = Vec::new();
        let mut refusing: Option<(&RuleReply, Shortage)> = None;
        for said in said.iter().filter(|said| said.rule.mode == Mode::Enforce) {
            quotas.push(said.level.quota_status(&said.rule));
            let Some(shortage) = said.shortage else { continue };
            decisions.push((said.index, Decision::Refused));
            if refusing.is_none_or(|(_, longest)| shortage > longest) {
                refusing = Some((said, shortage));
            }
        }
        let refusal = refusing.map(|(said, shortage)| {
            let (retry_after, too_large) = match shortage {
                Shortage::Wait(wait) => (Some(wait), false),
                Shortage::Never => (None, true),
            };
            let mut denial = Denial {
                rule: said.index,
                retry_after,
                too_large,
                quotas,
                decisions: Decisions::new(),
                refused_by: Arc::clone(&said.rule),
                prompt_tokens: cost.prompt_tokens,
                amount: said.amount,
                line: None,
            };
            if let Some(turn) = denial.turn(self.gateways()) {
                let (line, whole) = ((0, said.hash), said.level.reset);
                let retry_after = self.lines.join(line, turn, fastrand::f64(), self.clock().now(), |units| {
                    turn.estimate_wait(units, whole)
                });
                denial.retry_after = Some(retry_after);
            }
            denial.into_refusal()
        });
        let refusal =
            refusal.unwrap_or_else(|| Refusal::new(Reason::InternalError, "A rule refused without reason."));
        RuleRefusal { refusal, decisions }
    }

    /// Decides without Redis, by each rule's `on_loss`.
    fn decide_locally(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        cost: &ExpectedCost,
    ) -> Result<Admitted, Box<RuleRefusal>> {
        self.store.link.metrics().fallback();
        let mut decisions = Decisions::new();
        for claim in self.rule_set.rule_costs(subject, cost) {
            let rule = claim.rule;
            match rule.on_loss {
                OnLoss::Share => {}
                OnLoss::Closed if rule.mode == Mode::Enforce => {
                    decisions.push((claim.index, Decision::Refused));
                    let message = format!(
                        "Rule '{}' cannot be checked now and refuses requests until it can. Retry later.",
                        rule.name
                    );
                    let wait = with_jitter(BACK);
                    let refusal = Refusal::new(Reason::LimiterUnavailable, message).with_retry_after(wait);
                    return Err(Box::new(RuleRefusal { refusal, decisions }));
                }
                OnLoss::Open | OnLoss::Closed => decisions.push((claim.index, Decision::Allowed)),
            }
        }
        let (share, now) = (self.share(), self.clock().now());
        match share.admit(subject, cost, now) {
            Ok(admission) => {
                decisions.extend(admission.decisions);
                let mut holding = Holding::new(self, self.id());
                holding.quotas = share.quota_statuses(&admission.charge, now).into_vec();
                holding.local = Some((share, admission.charge));
                Ok(Admitted { holding, decisions })
            }
            Err(mut denial) => {
                decisions.append(&mut denial.decisions);
                Err(Box::new(RuleRefusal {
                    refusal: share.join_retry_queue(denial, now).into_refusal(),
                    decisions,
                }))
            }
        }
    }
}
