//! How the rules stand to a request, without asking for anything.

use std::sync::Arc;

use super::SharedRules;
use super::plan::{Ask, tag_of};
use super::script::{CHARGED, call};
use super::trip::numbers;
use crate::limit::meter::Shortage;
use crate::limit::{Cost, Explained, Seen, Subject};
use crate::metrics::RedisOp;
use crate::redis::link::Loss;

impl SharedRules {
    /// How every rule stands to a request, in the configured order. What this gateway has leased counts as left.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn explain(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        cost: &Cost,
    ) -> Result<Vec<Explained>, Loss> {
        let plan = self.planner.plan(&self.ladder, &self.counted, subject, cost);
        let mut seen: Vec<Option<Seen>> = vec![None; self.counted.len()];
        for (index, counted) in self.counted.iter().enumerate() {
            if plan.never.contains(&index) {
                let (level, shortage) = (counted.cell.level([0; 3]), Some(Shortage::Never));
                seen[index] = Some(Seen { amount: None, level, shortage });
            }
        }
        // One call for each tag: what is leased or free lies on any node.
        let own = [plan.strict.as_slice()];
        let others = plan.leased.iter().chain(&plan.free).map(std::slice::from_ref);
        for asks in own.into_iter().chain(others).filter(|asks| !asks.is_empty()) {
            for (ask, found) in asks.iter().zip(self.look(asks).await?) {
                if let Some(seen) = seen.get_mut(ask.index) {
                    *seen = Some(found);
                }
            }
        }
        let rules = self.ladder.rules().iter().zip(seen).enumerate();
        Ok(rules.map(|(index, (rule, seen))| Explained { index, rule: Arc::clone(rule), seen }).collect())
    }

    /// The same while Redis cannot be asked: this gateway's share. Rules that are open or closed then are not seen.
    #[must_use]
    pub fn explain_alone(&self, subject: &Subject<'_>, cost: &Cost) -> Vec<Explained> {
        self.share().explain(subject, cost, self.clock().now())
    }

    async fn look(&self, asks: &[Ask]) -> Result<Vec<Seen>, Loss> {
        let key = asks.first().map_or("", |ask| &ask.key);
        // Nothing is recorded, but every call has a record among its keys.
        let record = self.record(tag_of(key), "look");
        let cells = asks.iter().filter_map(|ask| {
            let cell = &self.counted(ask.index)?.cell;
            Some((cell.kind(), cell.charge(ask.amount, true)?))
        });
        let keys = asks.iter().map(|ask| &*ask.key);
        let call = call(&self.store.scripts.look, (&record, CHARGED), keys, cells);
        let answer: Vec<i64> = self.store.link.run(RedisOp::Rules, self.timeout(), &call).await?;
        let now = self.clock().now();
        let seen = asks.iter().zip(answer.chunks_exact(4)).filter_map(|(ask, answer)| {
            let [fits, shown @ ..] = answer else { return None };
            let cell = &self.counted(ask.index)?.cell;
            let mut level = cell.level(numbers(shown));
            let leased = self.purses.held(ask.hash);
            level.remaining = level.remaining.saturating_add(leased);
            let shortage = match self.denials.find(ask.hash, ask.amount, now) {
                _ if ask.amount == 0 || *fits == 1 || leased >= ask.amount => None,
                Some(denied) => Some(Shortage::Wait(denied.wait)),
                None => cell.shortage(numbers(shown), ask.amount),
            };
            Some(Seen { amount: Some(ask.amount), level, shortage })
        });
        Ok(seen.collect())
    }
}
