//! Measures counting a request: every metric that a small, admitted request touches.
//!
//! `cargo bench --bench counting`. Prints ns; `scripts/observe-cost` compares it with a request's
//! CPU.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use traffic_dam::clock::Clock;
use traffic_dam::metrics::{Metrics, RuleSeries};
use traffic_dam::request::{Class, Ending};

/// As many as `bench/proxy/dam.yaml` has.
const RULES: usize = 4;
const REQUESTS: u32 = 20_000;
const ROUNDS: usize = 31;

fn count(metrics: &Metrics, rules: &[Arc<RuleSeries>], caller: &Arc<str>) {
    let ms = Duration::from_millis(3);
    let in_flight = metrics.enter();
    for rule in rules {
        rule.allowed();
        rule.used(0.5, caller);
    }
    metrics.overhead(ms);
    metrics.queue_wait(Class::Interactive, ms);
    metrics.route("/v1/chat/completions").count(Class::Interactive, Ending::Complete, None, ms);
    metrics.tokens(9, 16);
    metrics.token_estimate(25, 25);
    metrics.caller(caller, false, 25);
    drop(in_flight);
}

fn main() {
    let metrics = Metrics::new();
    let rules: Vec<_> = (0..RULES).map(|index| metrics.rule(&format!("rule-{index}"))).collect();
    let caller: Arc<str> = "key:bench".into();
    let clock = Clock::system();
    let mut took: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let begun = clock.now();
            (0..REQUESTS).for_each(|_| count(black_box(&metrics), black_box(&rules), black_box(&caller)));
            clock.now().since(begun)
        })
        .collect();
    took.sort_unstable();
    println!("one request: {:.0} ns", took[ROUNDS / 2].as_nanos() as f64 / f64::from(REQUESTS));
}
