//! Round trip to Redis for a request.
//!
//! If a trip ends before its answer (by timeout, or because the client left), the charge is undone:
//! Redis may have made it, or may still make it.

use std::sync::Arc;

use smallvec::SmallVec;

use super::SharedRules;
use super::cell::{CellArguments, CellView};
use super::holding::{ChargeSource, Holding, Part};
use super::plan::{CellRequest, Plan, tag_of};
use super::script::{CHARGED, call};
use super::settlements::SettlementScript;
use crate::limit::meter::{Level, Shortage};
use crate::limit::rule::Rule;
use crate::metrics::RedisOp;
use crate::redis::link::RedisLoss;

#[derive(Clone, Debug)]
pub(super) struct RuleReply {
    pub(super) index: usize,
    /// The rule, with the caller's own limits.
    pub(super) rule: Arc<Rule>,
    pub(super) hash: u64,
    pub(super) amount: u64,
    pub(super) level: Level,
    /// Shortage, if the rule refused.
    pub(super) shortage: Option<Shortage>,
}

/// Answer of a script call.
#[derive(Debug)]
pub(super) struct HeardReply {
    pub(super) holding: Holding,
    pub(super) said: SmallVec<[RuleReply; 4]>,
}

/// Undoes a charge on drop, unless its outcome is known.
struct UndoGuard<'a> {
    rules: &'a Arc<SharedRules>,
    record: String,
    /// Cells of a charge, or alternative amounts of a lease.
    asks: &'a [CellRequest],
    heard: bool,
}

impl Drop for UndoGuard<'_> {
    fn drop(&mut self) {
        if !self.heard {
            let record = std::mem::take(&mut self.record);
            self.rules.task(SettlementScript::Undo, record, self.asks.iter().map(|ask| (ask, 0, 0)));
        }
    }
}

pub(super) fn numbers<const N: usize>(from: &[i64]) -> [u64; N] {
    std::array::from_fn(|index| from.get(index).map_or(0, |number| u64::try_from(*number).unwrap_or(0)))
}

impl CellRequest {
    pub(super) fn said(&self, level: Level, shortage: Option<Shortage>) -> RuleReply {
        let Self { index, hash, amount, .. } = *self;
        RuleReply { index, rule: Arc::clone(&self.rule), hash, amount, level, shortage }
    }

    /// Returns the rule's answer from the numbers of a script.
    fn heard(&self, shown: CellView, fits: bool) -> RuleReply {
        let shortage = if fits { None } else { self.cell.shortage(shown, self.amount) };
        self.said(self.cell.level(shown), shortage)
    }

    pub(super) fn charge(&self, enforced: bool) -> Option<(&'static str, CellArguments)> {
        Some((self.cell.kind(), self.cell.charge(self.amount, enforced)?))
    }
}

impl SharedRules {
    /// Charges all rules under the caller's hash tag, or none.
    pub(super) async fn charge(self: &Arc<Self>, plan: &Plan) -> Result<HeardReply, RedisLoss> {
        let (id, asks) = (self.id(), plan.strict.as_slice());
        let mut guard = UndoGuard { rules: self, record: self.record(&plan.tag, &id), asks, heard: false };
        let cells = asks.iter().filter_map(|ask| ask.charge(ask.enforced()));
        let keys = asks.iter().map(|ask| &*ask.key);
        let call = call(&self.store.scripts.charge, (&guard.record, CHARGED), keys, cells);
        let answer = self.store.link.run::<Vec<i64>>(RedisOp::Rules, self.timeout(), &call).await;
        guard.heard = !matches!(answer, Err(RedisLoss::Unknown));
        let answer = answer?;
        let mut heard = HeardReply { holding: Holding::new(self, id), said: SmallVec::new() };
        let (verdict, answers) = answer.split_first().ok_or(RedisLoss::Refused)?;
        for (ask, answer) in asks.iter().zip(answers.chunks_exact(5)) {
            let [fits, mark, shown @ ..] = answer else { continue };
            if *verdict == 1 && *fits == 1 {
                let how = ChargeSource::Cell(u64::try_from(*mark).unwrap_or(0));
                heard.holding.parts.push(Part { ask: ask.clone(), how });
            }
            heard.said.push(ask.heard(numbers(shown), *fits == 1));
        }
        Ok(heard)
    }

    /// Leases units for `ask`, up to `size` in all if available. If `needed`, the request holds its
    /// part; otherwise all units go into the lease.
    pub(super) async fn lease(
        self: &Arc<Self>,
        ask: &CellRequest,
        size: u64,
        needed: bool,
    ) -> Result<HeardReply, RedisLoss> {
        let mut options = SmallVec::<[CellRequest; 2]>::new();
        if size != ask.amount || !needed {
            options.push(CellRequest { amount: size, ..ask.clone() });
        }
        if needed {
            options.push(ask.clone());
        }
        let id = self.id();
        let record = self.record(tag_of(&ask.key), &id);
        let mut guard = UndoGuard { rules: self, record, asks: &options, heard: false };
        let cells = options.iter().filter_map(|option| option.charge(ask.enforced()));
        let keys = std::iter::once(&*ask.key);
        let call = call(&self.store.scripts.lease, (&guard.record, CHARGED), keys, cells);
        let answer = self.store.link.run::<Vec<i64>>(RedisOp::Lease, self.timeout(), &call).await;
        guard.heard = !matches!(answer, Err(RedisLoss::Unknown));
        let answer = answer?;
        let [option, mark, shown @ ..] = answer.as_slice() else { return Err(RedisLoss::Refused) };
        let had = usize::try_from(*option).ok().and_then(|option| options.get(option.checked_sub(1)?));
        let mut heard = HeardReply { holding: Holding::new(self, id), said: SmallVec::new() };
        let now = self.clock().now();
        let said = options.last().unwrap_or(ask).heard(numbers(shown), had.is_some());
        let mark = had.is_some().then(|| u64::try_from(*mark).unwrap_or(0));
        self.leases.record_level(ask.hash, said.level, mark, now);
        heard.said.push(said);
        if let Some(had) = had {
            heard.holding.parts.push(Part { ask: had.clone(), how: ChargeSource::Lease });
            let spare = if needed { had.amount - ask.amount } else { had.amount };
            if self.leases.put(ask.hash, spare, now) {
                heard.holding.parts.clear();
                if needed {
                    heard.holding.parts.push(Part { ask: ask.clone(), how: ChargeSource::Lease });
                }
            }
        }
        Ok(heard)
    }

    /// Renews a lease in the background, while requests still use its remaining units.
    pub(super) fn fill(self: &Arc<Self>, ask: CellRequest, size: u64) {
        let rules = Arc::clone(self);
        tokio::spawn(async move {
            match rules.lease(&ask, size, false).await {
                Ok(heard) => heard.holding.refund(),
                Err(_) => rules.leases.record_failure(ask.hash, rules.clock().now()),
            }
        });
    }
}
