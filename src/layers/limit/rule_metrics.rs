//! Metrics of rules: what they decided, and how much of their quotas is used.

use std::sync::Arc;

use crate::limit::{Decision, RuleSet};
use crate::metrics::{self, Metrics};
use crate::refusal::QuotaStatus;

/// Metrics of the rules of a rule set, by rule index.
#[derive(Debug)]
pub(crate) struct RuleMetrics {
    metrics: Arc<Metrics>,
    rules: Vec<Arc<metrics::RuleSeries>>,
    names: Vec<Arc<str>>,
}

impl RuleMetrics {
    /// Looks up the metrics of each rule of `rules`.
    #[must_use]
    pub(crate) fn new(metrics: Arc<Metrics>, rule_set: &RuleSet) -> Self {
        let rules = rule_set.rules().iter().map(|rule| metrics.rule(&rule.name)).collect();
        let names = rule_set.rules().iter().map(|rule| Arc::clone(&rule.name)).collect();
        Self { metrics, rules, names }
    }

    /// Counts the decisions on a request of `caller`. A refusal that a rule in mode `observe` would
    /// have made is logged too, to show it for all callers; the metric names only some.
    pub(super) fn count(&self, decisions: &[(usize, Decision)], caller: &str) {
        for (index, decision) in decisions {
            let (Some(rule), Some(name)) = (self.rules.get(*index), self.names.get(*index)) else { continue };
            match decision {
                Decision::Allowed => rule.allowed(),
                Decision::Refused => {
                    rule.refused();
                    rule.used(1.0, caller);
                }
                Decision::WouldRefuse => {
                    rule.would_refuse(caller);
                    rule.used(1.0, caller);
                    tracing::info!(rule = &**name, caller, "the rule would have refused the request");
                }
            }
        }
        if decisions.is_empty() {
            self.metrics.unmatched_request();
        }
    }

    /// Records the used share of each quota after a request of `caller`.
    pub(super) fn record_usage(&self, quotas: &[QuotaStatus], caller: &str) {
        for quota in quotas {
            // A linear search: there are few rules.
            let index = self.names.iter().position(|name| *name == quota.rule);
            if let Some(rule) = index.and_then(|index| self.rules.get(index)) {
                let left = quota.remaining as f64 / quota.limit.max(1) as f64;
                rule.used(1.0 - left, caller);
            }
        }
    }
}
