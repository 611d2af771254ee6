//! What the locks of the gate and of the rules cost when many threads decide at once.
//!
//! `cargo bench --bench contention` prints the CPU time of one decision, by the number of threads: a
//! permit asked for, dispatched and released at one gate, and four rules charged and settled for one
//! caller. Both are the worst case, as in a gateway with one pool and one caller. More threads than
//! cores also show what it costs that the holder of a lock is preempted.
#![expect(clippy::expect_used, clippy::print_stdout, reason = "a benchmark that prints a table")]

use std::fs;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use traffic_dam::clock::{Clock, Nanos};
use traffic_dam::fleet::local_gate;
use traffic_dam::limit::rule::{Algorithm, Match, Mode, OnLoss, Per, Quota, Rule};
use traffic_dam::limit::{ExpectedCost, RuleSet, Served, Subject};
use traffic_dam::refusal::Unit;
use traffic_dam::request::{Caller, Class, Ending, RequestCost};
use traffic_dam::shed::settings::GateSettings;
use traffic_dam::shed::{GateEntry, GateHandle, PermitRequest};

const THREADS: [u32; 5] = [1, 2, 4, 8, 16];
/// Decisions of all threads together: a second or less.
const DECISIONS: u32 = 800_000;

fn rules() -> RuleSet {
    let rule = |name: &str, algorithm, per, unit| Rule {
        name: name.into(),
        algorithm,
        per: vec![per],
        unit,
        quota: Quota { limit: 1 << 40, period: Duration::from_secs(1), burst: 1 << 40 },
        mode: Mode::Enforce,
        matches: Match::default(),
        reserve_max: false,
        on_loss: OnLoss::Share,
        max_keys: 1000,
    };
    RuleSet::new(vec![
        rule("caller-burst", Algorithm::TokenBucket, Per::Caller, Unit::Requests),
        rule("caller-minute", Algorithm::SlidingWindow, Per::Caller, Unit::Tokens),
        rule("address", Algorithm::TokenBucket, Per::Ip, Unit::Requests),
        rule("all", Algorithm::TokenBucket, Per::All, Unit::Requests),
    ])
}

fn charge(rules: &RuleSet, now: Nanos) {
    let subject = Subject {
        caller: "key:one",
        team: None,
        ip: None,
        model: Some("m"),
        served: Served::AS_ASKED,
        route: "/v1/chat/completions",
        path: "/v1/chat/completions",
        class: Class::Interactive,
        own: None,
    };
    let cost = ExpectedCost { prompt_tokens: 100, expected_output: 100, max_output: None };
    let charge = rules.admit(&subject, &cost, now).expect("nothing is refused").charge;
    rules.settle(charge, 150, now);
}

fn permit(gate: &GateHandle, ask: &PermitRequest) {
    if let Ok(GateEntry::Admitted(permit)) = gate.ask(ask.clone()) {
        permit.dispatched();
        permit.end(Ending::Complete);
        drop(black_box(permit));
    }
}

/// CPU time of this thread in ns.
fn cpu_nanos() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    text.split(' ').next().and_then(|field| field.parse().ok()).expect("a number")
}

/// Returns the CPU ns of one `decision` on `threads` threads.
fn measure(threads: u32, decision: &(impl Fn() + Sync)) -> u64 {
    let start = Barrier::new(threads as usize);
    let each = DECISIONS / threads;
    let work = || {
        start.wait();
        let before = cpu_nanos();
        (0..each).for_each(|_| decision());
        cpu_nanos() - before
    };
    let sum: u64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
    });
    sum / u64::from(each * threads)
}

fn main() {
    let clock = Clock::system();
    let gate = local_gate(1 << 20, GateSettings::default(), clock.clone());
    let ask = PermitRequest::of(&Caller::new("key:one"), &RequestCost::path());
    let rules = Arc::new(rules());
    println!("| threads | permit, CPU ns | four rules, CPU ns |\n| ---: | ---: | ---: |");
    for threads in THREADS {
        let permits = measure(threads, &|| permit(&gate, &ask));
        let charges = measure(threads, &|| charge(&rules, clock.now()));
        println!("| {threads} | {permits} | {charges} |");
    }
}
