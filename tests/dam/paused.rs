//! Gateways that are stopped for a while.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::client::{ask, chat, get, request};
use super::fleet::discovering;
use super::gateway::Gateway;
use super::redis::{Redis, Speaker, at, beat};
use super::rig::{Worker, before, eventually, sum};

fn counted(redis: &Redis, worker: &Worker, rule: &str) -> String {
    let rest = format!(
        "state: redis\nredis: {{ url: \"{}\", timeout: 500ms }}\nlimits:\n  - {{ name: each, per: caller, {rule} }}\n",
        redis.url()
    );
    before(&[worker.entry("w1", 64)], &rest)
}

#[tokio::test]
async fn a_gateway_that_stood_still_does_not_take_redis_for_lost() {
    let (redis, worker) = (Redis::start().await, Worker::start(64));
    let rule = "algorithm: token_bucket, rate: 1000000/s, burst: 1000000";
    let gateway = Gateway::start(&counted(&redis, &worker, rule), Stdio::null()).await;
    gateway.hears_redis().await;
    let over = AtomicBool::new(false);
    let client = async |_| {
        while !over.load(Ordering::Relaxed) {
            assert_eq!(ask(gateway.addr, get("/v1/models")).await.status, 200);
        }
    };
    let pauses = async {
        for _ in 0..5 {
            let before = gateway.metric("limit_checks_total", "allowed").await;
            eventually("calls", async || gateway.metric("limit_checks_total", "allowed").await > before)
                .await;
            gateway.pause(Duration::from_millis(700)).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(futures_util::future::join_all((0..16).map(client)), pauses);
    assert_eq!(gateway.metric("redis_fallback_total", "").await, 0.0);
    assert_eq!(gateway.metric("redis_up", "").await, 1.0);
    assert!(gateway.late("0.5").await >= 5.0, "it knows that it stood still");
}

#[tokio::test]
async fn a_worker_has_its_time_to_the_first_token_while_the_gateway_stands_still() {
    let worker = Worker::start(8);
    let text =
        before(&[worker.entry("w1", 8)], "").replace("workers:", "workers:\n  timeouts: { first_token: 3s }");
    let gateway = Gateway::start(&text, Stdio::null()).await;
    worker.fault("slow-start:4000", 1).await;
    let pause = async {
        worker.busy_with(1).await;
        gateway.pause(Duration::from_millis(1900)).await;
    };
    let (answer, ()) = tokio::join!(ask(gateway.addr, chat("a", true, 2, &[])), pause);
    assert_eq!((answer.status, answer.whole), (200, true), "{}", answer.text());
    worker.fault("slow-start:4000", 1).await;
    let answer = ask(gateway.addr, chat("a", true, 2, &[])).await;
    assert_eq!((answer.status, answer.reason()), (504, "upstream_timeout"), "without a pause it is late");
}

#[tokio::test]
async fn workers_of_a_gateway_that_stood_still_are_as_green_as_before() {
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let gateway = Gateway::start(&discovering(&redis, ""), Stdio::null()).await;
    let _speaker = Speaker::start(&redis, "w1", at(&worker));
    eventually("it is green", async || gateway.metric("worker_light", "w1").await == 2.0).await;
    // The whole machine is stopped, and the gateway continues before Redis.
    redis.pause();
    gateway.pause(Duration::from_millis(1500)).await;
    let text = ask(gateway.admin, get("/metrics")).await;
    assert_eq!(sum(text.text(), "worker_light", "w1"), 2.0);
    assert_eq!(sum(text.text(), "redis_up", ""), 1.0, "nor is the feed dead");
    redis.resume().await;
    eventually("it hears it", async || gateway.metric("worker_heartbeat_age_seconds", "w1").await < 0.2)
        .await;
    assert_eq!(gateway.metric("worker_light", "w1").await, 2.0);
}

#[tokio::test]
async fn a_gateway_that_slept_reads_everything_anew_before_it_admits() {
    let (redis, fixed, found) = (Redis::start().await, Worker::start(8), Worker::start(8));
    let rule = "algorithm: sliding_window, limit: 2, window: 1h, match: { model: rare }";
    let text = counted(&redis, &fixed, rule)
        .replace("workers:", "workers:\n  discovery: redis\n  allow: [127.0.0.1]")
        .replace("id: w1", "id: w1, pool: fixed, model: rare");
    let gateway = Gateway::start(&text, Stdio::null()).await;
    gateway.hears_redis().await;
    let body = r#"{"model":"rare","messages":[],"max_tokens":1}"#;
    let rare = || request("POST /v1/chat/completions", &["content-type: application/json"], body);
    for status in [200, 200, 429] {
        assert_eq!(ask(gateway.addr, rare()).await.status, status);
    }
    assert_eq!(ask(gateway.addr, chat("a", true, 2, &[])).await.status, 404, "nobody serves that model");
    let happens = async {
        // The quotas are full again, and a new worker exists only as a key.
        redis.run(&[b"FLUSHALL"]).await.unwrap();
        let text = beat("w2", "a", 1, &(at(&found) + r#","model":"sim","pool":"found""#));
        redis.run(&[b"SADD", b"dam:workers", b"w2"]).await.unwrap();
        redis.run(&[b"SET", b"dam:worker:w2", text.as_bytes(), b"PX", b"300000"]).await.unwrap();
    };
    tokio::join!(gateway.pause(Duration::from_millis(3500)), happens);
    let (known, new) = tokio::join!(ask(gateway.addr, rare()), ask(gateway.addr, chat("a", true, 2, &[])));
    assert_eq!(known.status, 200, "{}", known.text());
    assert_eq!(new.status, 200, "{}", new.text());
}
