//! Tests the rule set against its definition: check every rule, and charge all or none.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::clock::Nanos;
use crate::limit::meter::{CellMark, Meter, Shortage};
use crate::limit::rule::{Algorithm, Match, Mode, OnLoss, Per, Quota, Rule};
use crate::limit::sliding_log::SlidingLog;
use crate::limit::sliding_window::SlidingWindow;
use crate::limit::token_bucket::TokenBucket;
use crate::limit::{Charge, Decision, ExpectedCost, RuleSet, Served, Subject};
use crate::refusal::Unit;
use crate::request::Class;

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let algorithm = prop_oneof![
        Just(Algorithm::TokenBucket),
        Just(Algorithm::SlidingWindow),
        Just(Algorithm::SlidingLog)
    ];
    let per = prop_oneof![
        Just(vec![Per::All]),
        Just(vec![Per::Caller]),
        Just(vec![Per::Model]),
        Just(vec![Per::Model, Per::Caller]),
    ];
    let tokens = prop_oneof![Just(Unit::Requests), Just(Unit::Tokens)];
    let mode = prop_oneof![4 => Just(Mode::Enforce), 1 => Just(Mode::Observe)];
    let model = prop_oneof![3 => Just(None), 1 => Just(Some("model-1"))];
    let rule = (algorithm, per, tokens, 1..8_u64, mode, model).prop_map(
        |(algorithm, per, unit, limit, mode, model)| {
            let limit = if unit == Unit::Tokens { limit * 10 } else { limit };
            Rule {
                name: "any".into(),
                algorithm,
                per,
                unit,
                quota: Quota { limit, period: Duration::from_secs(1), burst: limit },
                mode,
                matches: Match { model: model.map(Arc::from), ..Match::default() },
                reserve_max: false,
                on_loss: OnLoss::Share,
                max_keys: 1_000,
            }
        },
    );
    proptest::collection::vec(rule, 1..6).prop_map(|mut rules| {
        for (index, rule) in rules.iter_mut().enumerate() {
            rule.name = format!("rule-{index}").into();
        }
        rules
    })
}

#[derive(Clone, Debug)]
struct Call {
    wait: u64,
    caller: u8,
    model: u8,
    prompt: u64,
    output: u64,
    /// Outcome if it is admitted: the tokens it used, or `None` for a refund.
    used: Option<u64>,
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let wait = prop_oneof![2 => Just(0), 3 => 0..200_u64, 1 => 0..3_000_u64];
    let used = prop_oneof![1 => Just(None), 3 => (0..60_u64).prop_map(Some)];
    let call = (wait, 0..3_u8, 0..2_u8, 0..30_u64, 0..30_u64, used).prop_map(
        |(wait, caller, model, prompt, output, used)| Call { wait, caller, model, prompt, output, used },
    );
    proptest::collection::vec(call, 1..80)
}

/// A charge in the reference: rule, key, units, mark.
type Held = (usize, String, u64, CellMark);

/// One rule with its cells, by the text of the key.
enum Cells {
    Bucket(TokenBucket, HashMap<String, <TokenBucket as Meter>::Cell>),
    Window(SlidingWindow, HashMap<String, <SlidingWindow as Meter>::Cell>),
    Log(SlidingLog, HashMap<String, <SlidingLog as Meter>::Cell>),
}

macro_rules! each {
    ($cells:expr, $key:expr, |$meter:ident, $cell:ident| $body:expr) => {
        match $cells {
            Cells::Bucket($meter, cells) => {
                let $cell = cells.entry($key).or_default();
                $body
            }
            Cells::Window($meter, cells) => {
                let $cell = cells.entry($key).or_default();
                $body
            }
            Cells::Log($meter, cells) => {
                let $cell = cells.entry($key).or_default();
                $body
            }
        }
    };
}

fn cells(rule: &Rule) -> Cells {
    match rule.algorithm {
        Algorithm::TokenBucket => Cells::Bucket(TokenBucket::new(rule.quota), HashMap::new()),
        Algorithm::SlidingWindow => Cells::Window(SlidingWindow::new(rule.quota), HashMap::new()),
        Algorithm::SlidingLog => Cells::Log(SlidingLog::new(rule.quota), HashMap::new()),
    }
}

fn key(rule: &Rule, call: &Call) -> String {
    let part = |per: &Per| match per {
        Per::Caller => format!("caller {}", call.caller),
        Per::Model => format!("model {}", call.model),
        _ => String::new(),
    };
    rule.per.iter().map(part).collect()
}

/// Returns the units that the rule charges for the call; `None` for never.
fn amount(rule: &Rule, call: &Call) -> Option<u64> {
    match rule.unit {
        Unit::Requests => Some(1),
        Unit::Tokens => {
            (call.prompt <= rule.quota.limit).then(|| (call.prompt + call.output).min(rule.quota.limit))
        }
    }
}

proptest! {
    #[test]
    fn it_charges_all_or_none_and_tells_the_true_wait(
        rules in rules(), calls in calls(), patient in any::<bool>()
    ) {
        let rule_set = RuleSet::new(rules.clone());
        let mut reference: Vec<_> = rules.iter().map(cells).collect();
        let mut now = Nanos::from_secs(1_000);
        let mut under_way: Vec<(Charge, Vec<Held>, Option<u64>)> = Vec::new();
        for (index, call) in calls.iter().enumerate() {
            now = now + Duration::from_millis(call.wait);
            let (caller, model) = (format!("key:{}", call.caller), format!("model-{}", call.model));
            let subject = Subject {
                caller: &caller, team: None,
                ip: None, model: Some(&model), route: "/r", path: "/r", class: Class::Interactive,
                served: Served::AS_ASKED,
                own: None,
            };
            let cost = ExpectedCost { prompt_tokens: call.prompt, expected_output: call.output, max_output: None };

            let sees = |rule: &Rule| rule.matches.model.is_none() || call.model == 1;
            let mut short: Vec<Option<Shortage>> = Vec::new();
            for (rule, cells) in rules.iter().zip(&mut reference) {
                short.push(if !sees(rule) { None } else {
                    match amount(rule, call) {
                        None => Some(Shortage::Never),
                        Some(0) => None,
                        Some(amount) => each!(cells, key(rule, call), |meter, cell| meter.shortage(cell, amount, now)),
                    }
                });
            }
            let enforced = |index: usize| rules[index].mode == Mode::Enforce;
            let worst = (0..rules.len()).filter(|index| enforced(*index)).filter_map(|index| short[index]).max();

            match rule_set.admit(&subject, &cost, now) {
                Ok(admission) => {
                    prop_assert_eq!(worst, None, "call {} must be refused", index);
                    let mut held = Vec::new();
                    for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| sees(rule)) {
                        let expected = if short[index].is_some() { Decision::WouldRefuse } else { Decision::Allowed };
                        prop_assert!(admission.decisions.contains(&(index, expected)));
                        if let (None, Some(amount)) = (short[index], amount(rule, call)) {
                            let key = key(rule, call);
                            let mark = match amount {
                                0 => CellMark::default(),
                                _ => each!(&mut reference[index], key.clone(), |meter, cell| {
                                    meter.charge(cell, amount, now).unwrap()
                                }),
                            };
                            held.push((index, key, amount, mark));
                        }
                    }
                    under_way.push((admission.charge, held, call.used));
                }
                Err(denial) => {
                    prop_assert_eq!(denial.retry_after.map_or(Shortage::Never, Shortage::Wait), worst.unwrap());
                    prop_assert_eq!(denial.too_large, worst == Some(Shortage::Never));
                    for index in (0..rules.len()).filter(|index| sees(&rules[*index]) && enforced(*index)) {
                        let refused = denial.decisions.contains(&(index, Decision::Refused));
                        prop_assert_eq!(refused, short[index].is_some());
                    }
                    if let Some(wait) = denial.retry_after.filter(|_| patient) {
                        let again = rule_set.admit(&subject, &cost, now + wait);
                        prop_assert!(again.is_ok(), "a lone caller who waits is admitted at once");
                        // The remaining calls are earlier than this one.
                        return Ok(());
                    }
                }
            }
            if under_way.len() > 3 {
                let (charge, held, used) = under_way.remove(0);
                match used {
                    Some(used) => rule_set.settle(charge, used, now),
                    None => rule_set.refund(charge, now),
                }
                for (index, key, amount, mark) in held {
                    let actual = match rules[index].unit {
                        Unit::Requests if used.is_some() => 1,
                        _ => used.unwrap_or(0),
                    };
                    each!(&mut reference[index], key, |meter, cell| meter.correct(cell, mark, amount, actual, now));
                }
            }
        }
    }
}
