//! Measures a scrape: 1000 workers, with every series of requests, rules and pools.
//!
//! `cargo bench --bench scrape`. Prints figures; the targets are 20 ms and 2 MB.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::Duration;

use traffic_dam::clock::Clock;
use traffic_dam::fleet::Light;
use traffic_dam::metrics::{Metrics, StateReading, WorkerReading};
use traffic_dam::refusal::Reason;
use traffic_dam::request::{Class, Ending};

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

fn reading() -> StateReading {
    let worker = |index: usize| WorkerReading {
        id: format!("worker-{index:04}.example").into(),
        colour: if index.is_multiple_of(2) { "blue" } else { "green" }.into(),
        light: Light::Green,
        ejected: false,
        load: Some((256.0, index as u64 % 256)),
        kv_used: Some(index as f64 / 1001.0),
        heartbeat_age: Some(Duration::from_micros(index as u64 * 997)),
        heartbeats_missed: Some(index as f64 / 997.0),
        provider_left: [None; 2],
        provider_closed: None,
    };
    StateReading {
        connections: 10_000,
        queue_depth: [1, 2, 3],
        limiter_keys: (0..RULES).map(|rule| (format!("rule-{rule}").into(), 1_000_000)).collect(),
        workers: (0..WORKERS).map(worker).collect(),
        demand_waiting: (0..POOLS).map(|pool| (format!("pool-{pool}").into(), 7)).collect(),
        jobs_waiting: (0..POOLS).map(|pool| (format!("pool-{pool}").into(), 4096)).collect(),
        jobs_oldest: (0..POOLS)
            .map(|pool| (format!("pool-{pool}").into(), Duration::from_millis(12_345)))
            .collect(),
        queue_strangers: (0..POOLS).map(|pool| (format!("pool-{pool}").into(), 1)).collect(),
        versions: (0..POOLS).map(|pool| (format!("pool-{pool}").into(), "blue".into(), 1)).collect(),
        fleet_ceiling: (0..POOLS).map(|pool| (format!("pool-{pool}").into(), 21_248.0)).collect(),
        fleet_factor: (0..POOLS).map(|pool| (format!("pool-{pool}").into(), [0.83, 0.79])).collect(),
        prefix_hits: (0..POOLS).map(|pool| (format!("pool-{pool}").into(), [Some(0.6), Some(0.5)])).collect(),
        redis_works: Some(true),
    }
}

fn main() {
    let (metrics, reading) = (busy(), reading());
    let mut took = Vec::with_capacity(ROUNDS);
    let mut text = String::new();
    let clock = Clock::system();
    for _ in 0..ROUNDS {
        let begun = clock.now();
        text = metrics.encode(&reading);
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
