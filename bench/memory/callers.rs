//! A million live callers in a set of four rules: two per caller, one per address, one for all.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use traffic_dam::clock::Nanos;
use traffic_dam::limit::rule::{Algorithm, Match, Mode, OnLoss, Per, Quota, Rule};
use traffic_dam::limit::{ExpectedCost, RuleSet, Served, Subject};
use traffic_dam::refusal::Unit;
use traffic_dam::request::Class;

const CALLERS: u32 = 1_000_000;
const KIB: u64 = 1024;

fn rule(name: &str, per: Per, unit: Unit, algorithm: Algorithm) -> Rule {
    // Nothing is refused, and no key expires meanwhile.
    let limit = 1_000_000_000;
    Rule {
        name: name.into(),
        algorithm,
        per: vec![per],
        unit,
        quota: Quota { limit, period: Duration::from_secs(3600), burst: limit },
        mode: Mode::Enforce,
        matches: Match::default(),
        reserve_max: false,
        on_loss: OnLoss::Share,
        max_keys: CALLERS as usize,
    }
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0_u64) * KIB
}

#[expect(clippy::print_stdout, reason = "the script reads the figure from there")]
pub(super) fn run() {
    let before = resident();
    let rules = RuleSet::new(vec![
        rule("caller-burst", Per::Caller, Unit::Requests, Algorithm::TokenBucket),
        rule("caller-minute", Per::Caller, Unit::Tokens, Algorithm::SlidingWindow),
        rule("address", Per::Ip, Unit::Requests, Algorithm::TokenBucket),
        rule("all", Per::All, Unit::Requests, Algorithm::TokenBucket),
    ]);
    let cost = ExpectedCost { prompt_tokens: 20, expected_output: 30, max_output: None };
    let admitted = (0..CALLERS).filter(|number| {
        let subject = Subject {
            caller: &format!("key:{number:08x}"),
            team: None,
            ip: Some(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | number))),
            model: Some("model"),
            served: Served::AS_ASKED,
            route: "/v1/*",
            path: "/v1/chat/completions",
            class: Class::Interactive,
            own: None,
        };
        rules.admit(&subject, &cost, Nanos::from_secs(1)).is_ok()
    });
    let admitted = admitted.count();
    println!("{admitted} {}", resident().saturating_sub(before) / (KIB * KIB));
}
