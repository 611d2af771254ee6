//! Explains the status of the rules for a request, without charging anything.

use std::sync::Arc;

use super::SharedRules;
use super::cell::Cell;
use super::plan::{CellRequest, tag_of};
use super::round_trip::numbers;
use super::script::{CHARGED, call};
use crate::limit::meter::Shortage;
use crate::limit::{ExpectedCost, Explained, RuleView, Subject};
use crate::metrics::RedisOp;
use crate::redis::link::RedisLoss;

impl SharedRules {
    /// Returns the status of every rule for a request, in order. Local leases count as remaining.
    ///
    /// # Errors
    /// Returns the local status if Redis fails, without rules of `on_loss` open or closed.
    pub(crate) async fn explain(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        cost: &ExpectedCost,
    ) -> Result<Vec<Explained>, Vec<Explained>> {
        let together = self.explain_together(subject, cost).await;
        together.map_err(|_| self.share().explain(subject, cost, self.clock().now()))
    }

    async fn explain_together(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        cost: &ExpectedCost,
    ) -> Result<Vec<Explained>, RedisLoss> {
        let plan = self.planner.plan(&self.rule_set, &self.counted, subject, cost);
        let mut seen: Vec<Option<RuleView>> = vec![None; self.counted.len()];
        let mut rules = self.rule_set.rules().to_vec();
        for (index, rule) in &plan.never {
            let (level, shortage) = (Cell::of(rule).level([0; 3]), Some(Shortage::Never));
            seen[*index] = Some(RuleView { amount: None, level, shortage });
            rules[*index] = Arc::clone(rule);
        }
        // One call per hash tag: leased and free rules may be on any node.
        let own = [plan.strict.as_slice()];
        let others = plan.leased.iter().chain(&plan.free).map(std::slice::from_ref);
        for asks in own.into_iter().chain(others).filter(|asks| !asks.is_empty()) {
            for (ask, found) in asks.iter().zip(self.look(asks).await?) {
                seen[ask.index] = Some(found);
                rules[ask.index] = Arc::clone(&ask.rule);
            }
        }
        let rules = rules.into_iter().zip(seen).enumerate();
        Ok(rules.map(|(index, (rule, seen))| Explained { index, rule, seen }).collect())
    }

    async fn look(&self, asks: &[CellRequest]) -> Result<Vec<RuleView>, RedisLoss> {
        let key = asks.first().map_or("", |ask| &ask.key);
        // `look` writes no record, but every call has a record key.
        let record = self.record(tag_of(key), "look");
        let cells = asks.iter().filter_map(|ask| ask.charge(true));
        let keys = asks.iter().map(|ask| &*ask.key);
        let call = call(&self.store.scripts.look, (&record, CHARGED), keys, cells);
        let answer: Vec<i64> = self.store.link.run(RedisOp::Rules, self.timeout(), &call).await?;
        let now = self.clock().now();
        let seen = asks.iter().zip(answer.chunks_exact(4)).filter_map(|(ask, answer)| {
            let [fits, shown @ ..] = answer else { return None };
            let cell = &ask.cell;
            let mut level = cell.level(numbers(shown));
            let leased = self.leases.units_left(ask.hash);
            level.remaining = level.remaining.saturating_add(leased);
            let shortage = match self.denials.find(ask.hash, ask.amount, now) {
                _ if ask.amount == 0 || *fits == 1 || leased >= ask.amount => None,
                Some(denied) => Some(Shortage::Wait(denied.wait)),
                None => cell.shortage(numbers(shown), ask.amount),
            };
            Some(RuleView { amount: Some(ask.amount), level, shortage })
        });
        Ok(seen.collect())
    }
}
