//! Charges that a request holds in Redis, and how it settles them.

use std::sync::Arc;

use smallvec::SmallVec;

use super::SharedRules;
use super::plan::{CellRequest, tag_of};
use super::settlements::SettlementScript;
use crate::limit::lease::lease_size;
use crate::limit::{Charge, RuleSet};
use crate::refusal::{QuotaStatus, Unit};

/// Origin of the units of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChargeSource {
    /// The cell in Redis, with the mark of the charge.
    Cell(u64),
    Lease,
    /// None: the charge was zero.
    Free,
}

#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) ask: CellRequest,
    pub(super) how: ChargeSource,
}

/// Charges of an admitted request. Dropping it refunds everything: a request whose client left
/// while it waited for Redis was never served.
#[derive(Debug)]
#[must_use = "dropped, it gives everything back"]
pub struct Holding {
    pub(super) rules: Arc<SharedRules>,
    /// Id of the charge; the settlement's id is derived from it.
    pub(super) id: String,
    pub(super) parts: Vec<Part>,
    pub(super) quotas: Vec<QuotaStatus>,
    /// Local charges, made because Redis was away.
    pub(super) local: Option<(Arc<RuleSet>, Charge)>,
}

impl Holding {
    pub(super) fn new(rules: &Arc<SharedRules>, id: String) -> Self {
        Self { rules: Arc::clone(rules), id, parts: Vec::new(), quotas: Vec::new(), local: None }
    }

    pub(super) fn absorb(&mut self, mut other: Self) {
        self.parts.append(&mut other.parts);
    }

    /// Returns the quota status of the enforced rules at admission, narrow rules first.
    #[must_use]
    pub(crate) fn quotas(&self) -> &[QuotaStatus] {
        &self.quotas
    }

    /// Corrects token charges to `actual` tokens. Request charges stay.
    pub(crate) fn settle(mut self, actual: u64) {
        self.correct(Some(actual));
    }

    /// Refunds everything: the request was not served.
    pub(crate) fn refund(self) {
        drop(self);
    }

    /// Keeps all charges as they are.
    pub fn keep(mut self) {
        self.parts.clear();
        self.local = None;
    }

    fn correct(&mut self, actual: Option<u64>) {
        let now = self.rules.clock().now();
        if let Some((rule_set, charge)) = self.local.take() {
            match actual {
                Some(actual) => rule_set.settle(charge, actual, now),
                None => rule_set.refund(charge, now),
            }
        }
        let parts = std::mem::take(&mut self.parts);
        let mut cells = SmallVec::<[(CellRequest, u64, u64); 4]>::new();
        for Part { ask, how } in parts {
            let Some(counted) = self.rules.counted(ask.index) else { continue };
            let actual = match (actual, counted.rule.unit) {
                (Some(actual), Unit::Tokens) => actual,
                (Some(_), Unit::Requests) => continue,
                (None, _) => 0,
            };
            if actual == ask.amount {
                continue;
            }
            if actual < ask.amount {
                // The freed units are available at once.
                self.rules.denials.forget(ask.hash);
            }
            match how {
                ChargeSource::Cell(mark) => cells.push((ask, mark, actual)),
                ChargeSource::Free if !counted.leased => cells.push((ask, 0, actual)),
                ChargeSource::Free | ChargeSource::Lease => self.rules.return_lease(&ask, actual),
            }
        }
        if let Some((first, ..)) = cells.first() {
            let record = self.rules.record(tag_of(&first.key), &format!("{}:s", self.id));
            self.rules.task(
                SettlementScript::Settle,
                record,
                cells.iter().map(|(ask, mark, actual)| (ask, *mark, *actual)),
            );
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.correct(None);
    }
}

impl SharedRules {
    /// Corrects units taken from a lease to `actual`. Unused units go to the lease up to its usual
    /// size, the rest to the quota. Extra units come from the lease as far as it has them, else
    /// from the quota.
    pub(super) fn return_lease(self: &Arc<Self>, ask: &CellRequest, actual: u64) {
        let Some(counted) = self.counted(ask.index) else { return };
        let now = self.clock().now();
        let (reserved, actual) = if actual <= ask.amount {
            let size = lease_size(&counted.rule.quota, 1, u64::MAX, self.gateways());
            let kept = self.leases.put_up_to(ask.hash, ask.amount - actual, size, now);
            (ask.amount - actual - kept, 0)
        } else {
            (0, actual - ask.amount - self.leases.take_up_to(ask.hash, actual - ask.amount))
        };
        if reserved != actual {
            let record = self.record(tag_of(&ask.key), &self.id());
            let mark = self.leases.mark(ask.hash);
            let rest = CellRequest { amount: reserved, ..ask.clone() };
            self.task(SettlementScript::Settle, record, std::iter::once((&rest, mark, actual)));
        }
    }
}
