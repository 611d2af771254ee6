//! Measures a scrape: 1000 workers, with every series of requests, rules and pools.
//!
//! `cargo bench --bench scrape`. Prints figures; the targets are 20 ms and 2 MB.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::Duration;

use traffic_dam::clock::Clock;
use traffic_dam::fleet::Light;
use traffic_dam::metrics::Metrics;
use traffic_dam::refusal::Reason;
use traffic_dam::request::{Class, Ending};
use traffic_dam::shed::PrefixFigures;
use traffic_dam::view::{
    FactorView, GatewayView, HeartbeatView, JobsView, PoolView, RuleUseView, StrangerView, WorkerView,
};

const WORKERS: usize = 1000;
/// Size of a large configuration, for each kind.
const POOLS: usize = 10;
const ROUTES: usize = 10;
const RULES: usize = 20;
const ROUNDS: usize = 51;

const MOST_TIME: Duration = Duration::from_millis(20);
const MOST_BYTES: usize = 2_000_000;

fn busy() -> Metrics {
    let metrics = Metrics::new();
    let ms = Duration::from_millis(7);
    for route in 0..ROUTES {
        let route = metrics.route(&format!("/v1/route/{route}"));
        for class in Class::ALL {
            for ending in [Ending::Complete, Ending::ClientGone, Ending::WorkerFailed, Ending::TimedOut] {
                route.count(class, ending, None, ms);
            }
            for reason in Reason::ALL {
                route.count(class, Ending::Refused, Some(reason), ms);
            }
        }
    }
    for pool in 0..POOLS {
        let pool = metrics.pool(&format!("pool-{pool}"));
        Class::ALL.into_iter().for_each(|class| pool.ttft(class, ms));
        pool.itl(ms);
    }
    for rule in 0..RULES {
        metrics.rule(&format!("rule-{rule}")).allowed();
    }
    metrics
}

fn view() -> GatewayView {
    let worker = |index: usize| WorkerView {
        id: format!("worker-{index:04}.example").into(),
        colour: if index.is_multiple_of(2) { "blue" } else { "green" }.into(),
        light: Light::Green,
        limit: 256,
        in_flight: index as u32 % 256,
        said: Some(HeartbeatView {
            kv_used: Some(index as f64 / 1001.0),
            age_ms: index as u64,
            missed: Some(index as f64 / 997.0),
            ..HeartbeatView::default()
        }),
        ..WorkerView::default()
    };
    let pool = |pool: usize| PoolView {
        name: format!("pool-{pool}").into(),
        queue: Class::ALL.map(|class| (class.as_str().into(), 3)).into(),
        workers: (0..WORKERS / POOLS).map(|index| worker(pool * WORKERS / POOLS + index)).collect(),
        demand: 7,
        jobs: Some(JobsView { waiting: 4096, oldest_ms: 12_345 }),
        strangers: Some(vec![StrangerView::default()]),
        versions: [("blue".into(), 1)].into(),
        ceiling: Some(21_248.0),
        fleet_factor: Some(FactorView { configured: 0.83, measured: 0.79, workers: vec![1, 2] }),
        prefix_hit_ratio: PrefixFigures { estimated: Some(0.6), reported: Some(0.5) },
        ..PoolView::default()
    };
    let rule =
        |rule| RuleUseView { name: format!("rule-{rule}").into(), keys: 1_000_000, ..RuleUseView::default() };
    GatewayView {
        connections: 10_000,
        pools: (0..POOLS).map(pool).collect(),
        rules: (0..RULES).map(rule).collect(),
        redis: Some(true),
        ..GatewayView::default()
    }
}

fn main() {
    let (metrics, view) = (busy(), view());
    let mut took = Vec::with_capacity(ROUNDS);
    let mut text = String::new();
    let clock = Clock::system();
    for _ in 0..ROUNDS {
        let begun = clock.now();
        text = metrics.encode(&view);
        took.push(clock.now().since(begun));
    }
    took.sort_unstable();
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    let (median, worst) = (took[ROUNDS / 2], took[ROUNDS - 1]);
    println!("scrape of {WORKERS} workers: {series} series, {} bytes", text.len());
    println!("  median {median:.2?}, slowest of {ROUNDS} {worst:.2?}");
    let verdict = |kept| if kept { "kept" } else { "MISSED" };
    println!("  within {MOST_TIME:?}: {}", verdict(median <= MOST_TIME));
    println!("  within {MOST_BYTES} bytes: {}", verdict(text.len() <= MOST_BYTES));
}
