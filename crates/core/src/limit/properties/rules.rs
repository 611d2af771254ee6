//! Tests of single rules, one behaviour each.

use std::time::Duration;

use crate::clock::Nanos;
use crate::limit::rule::{Algorithm, Match, Mode, OnLoss, Per, Quota, Rule};
use crate::limit::{Admission, Decision, Denial, ExpectedCost, RuleSet, Served, Subject};
use crate::refusal::{QuotaStatus, Reason, Unit};
use crate::request::Class;

const NOW: Nanos = Nanos::from_secs(1_000);

fn rule(name: &str, per: Per, unit: Unit, limit: u64) -> Rule {
    Rule {
        name: name.into(),
        algorithm: Algorithm::TokenBucket,
        per: vec![per],
        unit,
        quota: Quota { limit, period: Duration::from_secs(1), burst: limit },
        mode: Mode::Enforce,
        matches: Match::default(),
        reserve_max: false,
        on_loss: OnLoss::Share,
        max_keys: 1_000,
    }
}

fn requests(name: &str, per: Per, limit: u64) -> Rule {
    rule(name, per, Unit::Requests, limit)
}

fn tokens(limit: u64) -> Rule {
    rule("tokens", Per::Caller, Unit::Tokens, limit)
}

fn subject(caller: &str) -> Subject<'_> {
    let class = Class::Interactive;
    Subject {
        caller,
        team: None,
        ip: None,
        model: Some("m"),
        served: Served::AS_ASKED,
        route: "/v1/chat/completions",
        path: "/v1/chat/completions",
        class,
        own: None,
    }
}

fn ask(rule_set: &RuleSet, caller: &str) -> Result<Admission, Box<Denial>> {
    rule_set.admit(&subject(caller), &ExpectedCost::default(), NOW).map_err(Box::new)
}

fn spend(
    rule_set: &RuleSet,
    prompt: u64,
    expected: u64,
    bound: Option<u64>,
) -> Result<Admission, Box<Denial>> {
    let cost = ExpectedCost { prompt_tokens: prompt, expected_output: expected, max_output: bound };
    rule_set.admit(&subject("key:a"), &cost, NOW).map_err(Box::new)
}

fn remaining(rule_set: &RuleSet, admission: &Admission) -> Vec<u64> {
    rule_set.quota_statuses(&admission.charge, NOW).iter().map(|quota| quota.remaining).collect()
}

#[test]
fn a_greedy_caller_takes_nothing_of_what_all_share() {
    // The wide rule is first in the file and last in the evaluation.
    let rule_set = RuleSet::new(vec![requests("all", Per::All, 35), requests("each", Per::Caller, 5)]);
    let greedy = (0..100).filter(|_| ask(&rule_set, "key:greedy").is_ok()).count();
    let polite = (0..5).filter(|_| ask(&rule_set, "key:polite").is_ok()).count();
    assert_eq!((greedy, polite), (5, 5));
    let admission = ask(&rule_set, "key:third").unwrap();
    assert_eq!(remaining(&rule_set, &admission), [4, 24], "narrow first; the wide rule paid for 11 calls");
}

#[test]
fn a_denial_names_the_longest_wait_and_how_the_rules_stand() {
    let slow = Rule {
        quota: Quota { limit: 1, period: Duration::from_secs(60), burst: 1 },
        ..requests("slow", Per::All, 1)
    };
    let rule_set = RuleSet::new(vec![requests("each", Per::Caller, 1), slow]);
    ask(&rule_set, "key:a").unwrap();
    let denial = ask(&rule_set, "key:a").unwrap_err();
    assert_eq!((denial.rule, denial.retry_after), (1, Some(Duration::from_secs(60))));
    assert_eq!(denial.decisions[..], [(0, Decision::Refused), (1, Decision::Refused)]);
    let second = Duration::from_secs(1);
    let quota = |rule: &str, length| QuotaStatus {
        rule: rule.into(),
        unit: Unit::Requests,
        limit: 1,
        remaining: 0,
        reset: length,
        window: length,
    };
    let refusal = denial.into_refusal();
    assert_eq!(refusal.quotas, [quota("each", second), quota("slow", second * 60)]);
    assert_eq!(refusal.reason, Reason::RateLimited);
    assert!(refusal.message.contains("'slow'") && refusal.message.contains("60 s"), "{}", refusal.message);
}

#[test]
fn a_rule_that_observes_counts_but_never_refuses() {
    let watching = Rule { mode: Mode::Observe, ..requests("watching", Per::Caller, 2) };
    let rule_set = RuleSet::new(vec![watching, requests("all", Per::All, 5)]);
    let mut said = Vec::new();
    for _ in 0..5 {
        let admission = ask(&rule_set, "key:a").unwrap();
        said.push(admission.decisions[0]);
        assert_eq!(remaining(&rule_set, &admission).len(), 1, "headers speak of enforced rules only");
    }
    let (allowed, would_refuse) = ((0, Decision::Allowed), (0, Decision::WouldRefuse));
    assert_eq!(said, [allowed, allowed, would_refuse, would_refuse, would_refuse]);
    let denial = ask(&rule_set, "key:b").unwrap_err();
    assert_eq!(denial.decisions[..], [(0, Decision::Allowed), (1, Decision::Refused)]);
    assert_eq!(denial.quotas.len(), 1);
}

#[test]
fn tokens_are_reserved_by_the_smaller_of_bound_and_expectation() {
    let rule_set = RuleSet::new(vec![tokens(1_000)]);
    for (bound, left) in [(None, 880), (Some(50), 930), (Some(500), 880)] {
        let admission = spend(&rule_set, 20, 100, bound).unwrap();
        assert_eq!(remaining(&rule_set, &admission), [left], "bound {bound:?}");
        rule_set.refund(admission.charge, NOW);
    }
    let strict = RuleSet::new(vec![Rule { reserve_max: true, ..tokens(1_000) }]);
    let admission = spend(&strict, 20, 100, Some(500)).unwrap();
    assert_eq!(remaining(&strict, &admission), [480]);
    assert_eq!(remaining(&strict, &spend(&strict, 20, 100, None).unwrap()), [360], "no bound to reserve");
}

#[test]
fn an_output_beyond_the_burst_becomes_debt_and_a_prompt_beyond_it_never_passes() {
    let rule_set = RuleSet::new(vec![tokens(100)]);
    let admission = spend(&rule_set, 90, 500, None).unwrap();
    assert_eq!(remaining(&rule_set, &admission), [0]);
    rule_set.settle(admission.charge, 590, NOW);
    let denial = spend(&rule_set, 100, 0, None).unwrap_err();
    assert_eq!(denial.retry_after, Some(Duration::from_millis(5_900)), "490 of debt and 100 to save up");
    assert_eq!(denial.into_refusal().reason, Reason::TokenLimited);
    let denial = spend(&rule_set, 101, 0, None).unwrap_err();
    assert!(denial.too_large && denial.retry_after.is_none());
    assert_eq!(denial.into_refusal().reason, Reason::RequestTooLarge);
    assert!(spend(&rule_set, 0, 0, None).is_ok(), "what costs no tokens passes a caller in debt");
}

#[test]
fn settling_corrects_tokens_and_leaves_requests() {
    let rule_set = RuleSet::new(vec![requests("requests", Per::Caller, 10), tokens(1_000)]);
    let admission = spend(&rule_set, 100, 200, None).unwrap();
    rule_set.settle(admission.charge, 150, NOW);
    let admission = spend(&rule_set, 50, 0, None).unwrap();
    assert_eq!(remaining(&rule_set, &admission), [8, 800]);
}

#[test]
fn a_reload_keeps_the_counts_of_unchanged_quotas() {
    let rule_set = RuleSet::new(vec![
        requests("kept", Per::Caller, 10),
        requests("changed", Per::Caller, 10),
        tokens(1_000),
    ]);
    let admission = spend(&rule_set, 100, 100, None).unwrap();
    let observed = Rule { mode: Mode::Observe, max_keys: 5, ..tokens(1_000) };
    let reloaded = rule_set.rebuilt(vec![
        observed,
        requests("changed", Per::Caller, 20),
        requests("kept", Per::Caller, 10),
    ]);
    assert_eq!(remaining(&reloaded, &spend(&reloaded, 0, 0, None).unwrap()), [19, 8]);
    // The new rule set settles an earlier charge; parts of removed counts are dropped.
    reloaded.refund(admission.charge, NOW);
    let enforced = reloaded.rebuilt(vec![
        tokens(1_000),
        requests("changed", Per::Caller, 20),
        requests("kept", Per::Caller, 10),
    ]);
    assert_eq!(remaining(&enforced, &spend(&enforced, 0, 0, None).unwrap()), [1_000, 18, 8]);
}

#[test]
fn a_reload_that_changes_what_is_counted_starts_whole() {
    let rule = || requests("rule", Per::Caller, 10);
    let rule_set = RuleSet::new(vec![rule()]);
    ask(&rule_set, "key:a").unwrap();
    for (changed, left) in [
        (rule(), 8),
        (Rule { name: "other".into(), ..rule() }, 9),
        (Rule { per: vec![Per::Model], ..rule() }, 9),
        (Rule { algorithm: Algorithm::SlidingWindow, ..rule() }, 9),
        (Rule { unit: Unit::Tokens, ..rule() }, 10),
    ] {
        let reloaded = rule_set.rebuilt(vec![changed.clone()]);
        assert_eq!(remaining(&reloaded, &ask(&reloaded, "key:a").unwrap()), [left], "{changed:?}");
    }
}

#[test]
fn requests_that_no_rule_sees_are_told_apart() {
    let other = Match { model: Some("other-*".into()), ..Match::default() };
    let rule_set = RuleSet::new(vec![Rule { matches: other, ..requests("other", Per::Model, 1) }]);
    let admission = ask(&rule_set, "key:a").unwrap();
    assert!(!admission.matched && admission.decisions.is_empty());
    assert_eq!(rule_set.keys().collect::<Vec<_>>(), [(0, 0)]);
}

#[test]
fn distinct_callers_stay_within_the_bound() {
    let rule_set = RuleSet::new(vec![
        Rule { max_keys: 500, ..requests("each", Per::Caller, 1) },
        requests("all", Per::All, 1_000),
    ]);
    let admitted = (0..100_000).filter(|index| ask(&rule_set, &format!("hdr:{index}")).is_ok()).count();
    assert_eq!(admitted, 501, "a call for each key, and one for all the others");
    assert_eq!(rule_set.keys().collect::<Vec<_>>(), [(0, 500), (1, 1)]);
}

#[test]
fn a_teams_quota_lies_around_its_members_and_not_around_others() {
    let rule_set = RuleSet::new(vec![requests("team", Per::Team, 3), requests("each", Per::Caller, 2)]);
    let ask = |caller, team| {
        let subject = Subject { team, ..subject(caller) };
        let denial = rule_set.admit(&subject, &ExpectedCost::default(), NOW).map(|_| ());
        denial.map_err(|denial| denial.into_refusal().message)
    };
    assert!(ask("key:a", Some("red")).is_ok() && ask("key:a", Some("red")).is_ok());
    assert!(ask("key:a", Some("red")).is_err_and(|message| message.contains("allows each caller 2")));
    assert!(ask("key:b", Some("red")).is_ok());
    assert!(ask("key:b", Some("red")).is_err_and(|message| message.contains("allows each team 3")));
    assert!(ask("key:c", Some("blue")).is_ok() && ask("key:d", None).is_ok());
    assert_eq!(
        rule_set.keys().find(|(rule, _)| *rule == 0),
        Some((0, 2)),
        "who has no team has no part in it"
    );
}
