//! Explains the decisions of the rules about one request.

use std::fmt::Write;
use std::sync::Arc;

use super::charge::Decision;
use super::denial::quota_in_words;
use super::meter::{Level, Shortage};
use super::rule::{Mode, Rule};
use super::subject::Subject;

/// Status of a rule for a request.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The rule's index in [`RuleSet::rules`](super::RuleSet::rules).
    pub index: usize,
    /// The rule, with the caller's own quota if it has one.
    pub rule: Arc<Rule>,
    /// `None` if the rule does not apply to the request.
    pub seen: Option<RuleView>,
}

/// Status of a rule that applies to a request.
#[derive(Clone, Copy, Debug)]
pub struct RuleView {
    /// Units to charge; `None` if the rule can never admit this many at once.
    pub amount: Option<u64>,
    /// Level of the request's key.
    pub level: Level,
    /// Why the request does not fit; `None` if it fits.
    pub shortage: Option<Shortage>,
}

impl RuleView {
    /// Returns the decision that the rule would make.
    #[must_use]
    pub const fn decision(&self, mode: Mode) -> Decision {
        match (self.shortage, mode) {
            (None, _) => Decision::Allowed,
            (Some(_), Mode::Enforce) => Decision::Refused,
            (Some(_), Mode::Observe) => Decision::WouldRefuse,
        }
    }

    /// Returns the wait in ms, rounded up; `None` if the rule admits the request now, or never.
    #[must_use]
    pub fn wait_ms(&self) -> Option<u128> {
        match self.shortage {
            Some(Shortage::Wait(wait)) => Some(wait.as_nanos().div_ceil(1_000_000)),
            Some(Shortage::Never) | None => None,
        }
    }

    /// Returns the time until the quota is full, in ms rounded up.
    #[must_use]
    pub const fn reset_ms(&self) -> u128 {
        self.level.reset.as_nanos().div_ceil(1_000_000)
    }
}

impl Explained {
    /// Returns the key under which the rule counts the request: `caller=key:a model=m`, or `all`.
    #[must_use]
    pub fn key(&self, subject: &Subject<'_>) -> String {
        let parts = self.rule.per.iter().map(|per| match subject.part(*per) {
            Some(part) => format!("{}={part}", per.as_str()),
            None => per.as_str().to_owned(),
        });
        parts.collect::<Vec<_>>().join(" ")
    }

    /// Formats it as an item of a structured field (RFC 9651), with the actual decision if given.
    #[must_use]
    pub fn line(&self, subject: &Subject<'_>, decided: Option<Decision>) -> String {
        let mut line = String::with_capacity(192);
        text(&mut line, &self.rule.name);
        let decision = match (decided, &self.seen) {
            (Some(decision), _) => decision.as_str(),
            (None, Some(seen)) => seen.decision(self.rule.mode).as_str(),
            (None, None) => "not_matched",
        };
        line.push_str(";decision=");
        line.push_str(decision);
        for (name, words) in [("key", self.key(subject)), ("quota", quota_in_words(&self.rule))] {
            line.push(';');
            line.push_str(name);
            line.push('=');
            text(&mut line, &words);
        }
        if let Some(seen) = &self.seen {
            // Writing to a string cannot fail.
            let (limit, left) = (self.rule.capacity(), seen.level.remaining);
            write!(line, ";limit={limit};remaining={left};reset_ms={}", seen.reset_ms()).unwrap_or_default();
            for (name, number) in [("amount", seen.amount.map(u128::from)), ("wait_ms", seen.wait_ms())] {
                if let Some(number) = number {
                    write!(line, ";{name}={number}").unwrap_or_default();
                }
            }
        }
        line
    }
}

/// Appends a string of a structured field, which has printable ASCII only.
fn text(line: &mut String, words: &str) {
    line.push('"');
    for letter in words.chars() {
        match letter {
            '"' | '\\' => line.extend(['\\', letter]),
            ' '..='~' => line.push(letter),
            _ => line.push('?'),
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limit::Served;
    use crate::limit::rule::{Algorithm, Match, OnLoss, Per, Quota};
    use crate::refusal::Unit;
    use crate::request::Class;

    #[test]
    fn a_line_says_everything_and_cannot_be_broken() {
        let rule = Rule {
            name: "each".into(),
            algorithm: Algorithm::TokenBucket,
            per: vec![Per::Caller, Per::Model],
            unit: Unit::Requests,
            quota: Quota { limit: 1, period: Duration::from_secs(1), burst: 2 },
            mode: Mode::Observe,
            matches: Match::default(),
            reserve_max: false,
            on_loss: OnLoss::Share,
            max_keys: 1,
        };
        let level = Level { remaining: 0, reset: Duration::from_micros(1_500_100) };
        let shortage = Some(Shortage::Wait(Duration::from_micros(100)));
        let seen = Some(RuleView { amount: Some(1), level, shortage });
        let explained = Explained { index: 0, rule: Arc::new(rule), seen };
        let subject = Subject {
            caller: "hdr:\"ä\\",
            team: None,
            ip: None,
            model: None,
            served: Served::AS_ASKED,
            route: "/",
            path: "/",
            class: Class::Interactive,
            own: None,
        };
        let rest = "key=\"caller=hdr:\\\"?\\\\ model\";quota=\"1 request per second, burst 2\";limit=2;remaining=0;\
                    reset_ms=1501;amount=1;wait_ms=1";
        assert_eq!(explained.line(&subject, None), format!("\"each\";decision=would_refuse;{rest}"));
        let decided = Some(Decision::Allowed);
        assert_eq!(explained.line(&subject, decided), format!("\"each\";decision=allowed;{rest}"));
    }
}
