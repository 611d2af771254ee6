//! Every scenario under `tests/scenarios` comes out as it says, with many seeds; and a run repeats bit for bit.
#![expect(clippy::expect_used, reason = "a test's own helpers, which clippy does not see as tests")]

use std::fs;
use std::path::{Path, PathBuf};

use traffic_dam::sim::simulate::{Capacity, Policy, Scenario, batch, run, table};

/// Each scenario is run with so many seeds.
const SEEDS: u64 = 20;

fn scenarios() -> Vec<Scenario> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("the folder is readable").flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Scenario {
    let name = path.file_stem().and_then(|name| name.to_str()).expect("names are text");
    let text = fs::read_to_string(path).expect("scenarios are readable");
    Scenario::parse(name, &text).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
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
    let text = r#"
        duration = "20s"
        warm_up = "2s"

        [[workers]]
        count = 3
        slots = 16

        [dam]
        count = 2

        [load]
        times = 3.0
        retry_share = 0.5

        [requests]
        streamed = 0.7
        n_share = 0.1

        [[callers]]
        name = "service"
        class = "critical"
        count = 3
        share = 0.2

        [[callers]]
        name = "report"
        class = "batch"

        [[events]]
        at = "8s"
        kill = "w2"
        kv = 0.5

        [[events]]
        at = "12s"
        zombie = "w1"
        revive = "w2"
        output = 2.0
    "#;
    let scenario = Scenario::parse("everything", text).expect("the scenario is sound");
    let capacity = Capacity::measure(&scenario);
    for policy in Policy::ALL {
        let once = run(&scenario, policy, 7, &capacity);
        assert_eq!(once, run(&scenario, policy, 7, &capacity));
        assert_ne!(once.seconds, run(&scenario, policy, 8, &capacity).seconds);
        assert_eq!(once.defects, [""; 0], "{policy}");
        assert!(once.figures.offered > 0 && once.figures.good > 0, "{policy}: {:?}", once.figures);
    }
}

#[test]
fn what_is_wrong_with_a_scenario_is_named() {
    for (text, fault) in [
        ("laod = 1", "unknown field `laod`"),
        ("[load]\ntimes = -1.0", "load.times must be 0 to 1000000"),
        ("[load]\ntimes = 1.0\nrate = 2.0", "give `times` or `rate`, not both"),
        ("duration = \"60\"", "`60` is no duration"),
        ("warm_up = \"60s\"", "warm_up must be shorter than duration"),
        ("[[workers]]\nslots = 0", "workers[0].slots is 0"),
        ("[requests]\noutput = { mean = 100, pareto = 1.0 }", "pareto = 1: must be above 1"),
        ("[requests]\nprompt = \"long\"", "a number of tokens"),
        ("[[events]]\nat = \"1s\"\nkill = \"w2\"", "events[0].kill is `w2`: must be one of w1 to w1"),
        ("[[callers]]\nshare = 0.5", "must be 1, or one group must have none"),
        ("[[callers]]\nclass = \"urgent\"", "`urgent` is no class"),
        ("[dam]\nlaw = \"guess\"", "`guess` is no law"),
        ("[expect]\nspeed = \">= 1\"", "expect.speed is no figure"),
        ("[expect]\njain = \"high\"", "`high` is no range"),
    ] {
        let problem = Scenario::parse("x", text).expect_err(text).to_string();
        assert!(problem.contains(fault), "{text}: {problem}");
    }
}
