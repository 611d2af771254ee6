//! A request that a rule refused, and the message to its caller.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use super::charge::Decisions;
use super::retry_queue::{RetryQueueKey, RetryTurn};
use super::rule::{Algorithm, Per, Rule};
use crate::refusal::{QuotaStatus, Reason, Refusal, Unit};

/// A refused request. No quota was charged.
#[derive(Debug)]
pub struct Denial {
    /// Index of the refusing rule with the longest wait in
    /// [`RuleSet::rules`](super::rule_set::RuleSet::rules).
    pub rule: usize,
    /// Time until every rule would admit the same request, if no other request comes meanwhile;
    /// `None` if waiting does not help.
    pub retry_after: Option<Duration>,
    /// `true` if the request needs more than the rule ever admits at once.
    pub too_large: bool,
    /// Quota status of the enforced rules that apply to the request.
    pub quotas: Vec<QuotaStatus>,
    /// Decision of each rule that was asked.
    pub decisions: Decisions,
    /// The refusing rule.
    pub refused_by: Arc<Rule>,
    /// Estimated prompt tokens of the request.
    pub prompt_tokens: u64,
    /// Units that the request needs from the refusing rule.
    pub amount: u64,
    /// Retry queue of the refusing rule; `None` if there is none to join.
    pub line: Option<RetryQueueKey>,
}

impl Denial {
    /// Returns the unit of the refusing rule.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.refused_by.unit
    }

    /// Returns its entry for one of `gateways` retry queues; `None` if waiting does not help.
    #[must_use]
    pub fn turn(&self, gateways: u32) -> Option<RetryTurn> {
        let rule = &self.refused_by;
        Some(RetryTurn {
            amount: self.amount,
            own: self.retry_after?,
            capacity: rule.capacity(),
            refill: rule.window(),
            gateways,
        })
    }

    /// Converts it to a refusal that names the rule, its quota and the time to retry.
    #[must_use]
    pub fn into_refusal(self) -> Refusal {
        let rule = &*self.refused_by;
        let (name, quota) = (&rule.name, quota_in_words(rule));
        if self.too_large {
            let prompt = self.prompt_tokens;
            let message = format!(
                "The prompt of about {prompt} tokens is more than rule '{name}' ever admits at once ({quota}). \
                 Shorten the prompt."
            );
            return Refusal::new(Reason::RequestTooLarge, message).with_quotas(self.quotas);
        }
        let reason = match rule.unit {
            Unit::Requests => Reason::RateLimited,
            Unit::Tokens => Reason::TokenLimited,
        };
        let wait = self.retry_after.unwrap_or_default();
        let scope = scope_in_words(rule);
        let asked = match rule.unit {
            Unit::Requests => String::new(),
            Unit::Tokens => self.reservation_in_words(),
        };
        let message =
            format!("Rule '{name}' allows {scope} {quota}.{asked} Retry in {}.", wait_in_words(wait));
        Refusal::new(reason, message).with_retry_after(wait).with_quotas(self.quotas)
    }
}

impl Denial {
    /// Describes the reservation, since "187 remaining" alone does not explain a refusal.
    fn reservation_in_words(&self) -> String {
        let (amount, prompt) = (self.amount, self.prompt_tokens.min(self.amount));
        let answer = amount - prompt;
        format!(" This request reserves {amount}: about {prompt} for its prompt and {answer} for its answer.")
    }
}

/// Describes the quota of a rule: "10 requests per second, burst 20".
#[must_use]
pub fn quota_in_words(rule: &Rule) -> String {
    let limit = rule.quota.limit;
    let unit = rule.unit.as_str();
    let unit = if limit == 1 { unit.trim_end_matches('s') } else { unit };
    let mut words = format!("{limit} {unit} per {}", period_in_words(rule.quota.period));
    if rule.algorithm == Algorithm::TokenBucket {
        // Writing to a string cannot fail.
        write!(words, ", burst {}", rule.quota.burst).unwrap_or_default();
    }
    words
}

fn period_in_words(period: Duration) -> String {
    let millis = period.as_millis();
    for (name, length) in [("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1_000)] {
        if millis > 0 && millis.is_multiple_of(length) {
            return match millis / length {
                1 => name.to_owned(),
                several => format!("{several} {name}s"),
            };
        }
    }
    format!("{millis} ms")
}

fn scope_in_words(rule: &Rule) -> String {
    let parts = rule.per.iter().filter_map(|per| match per {
        Per::Caller => Some("caller"),
        Per::Team => Some("team"),
        Per::Ip => Some("address"),
        Per::Model => Some("model"),
        Per::Route => Some("route"),
        Per::All => None,
    });
    match parts.collect::<Vec<_>>().join(" and ") {
        parts if parts.is_empty() => "all callers together".to_owned(),
        parts => format!("each {parts}"),
    }
}

/// Rounds up, so that a caller who waits this long has waited enough.
fn wait_in_words(wait: Duration) -> String {
    let millis = wait.as_nanos().div_ceil(1_000_000);
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => {
            let tenths = millis.div_ceil(100);
            format!("{}.{} s", tenths / 10, tenths % 10)
        }
        _ => format!("{} s", millis.div_ceil(1_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::rule::{Match, Mode, OnLoss, Quota};

    fn rule(algorithm: Algorithm, per: &[Per], unit: Unit, limit: u64, period: Duration) -> Rule {
        Rule {
            name: "r".into(),
            algorithm,
            per: per.to_vec(),
            unit,
            quota: Quota { limit, period, burst: 20 },
            mode: Mode::Enforce,
            matches: Match::default(),
            reserve_max: false,
            on_loss: OnLoss::Share,
            max_keys: 10,
        }
    }

    fn message(rule: Rule, retry_after: Option<Duration>) -> Refusal {
        let too_large = retry_after.is_none();
        let (quotas, decisions) = (Vec::new(), Decisions::new());
        let refused_by = Arc::new(rule);
        Denial {
            rule: 0,
            retry_after,
            too_large,
            quotas,
            decisions,
            refused_by,
            prompt_tokens: 99,
            amount: 355,
            line: None,
        }
        .into_refusal()
    }

    #[test]
    fn a_refusal_names_rule_quota_and_wait() {
        let second = Duration::from_secs(1);
        let bucket = rule(Algorithm::TokenBucket, &[Per::Caller], Unit::Requests, 10, second);
        let refusal = message(bucket, Some(Duration::from_nanos(79_000_001)));
        assert_eq!(refusal.reason, Reason::RateLimited);
        assert_eq!(refusal.retry_after, Some(Duration::from_nanos(79_000_001)));
        assert_eq!(
            refusal.message,
            "Rule 'r' allows each caller 10 requests per second, burst 20. Retry in 80 ms."
        );

        let window = rule(Algorithm::SlidingWindow, &[Per::Caller, Per::Model], Unit::Tokens, 1, second * 90);
        let refusal = message(window, Some(Duration::from_millis(59_901)));
        assert_eq!(refusal.reason, Reason::TokenLimited);
        assert_eq!(
            refusal.message,
            "Rule 'r' allows each caller and model 1 token per 90 seconds. This request reserves 355: about 99 for \
             its prompt and 256 for its answer. Retry in 60.0 s."
        );

        let all = rule(Algorithm::SlidingLog, &[Per::All], Unit::Requests, 5, second * 3_600);
        let refusal = message(all, Some(second * 61));
        assert_eq!(
            refusal.message,
            "Rule 'r' allows all callers together 5 requests per hour. Retry in 61 s."
        );
    }

    #[test]
    fn what_can_never_pass_is_not_told_to_wait() {
        let bucket =
            rule(Algorithm::TokenBucket, &[Per::Caller], Unit::Tokens, 10, Duration::from_millis(1_500));
        let refusal = message(bucket, None);
        assert_eq!((refusal.reason, refusal.retry_after), (Reason::RequestTooLarge, None));
        assert_eq!(
            refusal.message,
            "The prompt of about 99 tokens is more than rule 'r' ever admits at once (10 tokens per 1500 ms, burst 20). \
             Shorten the prompt."
        );
    }
}
