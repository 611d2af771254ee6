//! Measures counting in Redis: time next to memory, the server's CPU time, trips per request.
//!
//! `cargo bench --bench redis` starts its own `redis-server` (`scripts/need redis`) on loopback,
//! and prints a table. A network adds its round-trip time to every trip.
#![expect(clippy::print_stdout, reason = "the table is the result")]
#![expect(clippy::disallowed_methods, reason = "a benchmark takes real time")]

use std::error::Error;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use traffic_dam::clock::Clock;
use traffic_dam::limit::rule::{Algorithm, Match, Mode, OnLoss, Per, Quota, Rule};
use traffic_dam::limit::{ExpectedCost, RuleSet, Served, Subject};
use traffic_dam::metrics::Metrics;
use traffic_dam::redis::gateways::Gateways;
use traffic_dam::redis::link::RedisLink;
use traffic_dam::redis::rules::{SharedRules, Store};
use traffic_dam::redis::settings::{RedisSettings, Topology};
use traffic_dam::refusal::Unit;
use traffic_dam::request::Class;

type Failure = Box<dyn Error>;

/// Decisions per row.
const DECISIONS: usize = 20_000;
/// Concurrent tasks.
const ABREAST: usize = 64;
/// A limit that never refuses.
const WIDE: u64 = 1_000_000_000;
/// Rate (per second) and time at which leases are measured, and their quota.
const RATE: u64 = 1000;
const PACED: Duration = Duration::from_secs(3);

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            self.0.wait().ok();
        }
    }
}

fn rule(name: &str, algorithm: Algorithm, per: Per, limit: u64) -> Rule {
    Rule {
        name: name.into(),
        algorithm,
        per: vec![per],
        unit: Unit::Requests,
        quota: Quota { limit, period: Duration::from_secs(1), burst: limit },
        mode: Mode::Enforce,
        matches: Match::default(),
        reserve_max: false,
        on_loss: OnLoss::Share,
        max_keys: 1000,
    }
}

fn subject() -> Subject<'static> {
    Subject {
        caller: "key:team-a",
        team: None,
        ip: None,
        model: Some("m"),
        served: Served::AS_ASKED,
        route: "/v1/chat/completions",
        path: "/v1/chat/completions",
        class: Class::Interactive,
        own: None,
    }
}

fn show(row: &str, mut times: Vec<Duration>, more: &str) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_nanos() as f64 / 1000.0;
    println!("| {row} | {:.1} | {:.1} | {more} |", at(0.5), at(0.99));
}

/// Returns the CPU time the server spent on scripts, in µs, and how many scripts ran.
async fn scripts(connection: &mut MultiplexedConnection) -> Result<(f64, f64), Failure> {
    let info: String = redis::cmd("INFO").arg("commandstats").query_async(connection).await?;
    let line = info.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap_or_default();
    let field = |name: &str| {
        let found = line.split([':', ',']).find_map(|field| field.strip_prefix(name));
        found.and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0)
    };
    Ok((field("usec="), field("calls=")))
}

async fn shared(link: &RedisLink, gateways: &Arc<Gateways>, rules: Vec<Rule>) -> Arc<SharedRules> {
    let (store, work) = Store::new(link.clone(), Arc::clone(gateways), Clock::system());
    tokio::spawn(work);
    Arc::new(SharedRules::new(store, Arc::new(RuleSet::new(rules)), None))
}

async fn decide(rules: &Arc<SharedRules>) -> Duration {
    let began = Instant::now();
    let admitted = rules.admit(&subject(), &ExpectedCost::default()).await;
    let took = began.elapsed();
    if let Ok(admitted) = admitted {
        admitted.holding.keep();
    }
    took
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let options = ["--port", &port.to_string(), "--save", "", "--appendonly", "no"];
    let _server = Server(Command::new("redis-server").args(options).stdout(Stdio::null()).spawn()?);
    let url = format!("redis://127.0.0.1:{port}");
    let settings = RedisSettings {
        urls: vec![url.as_str().into()].into(),
        topology: Topology::Single,
        authorities: None,
        prefix: "dam".into(),
        timeout: Duration::from_secs(1),
    };
    let (clock, gateways) = (Clock::system(), Gateways::new(1));
    let link = RedisLink::new(settings, clock.clone(), Arc::new(Metrics::new()));
    tokio::spawn(link.clone().keep(Arc::clone(&gateways)));
    while !link.is_up() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;

    println!("| decision | p50 µs | p99 µs | |\n| --- | ---: | ---: | --- |");
    let bucket = |name: &str| rule(name, Algorithm::TokenBucket, Per::Caller, WIDE);
    let window = |name: &str| rule(name, Algorithm::SlidingWindow, Per::Caller, WIDE);
    let log = rule("log", Algorithm::SlidingLog, Per::Caller, 10_000);
    for (row, rules) in [
        ("1 token bucket", vec![bucket("a")]),
        ("1 sliding window", vec![window("a")]),
        ("1 sliding log", vec![log]),
        ("4 rules", vec![bucket("a"), bucket("b"), window("c"), window("d")]),
    ] {
        let rule_set = RuleSet::new(rules.clone());
        let times = (0..DECISIONS).map(|_| {
            let began = Instant::now();
            let admission = rule_set.admit(&subject(), &ExpectedCost::default(), clock.now());
            let took = began.elapsed();
            drop(admission);
            took
        });
        show(&format!("{row}, memory"), times.collect(), "");

        let rules = shared(&link, &gateways, rules).await;
        let (cpu, calls) = scripts(&mut connection).await?;
        let mut times = Vec::with_capacity(DECISIONS);
        for _ in 0..DECISIONS {
            times.push(decide(&rules).await);
        }
        let (cpu, calls) = scripts(&mut connection).await.map(|(now, made)| (now - cpu, made - calls))?;
        let server =
            format!("{:.1} µs of the server's CPU each, {:.2} trips", cpu / calls, calls / DECISIONS as f64);
        show(&format!("{row}, Redis, one after the other"), times, &server);

        let began = Instant::now();
        let tasks = (0..ABREAST).map(|_| async {
            let mut times = Vec::new();
            for _ in 0..DECISIONS / ABREAST {
                times.push(decide(&rules).await);
            }
            times
        });
        let times: Vec<_> = join_all(tasks).await.into_iter().flatten().collect();
        let rate = times.len() as f64 / began.elapsed().as_secs_f64();
        show(&format!("{row}, Redis, {ABREAST} at once"), times, &format!("{rate:.0} a second"));
    }

    let rules = shared(&link, &gateways, vec![rule("all", Algorithm::TokenBucket, Per::All, 2 * RATE)]).await;
    let (_, before) = scripts(&mut connection).await?;
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < PACED {
        while times.len() < (began.elapsed().as_secs_f64() * RATE as f64) as usize {
            times.push(decide(&rules).await);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (_, after) = scripts(&mut connection).await?;
    let trips = format!("one trip in {:.0} requests", times.len() as f64 / (after - before));
    show(&format!("leased, {RATE} a second, half the quota"), times, &trips);
    Ok(())
}
