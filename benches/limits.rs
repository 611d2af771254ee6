//! Each limiter on one key and on a million, beside the `governor` crate; and bytes per key.
//!
//! `cargo bench --bench limits` measures every case with criterion, then all again in turns, and
//! prints the table and the ratios. Both sides read their own clock on every check, unless the row
//! says otherwise. A million keys exist before the first check. "2 threads" needs two idle cores:
//! on a busy machine the threads seldom run side by side.
#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::hash::BuildHasher;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::ops::Range;
use std::process::Command;
use std::time::Duration;

use criterion::Criterion;
use governor::RateLimiter;
use governor::clock::FakeRelativeClock;
use hashbrown::DefaultHashBuilder;
use traffic_dam::clock::{Clock, Nanos};
use traffic_dam::limit::keyed::KeyedState;
use traffic_dam::limit::meter::{Direct, Meter};
use traffic_dam::limit::rule::{Algorithm, Match, Mode, OnLoss, Per, Quota, Rule};
use traffic_dam::limit::sliding_log::SlidingLog;
use traffic_dam::limit::sliding_window::SlidingWindow;
use traffic_dam::limit::token_bucket::TokenBucket;
use traffic_dam::limit::{ExpectedCost, RuleSet, Served, Subject};
use traffic_dam::refusal::Unit;
use traffic_dam::request::Class;

#[path = "limits/measure.rs"]
mod measure;
use measure::{Cases, DRAWN, print_ratios};

const KEYS: usize = 1_000_000;
const ALL: Range<u32> = 0..KEYS as u32;
const PER_SECOND: u32 = 1_000_000_000;
/// A log is for small quotas; further checks are refused, which costs as much as admitting.
const LOG_LIMIT: u64 = 16;

/// A quota that never refuses, so that the common path is measured.
fn wide() -> Quota {
    let limit = u64::from(PER_SECOND);
    Quota { limit, period: Duration::from_secs(1), burst: limit }
}

fn governors() -> governor::Quota {
    governor::Quota::per_second(NonZeroU32::MIN.saturating_add(PER_SECOND - 1))
}

fn uniform() -> Vec<u32> {
    let mut random = fastrand::Rng::with_seed(1);
    (0..DRAWN).map(|_| random.u32(0..KEYS as u32)).collect()
}

/// Zipf with exponent 1: key k is drawn in proportion to 1/(k+1).
fn zipf() -> Vec<u32> {
    let mut random = fastrand::Rng::with_seed(2);
    let mut sum = 0.0;
    let sums: Vec<f64> = (0..KEYS).map(|key| (sum += 1.0 / (key + 1) as f64, sum).1).collect();
    (0..DRAWN).map(|_| sums.partition_point(|below| *below < random.f64() * sum) as u32).collect()
}

/// Writes an id of the usual form into `text`.
fn caller(text: &mut String, key: u32) -> &String {
    let mut digits = [b'0'; 8];
    for (place, digit) in digits.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(key >> (4 * place)) as usize & 15];
    }
    text.clear();
    text.push_str("key:");
    text.push_str(std::str::from_utf8(&digits).unwrap_or_default());
    text
}

/// Returns the id written one check ago: a real request's id has left the store buffer, too.
fn drawn_caller<'a>(texts: &'a mut [String; 2], drawn: &[u32], number: usize) -> &'a String {
    let [this, next] = texts;
    std::mem::swap(this, next);
    caller(next, drawn[(number + 1) % DRAWN]);
    this
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// One number key for all checks.
fn one_key(cases: &mut Cases) {
    let clock = leak(Clock::system());
    fn direct<M: Meter + 'static>(cases: &mut Cases, clock: &'static Clock, subject: &'static str, meter: M) {
        let limiter = leak(Direct::new(meter));
        cases.add("1 key", subject, move |_, _| {
            black_box(limiter.charge(None, 1, clock.now()).is_ok());
        });
    }
    direct(cases, clock, "token bucket", TokenBucket::new(wide()));
    direct(cases, clock, "sliding window", SlidingWindow::new(wide()));
    let log = Quota { limit: LOG_LIMIT, period: Duration::from_millis(1), burst: LOG_LIMIT };
    direct(cases, clock, "sliding log", SlidingLog::new(log));
    let limiter = leak(RateLimiter::direct(governors()));
    cases.add("1 key", "governor", |_, _| {
        black_box(limiter.check().is_ok());
    });

    let clock = leak(Clock::manual(Nanos::from_secs(1)));
    let limiter = leak(Direct::new(TokenBucket::new(wide())));
    cases.add("1 key, time given", "token bucket", move |_, _| {
        black_box(limiter.charge(None, 1, clock.now()).is_ok());
    });
    let limiter = leak(RateLimiter::direct_with_clock(governors(), FakeRelativeClock::default()));
    cases.add("1 key, time given", "governor", |_, _| {
        black_box(limiter.check().is_ok());
    });

    let hourly = Quota { limit: 1, period: Duration::from_secs(3_600), burst: 1 };
    let clock = leak(Clock::system());
    let limiter = leak(Direct::new(TokenBucket::new(hourly)));
    cases.add("1 key, refused", "token bucket", move |_, _| {
        black_box(limiter.charge(None, 1, clock.now()).is_ok());
    });
    let limiter = leak(RateLimiter::direct(governor::Quota::per_hour(NonZeroU32::MIN)));
    cases.add("1 key, refused", "governor", |_, _| {
        black_box(limiter.check().is_ok());
    });
}

fn filled<M: Meter>(meter: M, keys: Range<u32>, hasher: &DefaultHashBuilder) -> KeyedState<M> {
    let table = KeyedState::new(meter, KEYS);
    for key in keys {
        black_box(table.charge(None, hasher.hash_one(u64::from(key)), 1, Nanos::from_secs(1)).is_ok());
    }
    table
}

/// The tables alone: number keys, the same fast hash on both sides.
fn number_keys(cases: &mut Cases, row: &str, drawn: &'static [u32]) {
    let clock = leak(Clock::system());
    let hasher = leak(DefaultHashBuilder::default());
    fn keyed<M: Meter + 'static>(
        cases: &mut Cases,
        (row, subject): (&str, &'static str),
        (clock, hasher): (&'static Clock, &'static DefaultHashBuilder),
        meter: M,
        drawn: &'static [u32],
    ) {
        let table = leak(filled(meter, keys_of(drawn), hasher));
        cases.add(row, subject, move |_, number| {
            let key = hasher.hash_one(u64::from(drawn[number % DRAWN]));
            black_box(table.charge(None, key, 1, clock.now()).is_ok());
        });
    }
    keyed(cases, (row, "token bucket"), (clock, hasher), TokenBucket::new(wide()), drawn);
    keyed(cases, (row, "sliding window"), (clock, hasher), SlidingWindow::new(wide()), drawn);
    let log = Quota { limit: LOG_LIMIT, period: Duration::from_millis(1), burst: LOG_LIMIT };
    keyed(cases, (row, "sliding log"), (clock, hasher), SlidingLog::new(log), drawn);
    let limiter = leak(RateLimiter::dashmap_with_hasher(governors(), hasher.clone()));
    keys_of(drawn).for_each(|key| drop(black_box(limiter.check_key(&u64::from(key)))));
    cases.add(row, "governor", move |_, number| {
        black_box(limiter.check_key(&u64::from(drawn[number % DRAWN])).is_ok());
    });
}

fn rule(name: &str, per: Per, unit: Unit) -> Rule {
    Rule {
        name: name.into(),
        algorithm: Algorithm::TokenBucket,
        per: vec![per],
        unit,
        quota: wide(),
        mode: Mode::Enforce,
        matches: Match::default(),
        reserve_max: false,
        on_loss: OnLoss::Share,
        max_keys: KEYS,
    }
}

const COST: ExpectedCost = ExpectedCost { prompt_tokens: 20, expected_output: 30, max_output: None };

fn subject(caller: &str) -> Subject<'_> {
    let class = Class::Interactive;
    Subject {
        caller,
        team: None,
        ip: None,
        model: Some("model"),
        served: Served::AS_ASKED,
        route: "/v1/*",
        path: "/v1/chat/completions",
        class,
        own: None,
    }
}

/// Returns the keys that exist before the first check: all, or the only one that is drawn.
fn keys_of(drawn: &[u32]) -> Range<u32> {
    if drawn.iter().all(|key| *key == 0) { 0..1 } else { ALL }
}

fn climb(cases: &mut Cases, row: &str, name: &'static str, rules: Vec<Rule>, drawn: &'static [u32]) {
    let clock = leak(Clock::system());
    let rule_set = leak(RuleSet::new(rules));
    let mut text = String::new();
    for key in keys_of(drawn) {
        black_box(rule_set.admit(&subject(caller(&mut text, key)), &COST, Nanos::from_secs(1)).is_ok());
    }
    cases.add(row, name, move |texts, number| {
        let subject = subject(drawn_caller(texts, drawn, number));
        black_box(rule_set.admit(&subject, &COST, clock.now()).is_ok());
    });
}

/// The case of a request: the caller's id as text, SipHash on both sides, the whole rule set.
fn text_keys(cases: &mut Cases, row: &str, drawn: &'static [u32]) {
    climb(cases, row, "rule set of 1", vec![rule("caller", Per::Caller, Unit::Requests)], drawn);
    let limiter = leak(RateLimiter::keyed(governors()));
    let mut text = String::new();
    keys_of(drawn).for_each(|key| drop(black_box(limiter.check_key(caller(&mut text, key)))));
    cases.add(row, "governor", move |texts, number| {
        black_box(limiter.check_key(drawn_caller(texts, drawn, number)).is_ok());
    });
}

/// Four rules; compared with four governors in a row, which do not take a charge back.
fn four_rules(cases: &mut Cases, row: &str, drawn: &'static [u32]) {
    let rules = vec![
        rule("caller", Per::Caller, Unit::Requests),
        rule("caller-tokens", Per::Caller, Unit::Tokens),
        rule("model", Per::Model, Unit::Requests),
        rule("all", Per::All, Unit::Requests),
    ];
    climb(cases, row, "rule set of 4", rules, drawn);
    let (requests, tokens) = (leak(RateLimiter::keyed(governors())), leak(RateLimiter::keyed(governors())));
    let (model, all) = (leak(RateLimiter::keyed(governors())), leak(RateLimiter::direct(governors())));
    let fifty = NonZeroU32::MIN.saturating_add(49);
    let name = leak("model".to_owned());
    let check = move |caller: &String| {
        requests.check_key(caller).is_ok()
            && tokens.check_key_n(caller, fifty).is_ok()
            && model.check_key(name).is_ok()
            && all.check().is_ok()
    };
    let mut text = String::new();
    for key in ALL {
        black_box(check(caller(&mut text, key)));
    }
    cases.add(row, "governor", move |texts, number| {
        black_box(check(drawn_caller(texts, drawn, number)));
    });
}

/// New keys at a table full of live ones: the cost of many new callers. No governor case.
fn newcomers(cases: &mut Cases) {
    let hasher = leak(DefaultHashBuilder::default());
    let quota = Quota { limit: 1, period: Duration::from_secs(3_600), burst: 1 };
    let table = leak(filled(TokenBucket::new(quota), ALL, hasher));
    cases.add("new keys, 1M live", "token bucket", move |_, number| {
        black_box(table.charge(None, hasher.hash_one(KEYS + number), 1, Nanos::from_secs(2)).is_ok());
    });
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0)
        * 1_024
}

/// Prints resident bytes per key. Runs in a separate process, so that no freed memory is reused.
fn bytes_per_key(of: &str) {
    let mut text = String::new();
    let quota = wide();
    let hasher = DefaultHashBuilder::default();
    let before = resident();
    match of {
        "token bucket" => drop(leak(filled(TokenBucket::new(quota), ALL, &hasher))),
        "sliding window" => drop(leak(filled(SlidingWindow::new(quota), ALL, &hasher))),
        "sliding log, 1 entry" => drop(leak(filled(SlidingLog::new(quota), ALL, &hasher))),
        "governor, number keys" => {
            let limiter = leak(RateLimiter::dashmap_with_hasher(governors(), hasher));
            ALL.for_each(|key| drop(black_box(limiter.check_key(&u64::from(key)))));
        }
        _ => {
            let limiter = leak(RateLimiter::keyed(governors()));
            ALL.for_each(|key| drop(black_box(limiter.check_key(caller(&mut text, key)))));
        }
    }
    println!("| {of} | {:.1} |", (resident() - before) as f64 / KEYS as f64);
}

fn print_bytes() {
    println!("\n| 1M live keys | bytes per key |\n| --- | --- |");
    let Ok(this) = std::env::current_exe() else { return };
    for of in [
        "token bucket",
        "sliding window",
        "sliding log, 1 entry",
        "governor, number keys",
        "governor, text keys",
    ] {
        if let Ok(output) = Command::new(&this).args(["--bytes", of]).output() {
            print!("{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, flag, of] = &arguments[..]
        && flag == "--bytes"
    {
        return bytes_per_key(of);
    }
    let (uniform, zipf) = (uniform().leak(), zipf().leak());
    let mut cases = Cases::default();
    one_key(&mut cases);
    let one = vec![0; DRAWN].leak();
    for (name, drawn) in [("1 key", &*one), ("1M keys uniform", &*uniform), ("1M keys zipf", &*zipf)] {
        number_keys(&mut cases, &format!("{name}, numbers"), drawn);
        text_keys(&mut cases, &format!("{name}, text"), drawn);
    }
    four_rules(&mut cases, "4 rules, 1M keys zipf, text", zipf);
    newcomers(&mut cases);

    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .configure_from_args();
    cases.run(&mut criterion);
    // Without `--bench` this is a trial run that only shows that every case works.
    if arguments.iter().any(|argument| argument == "--bench") {
        print_ratios(&cases);
        print_bytes();
    }
}
