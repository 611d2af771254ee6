//! Every file in `tests/scenarios` gives its stated result with many seeds; runs repeat exactly.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test's own helpers, which clippy does not see as tests"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use proptest::prelude::*;
use traffic_dam::config::{self, ConfigErrors};
use traffic_dam_lab::simulate::{Capacity, Policy, Scenario, SimulatedRun, batch, run, table};

/// Seeds per scenario.
const SEEDS: u64 = 20;

fn scenarios() -> Vec<Scenario> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("the folder is readable").flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Scenario {
    config::scenario(path).unwrap_or_else(|faults| panic!("{faults}"))
}

fn parse(text: &str) -> Result<Scenario, ConfigErrors> {
    config::scenario_from(text.as_bytes(), Path::new("x.yaml"))
}

#[test]
fn every_scenario_comes_out_as_expected() {
    let scenarios = scenarios();
    assert!(scenarios.len() > 20, "only {} scenarios were read", scenarios.len());
    let mut text = table::header();
    let mut misses = Vec::new();
    for scenario in &scenarios {
        assert!(!scenario.expect.is_empty(), "{} expects nothing", scenario.name);
        let outcomes = batch(scenario, &[scenario.dam.law], 1..SEEDS + 1);
        text += &table::rows(scenario, &outcomes);
        misses.extend(table::misses(scenario, &outcomes));
    }
    println!("{text}");
    assert!(misses.is_empty(), "\n{text}\n{} misses:\n{}", misses.len(), misses.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_does_not() {
    let text = "
duration: 20s
warm_up: 2s
workers: [{ count: 3, slots: 16 }]
dam: { count: 2 }
load: { times: 3.0, retry_share: 0.5 }
requests: { streamed: 0.7, n_share: 0.1 }
callers:
  - { name: service, class: critical, count: 3, share: 0.2 }
  - { name: report, class: batch }
events:
  - { at: 8s, kill: w2, kv: 0.5 }
  - { at: 12s, zombie: w1, revive: w2, output: 2.0 }
";
    let scenario = parse(text).expect("the scenario is sound");
    let capacity = Capacity::measure(&scenario);
    for policy in Policy::ALL {
        let once = run(&scenario, policy, 7, &capacity);
        assert_eq!(once, run(&scenario, policy, 7, &capacity));
        assert_ne!(once.seconds, run(&scenario, policy, 8, &capacity).seconds);
        assert_eq!(once.defects, [""; 0], "{policy}");
        assert!(once.figures.offered > 0 && once.figures.good > 0, "{policy}: {:?}", once.figures);
    }
}

/// Returns the mean of a figure over runs of the scenario.
fn mean(runs: &[SimulatedRun], name: &str) -> f64 {
    let values: Vec<f64> = runs.iter().filter_map(|run| run.figures.get(name)).collect();
    assert_eq!(values.len(), runs.len(), "a run has no {name}");
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn conversations_get_their_first_tokens_earlier_where_they_were_before() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    for name in ["conversations", "conversations-common-system", "agents"] {
        let mut scenario = read(&folder.join(format!("{name}.yaml")));
        let policy = [scenario.dam.law];
        let chosen = batch(&scenario, &policy, 1..SEEDS + 1);
        scenario.dam.prefix = false;
        let two_choices = batch(&scenario, &policy, 1..SEEDS + 1);
        for run in chosen.iter().chain(&two_choices) {
            assert_eq!(run.defects, [""; 0], "{name}");
        }
        let figures = |name| (mean(&chosen, name), mean(&two_choices, name));
        for figure in ["hit_ratio", "ttft_p50", "ttft_p99", "ttft_first_p50", "ttft_first_p99"] {
            let (by_prefix, without) = figures(figure);
            println!("{name}: {figure} {by_prefix:.4}, with two choices {without:.4}");
        }
        let (by_prefix, without) = figures("ttft_p50");
        assert!(by_prefix <= 0.6 * without, "{name}: p50 {by_prefix} and {without} s");
        let (by_prefix, without) = figures("ttft_first_p99");
        assert!(by_prefix <= without, "{name}: p99 of first turns {by_prefix} and {without} s");
        let (by_prefix, without) = figures("hit_ratio");
        assert!(by_prefix > without, "{name}: hits {by_prefix} and {without}");
        let (by_prefix, without) = figures("goodput_of_offered");
        assert!(by_prefix >= without, "{name}: good {by_prefix} and {without}");
    }
}

#[test]
fn a_caller_of_three_gateways_has_one_share_where_they_tell_each_other() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    for load in ["2x", "10x", "untold-2x", "untold-10x"] {
        let mut scenario = read(&folder.join(format!("greedy-at-three-gateways-{load}.yaml")));
        let policy = [scenario.dam.law];
        let together = batch(&scenario, &policy, 1..SEEDS + 1);
        scenario.dam.exchange = false;
        let alone = batch(&scenario, &policy, 1..SEEDS + 1);
        let figures = |name| (mean(&together, name), mean(&alone, name));
        for figure in ["light_share", "jain", "goodput_of_peak", "ttft_p99"] {
            let Some(_) = alone.first().and_then(|run| run.figures.get(figure)) else { continue };
            let (together, alone) = figures(figure);
            println!("{load}: {figure} {together:.3}, without an exchange {alone:.3}");
        }
        let (together, alone) = figures("light_share");
        assert!(together > alone, "{load}: {together} and {alone}");
    }
}

#[test]
fn clients_that_are_told_to_wait_too_long_do_not_come_back() {
    let kept = |patience: &str| {
        let text = format!(
            "duration: 12s\nwarm_up: 0s\nload: {{ times: 5.0, retry_share: 1.0{patience} }}\n\
             events: [{{ at: 2s, times: 0.4 }}]"
        );
        let scenario = parse(&text).expect("it is sound");
        run(&scenario, Policy::Slots, 1, &Capacity::measure(&scenario)).figures
    };
    let figures = kept("");
    assert!(figures.retry_kept.is_some() && figures.retry_wait.is_some_and(|wait| wait > 0.5), "{figures:?}");
    assert_eq!(kept(", patience: 1ms").retry_kept, None);
}

#[test]
fn what_is_wrong_with_a_scenario_is_named() {
    for (text, fault) in [
        ("laod: 1", "x.yaml:1:1: laod: unknown key; did you mean `load`?"),
        ("load:\n  times: -1.0", "x.yaml:2:10: load.times: must be a number from 0 to 1000000; found -1.0"),
        ("load: { times: 1.0, rate: 2.0 }", "load.rate: cannot be combined with `times`"),
        ("duration: 60", "duration: must be a number of us, ms, s, m or h, such as `300us` or `1.5s`"),
        ("warm_up: 60s", "x.yaml:1:10: warm_up: must be shorter than `duration`; found \"60s\""),
        ("duration: 2h", "duration: must be 1s to 60m"),
        ("workers:\n  - slots: 0", "x.yaml:2:12: workers[0].slots: must be a whole number from 1 to 16384"),
        ("workers: [{ token_time: 1us, token_time_per_seq: 0s }]", "workers[0].token_time: is too short"),
        ("workers: []", "workers: must be 1 to 10000 in all, not 0"),
        (
            "requests: { output: { mean: 100, pareto: 1.0 } }",
            "requests.output.pareto: must be a number from 1.01",
        ),
        ("requests: { output: { mean: 9, pareto: 2.0, sigma: 1.0 } }", "give `sigma` or `pareto`, not both"),
        (
            "requests: { prompt: long }",
            "requests.prompt: must be a whole number from 1 to 1000000, or a mapping",
        ),
        ("requests: { session: {}, n_share: 0.1 }", "requests.n_share: must be 0 with `session`"),
        ("events: [{ at: 1s, kill: w2 }]", "events[0].kill: must be one of w1 to w1; found \"w2\""),
        ("callers: [{ share: 0.5 }]", "must be 1, or one group must leave out `share`"),
        ("callers: [{ gateway: 2 }]", "callers[0].gateway: must be at most `dam.count`"),
        ("callers: [{ class: urgent }]", "callers[0].class: must be `batch`, `interactive` or `critical`"),
        ("dam: { law: guess }", "dam.law: must be "),
        ("events: [{ at: 1s, shares: { x: 0.5 } }]", "events[0].shares.x: is no group of callers"),
        ("events: [{ at: 1s, shares: { caller: 2.0 } }]", "events[0].shares.caller: must be 0 to 1, not 2"),
        ("expect_mean: { speed: \">= 1\" }", "expect_mean.speed: is not a figure"),
        ("expect: { speed: \">= 1\" }", "expect.speed: is not a figure"),
        ("expect: { jain: high }", "expect.jain: must be a range"),
    ] {
        let problem = parse(text).expect_err(text).to_string();
        assert!(problem.contains(fault), "{text}: {problem}");
    }
}

#[test]
fn the_documented_scenarios_are_sound_and_the_defaults_are_those_that_are_told() {
    let text = include_str!("../docs/simulation.md");
    let blocks: Vec<&str> = text
        .split("```yaml scenario\n")
        .skip(1)
        .map(|rest| rest.split_once("```").expect("every block ends").0)
        .collect();
    let parsed: Vec<Scenario> =
        blocks.iter().map(|block| parse(block).unwrap_or_else(|fault| panic!("{block}\n{fault}"))).collect();
    let [_, all, _] = &parsed[..] else { panic!("{} blocks", parsed.len()) };
    let mut defaults = parse("").expect("an empty file is a scenario");
    // The default is 1× the capacity, which a file can only give as a number.
    defaults.load.times = Some(1.0);
    assert_eq!(format!("{all:#?}"), format!("{defaults:#?}"));
}

fn simulate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_traffic-dam"))
        .arg("simulate")
        .args(arguments)
        .output()
        .expect("the program runs")
}

#[test]
fn the_command_prints_a_table_and_writes_the_seconds_and_a_picture() {
    let folder = tempfile::tempdir().expect("a folder for the files");
    let path = |name: &str| folder.path().join(name).to_str().expect("paths are text").to_owned();
    let (short, csv, svg) = (path("short.yaml"), path("out.csv"), path("out.svg"));
    fs::write(&short, "duration: 8s\nwarm_up: 2s\nload: { times: 3.0 }").expect("writable");
    let files = ["--csv", &csv, "--plot", &svg];
    let output =
        simulate(&[&["--scenario", short.as_str(), "--compare", "--seeds", "2"][..], &files].concat());
    let table = String::from_utf8(output.stdout).expect("a table is text");
    assert!(output.status.success(), "{table}");
    assert_eq!(table.lines().count(), 1 + Policy::ALL.len(), "{table}");
    for (line, policy) in table.lines().skip(1).zip(Policy::ALL) {
        assert!(line.starts_with("short ") && line.contains(&format!(" {policy} ")), "{line}");
    }
    let seconds = fs::read_to_string(csv).expect("it was written");
    assert_eq!(seconds.lines().count(), 1 + Policy::ALL.len() * 2 * 8);
    let picture = fs::read_to_string(svg).expect("it was written");
    assert!(picture.starts_with("<svg ") && picture.contains("gradient2"));

    fs::write(&short, "load: { times: 0.5 }\nexpect: { refused: \">= 1000000\" }").expect("writable");
    let output = simulate(&["--scenario", &short, "--seeds", "1"]);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{problem}");
    assert!(problem.contains("short · stream · refused must be >= 1000000 and is "), "{problem}");

    fs::write(&short, "load: { times: 0.5 }\nexpect_mean: { refused: \">= 1000000\" }").expect("writable");
    let output = simulate(&["--scenario", &short, "--seeds", "2"]);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{problem}");
    assert!(problem.contains("short · stream · refused must be >= 1000000 on average and is "), "{problem}");

    fs::write(&short, "load:\n  time: 0.5").expect("writable");
    let output = simulate(&["--scenario", &short]);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{problem}");
    assert!(problem.contains("short.yaml:2:3: load.time: unknown key; did you mean `times`?"), "{problem}");
}

/// Returns an event at some second, for one of three workers or for all.
fn event() -> impl Strategy<Value = String> {
    let what = prop_oneof![
        (1..4).prop_map(|worker| format!("kill: w{worker}")),
        (1..4).prop_map(|worker| format!("zombie: w{worker}")),
        (1..4).prop_map(|worker| format!("revive: w{worker}")),
        (0.02..1.0).prop_map(|share| format!("kv: {share:.2}")),
        (0.2..4.0).prop_map(|factor| format!("output: {factor:.1}")),
        (0.0..8.0).prop_map(|times| format!("times: {times:.1}")),
        (1..60_000).prop_map(|prompt| format!("request: {{ prompt: {prompt} }}")),
    ];
    (0..8, what).prop_map(|(second, what)| format!("  - {{ at: {second}s, {what} }}\n"))
}

/// Three small workers, and random events.
fn misfortune(events: &str, gateways: u32, times: f64, streamed: f64) -> Scenario {
    let events = if events.is_empty() { String::new() } else { format!("events:\n{events}") };
    let text = format!(
        "duration: 8s\nwarm_up: 1s\n{events}\
         workers: [{{ count: 3, slots: 6, kv_tokens: 4096 }}]\n\
         dam: {{ count: {gateways}, first_token: 2s, idle: 3s, total: 8s, reserve_critical: 0.1 }}\n\
         load: {{ times: {times:.2}, retry_share: 0.5, honour: 0.5 }}\n\
         requests: {{ streamed: {streamed:.2}, n_share: 0.1, output: 40 }}\n\
         callers:\n  - {{ class: critical, count: 2, share: 0.2 }}\n  - {{ class: batch, count: 2, share: 0.4 }}\n  - {{}}\n",
    );
    parse(&text).expect("it is sound")
}

/// Once, a request that lost its permit to a critical one was ended as if still at its hung worker.
#[test]
fn who_lost_its_seat_is_not_given_up_at_the_worker_that_it_left() {
    let event = |at: u32, what: &str| format!("  - {{ at: {at}s, {what} }}\n");
    let events = [event(4, "zombie: w2"), event(4, "kill: w3"), event(2, "revive: w2")].concat();
    let policy = "aimd".parse().expect("a law");
    for seed in 860..870 {
        let scenario = misfortune(&events, 3, 1.02, 0.93);
        let outcome = run(&scenario, policy, seed, &Capacity::measure(&scenario));
        assert_eq!(outcome.defects, [""; 0], "{seed}");
    }
}

/// Once, a permit that was revoked before its owner knew of it was never returned.
#[test]
fn a_seat_that_is_lost_before_it_is_known_leaves_nothing_behind() {
    let event = |at: u32, what: &str| format!("  - {{ at: {at}s, {what} }}\n");
    let events = [event(2, "kv: 0.57"), event(1, "kv: 0.28"), event(0, "kill: w1"), event(0, "kill: w2")];
    let scenario = misfortune(&events.concat(), 3, 2.406_986_022_622_999_3, 0.0);
    let capacity = Capacity::measure(&scenario);
    for seed in [297, 444, 493, 675, 716, 813, 927, 967] {
        assert_eq!(run(&scenario, Policy::Slots, seed, &capacity).defects, [""; 0], "{seed}");
    }
}

/// Once, a request that lost two answers failed twice: it waited for a worker and was over.
#[test]
fn a_request_that_loses_several_answers_at_once_fails_once() {
    let event = |at: u32, what: &str| format!("  - {{ at: {at}s, {what} }}\n");
    let scenario = misfortune(&[event(0, "output: 3.0"), event(2, "kv: 0.15")].concat(), 2, 1.16, 0.0);
    let capacity = Capacity::measure(&scenario);
    for seed in [71, 102, 131] {
        assert_eq!(run(&scenario, Policy::Slots, seed, &capacity).defects, [""; 0], "{seed}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_request_ends_once_and_the_gates_are_empty(
        events in proptest::collection::vec(event(), 0..8),
        policy in proptest::sample::select(Policy::ALL.to_vec()),
        (gateways, times, streamed) in (1_u32..4, 0.5..6.0, 0.0..1.0),
        seed in 0_u64..1000,
    ) {
        let scenario = misfortune(&events.concat(), gateways, times, streamed);
        let outcome = run(&scenario, policy, seed, &Capacity::measure(&scenario));
        prop_assert_eq!(&outcome.defects, &[""; 0]);
        let figures = &outcome.figures;
        prop_assert!(figures.good + figures.failed <= figures.admitted && figures.admitted <= figures.offered);
        let refused: u64 = figures.refused.values().sum();
        prop_assert!(figures.admitted + refused == figures.offered, "{figures:?}");
    }
}
