//! A charge, which lives as long as the answer and is settled by what it really used.

use std::sync::Arc;

use http::{Response, StatusCode};

use super::rule_metrics::RuleMetrics;
use crate::clock::{self, Clock, Nanos};
use crate::layers::bill::FinalCharge;
use crate::layers::body::{BodyGuard, Guarded};
use crate::limit::{Charge, ExpectedCost, RuleSet};
use crate::openai::dialect::Dialect;
use crate::redis::rules::Holding;
use crate::refusal::{QuotaStatus, Refusal};
use crate::request::RequestRecord;

/// A charge, by where it is counted.
#[derive(Debug)]
pub(super) enum TakenCharge {
    Memory(Arc<RuleSet>, Charge),
    // Boxed because it is large. The round trip to Redis costs a hundred times as much as a box.
    Shared(Box<Holding>),
}

impl TakenCharge {
    fn settle(self, tokens: u64, now: Nanos) {
        match self {
            Self::Memory(rule_set, charge) => rule_set.settle(charge, tokens, now),
            Self::Shared(holding) => holding.settle(tokens),
        }
    }

    fn refund(self, now: Nanos) {
        match self {
            Self::Memory(rule_set, charge) => rule_set.refund(charge, now),
            Self::Shared(holding) => holding.refund(),
        }
    }

    /// Leaves the charge at its estimate.
    fn keep(self) {
        match self {
            Self::Memory(..) => {}
            Self::Shared(holding) => holding.keep(),
        }
    }

    fn with_statuses(&self, now: Nanos, then: impl FnOnce(&[QuotaStatus])) {
        match self {
            Self::Memory(rule_set, charge) => then(&rule_set.quota_statuses(charge, now)),
            Self::Shared(holding) => then(holding.quotas()),
        }
    }
}

/// Guard of a charge: settles it when dropped.
#[derive(Debug)]
pub struct HeldCharge {
    pub(super) charge: Option<TakenCharge>,
    pub(super) clock: Clock,
    pub(super) metrics: Option<Arc<RuleMetrics>>,
    pub(super) record: Option<Arc<RequestRecord>>,
    pub(super) cost: ExpectedCost,
    /// Status of the answer; `None` before there is an answer.
    pub(super) status: Option<StatusCode>,
    /// In whose words the client is told of its quota.
    pub(super) dialect: Dialect,
}

impl HeldCharge {
    fn refund(mut self) {
        if let Some(charge) = self.charge.take() {
            charge.refund(self.clock.now());
        }
    }

    /// Ties the charge to the body of the answer. Refunds it on an error.
    pub(super) fn tie<R, E: Into<Refusal>>(
        mut self: Box<Self>,
        answer: Result<Response<R>, E>,
    ) -> Result<Response<Guarded<R, Box<Self>>>, Refusal> {
        match answer {
            Ok(mut response) => {
                self.status = Some(response.status());
                if let Some(charge) = &self.charge {
                    charge.with_statuses(self.clock.now(), |quotas| {
                        self.dialect.quota_headers(response.headers_mut(), quotas, clock::wall);
                        let caller = self.record.as_ref().and_then(|record| record.caller());
                        if let (Some(metrics), Some(caller)) = (&self.metrics, caller) {
                            metrics.record_usage(quotas, &caller.id);
                        }
                    });
                }
                Ok(response.map(|body| Guarded::new(body, self)))
            }
            Err(refused) => {
                self.refund();
                Err(refused.into())
            }
        }
    }
}

impl BodyGuard for HeldCharge {}

impl Drop for HeldCharge {
    fn drop(&mut self) {
        let Some(charge) = self.charge.take() else { return };
        let Some(record) = self.record.take() else { return charge.keep() };
        let now = self.clock.now();
        match FinalCharge::of(&record, self.status, &self.cost) {
            FinalCharge::Nothing => charge.refund(now),
            FinalCharge::Tokens(tokens) => charge.settle(tokens, now),
            FinalCharge::Reserved => charge.keep(),
        }
    }
}
