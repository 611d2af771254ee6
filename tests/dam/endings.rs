//! However a request ends, everything it held is released, exactly once.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinSet;
use tower::{ServiceBuilder, ServiceExt};
use traffic_dam::clock::Clock;
use traffic_dam::fleet::Fleet;
use traffic_dam::layers::rescue::RescueLayer;
use traffic_dam::layers::shed::ShedLayer;

use super::client::{Conn, PATIENCE, chat, get, request};
use super::rig::{Dam, Worker, before, eventually, settings};

const REQUESTS: u64 = 10_000;
const TASKS: u64 = 64;

/// Faults of a worker.
const FAULTS: [&str; 11] = [
    "die",
    "die-after-headers",
    "break:2",
    "hang",
    "hang-after-headers",
    "stall:2",
    "status:503",
    "status:429",
    "status:500",
    "error-event:2",
    "slow-start:5",
];

/// Sends one request and ends it in one of many ways. Returns the connection if it can be reused.
async fn one(dam: &Dam, conn: Option<Conn>, random: &mut fastrand::Rng) -> Option<Conn> {
    let mut conn = match conn {
        Some(conn) => conn,
        None => Conn::open(dam.addr).await,
    };
    let stream = random.u8(..4) > 0;
    let fault = (random.u8(..4) == 0).then(|| FAULTS[random.usize(..FAULTS.len())]);
    let fault = fault.map(|fault| format!("x-sim-fault: {fault}"));
    let fields: Vec<&str> = fault.as_deref().into_iter().collect();
    let asked = match random.u8(..12) {
        0 => request("POST /v1/embeddings", &fields, r#"{"input":"One"}"#),
        1 => request("POST /v1/chat/completions", &fields, "{"),
        2 => get("/v1/models"),
        _ => chat("mixed", stream, random.u32(1..12), &fields),
    };
    conn.send(asked).await.expect("the gateway takes it");
    match random.u8(..10) {
        // The client leaves while the request waits, or before the first token.
        0 => return None,
        1 => {
            tokio::time::sleep(Duration::from_micros(random.u64(..30_000))).await;
            return None;
        }
        // The client leaves after the answer has begun: mid-stream, or at the first content.
        2 => {
            conn.head().await.ok()?;
            return None;
        }
        3 => {
            let head = conn.head().await.ok()?;
            if head.header("transfer-encoding").is_some() {
                conn.see("data: ").await.ok()?;
            }
            return None;
        }
        _ => {}
    }
    // If a worker breaks an answer with a length, the gateway can only break it too.
    let answer = conn.answer().await.ok()?;
    if answer.status >= 400 {
        assert!(answer.json()["error"]["message"].is_string(), "{}", answer.text());
    }
    answer.whole.then_some(conn).filter(|_| answer.header("connection").is_none())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_ten_thousand_mixed_endings_nothing_is_held() {
    let workers = [Worker::start(24), Worker::start(24)];
    let more = "
  timeouts: { connect: 1s, first_token: 60ms, idle: 60ms, total: 1s }
concurrency: { limit: slots, fleet_factor: 1.0, queue: { length: 12, wait: 20ms } }
limits:
  - { name: tokens, algorithm: token_bucket, per: caller, unit: tokens, rate: 1000000/s, burst: 1000000 }
  - { name: log, algorithm: sliding_log, per: [caller, route], limit: 9000, window: 1h }";
    let entries = [workers[0].entry("w1", 8), workers[1].entry("w2", 8)];
    let dam = Arc::new(Dam::start(&before(&entries, more)));
    let left = Arc::new(AtomicU64::new(REQUESTS));
    let mut tasks = JoinSet::new();
    for seed in 0..TASKS {
        let (dam, left) = (Arc::clone(&dam), Arc::clone(&left));
        tasks.spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut conn = None;
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                conn = one(&dam, conn, &mut random).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    dam.idle().await;
    for worker in &workers {
        worker.busy_with(0).await;
    }
    // Each was counted once, however it ended.
    assert_eq!(dam.metric("requests_total", ""), REQUESTS as f64);
    assert_eq!(dam.metric("request_duration_seconds_count", ""), REQUESTS as f64);
    // All kinds of endings occurred.
    for outcome in ["complete", "client_gone", "refused", "worker_failed", "timed_out"] {
        let count = dam.metric("requests_total", &format!("outcome=\"{outcome}\""));
        assert!(count >= 5.0, "{count} {outcome}:\n{}", series(&dam, "requests_total"));
    }
    for promise in ["kept", "failed", "left"] {
        let count = dam.metric("streams_total", &format!("promise=\"{promise}\""));
        assert!(count >= 5.0, "{count} {promise}:\n{}", series(&dam, "streams_total"));
    }
    assert_eq!(dam.metric("streams_total", "promise=\"kept\""), dam.metric("goodput_total", ""));
    for reason in ["queue_timeout", "overloaded", "upstream_timeout", "upstream_broke", "bad_request"] {
        let count = dam.metric("requests_total", &format!("reason=\"{reason}\""));
        assert!(count >= 1.0, "no {reason}:\n{}", series(&dam, "requests_total"));
    }
    assert_eq!(dam.ask(chat("after", true, 3, &[])).await.status, 200);
}

fn series(dam: &Dam, name: &str) -> String {
    use traffic_dam::server::admin::AdminSource;
    let metrics = dam.app.metrics();
    metrics
        .lines()
        .filter(|line| line.starts_with(&format!("traffic_dam_{name}{{")))
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test]
async fn one_who_leaves_the_queue_gives_its_place_up_at_once() {
    let worker = Worker::start(1);
    let more = "concurrency: { ttft_slo: 400s, queue: { length: 1, wait: 60s } }";
    let dam = Dam::start(&before(&[worker.entry("w1", 1)], more));
    let mut holder = Conn::open(dam.addr).await;
    holder.send(chat("holder", true, 5, &["x-sim-fault: stall:1"])).await.unwrap();
    holder.head().await.unwrap();
    for _ in 0..20 {
        let mut waiting = Conn::open(dam.addr).await;
        waiting.send(chat("waiting", true, 5, &[])).await.unwrap();
        let waits = eventually("a waiter", async || dam.held() == 2);
        tokio::select! {
            () = waits => {}
            answer = waiting.answer() => panic!("{}", answer.unwrap().text()),
        }
        drop(waiting);
        eventually("an empty queue", async || dam.held() == 1).await;
    }
    // The queue place and then the slot are free: the next one waits, and is served.
    let mut next = Conn::open(dam.addr).await;
    next.send(chat("next", true, 3, &[])).await.unwrap();
    eventually("a waiter", async || dam.held() == 2).await;
    drop(holder);
    assert_eq!(next.head().await.unwrap().status, 200);
    assert_eq!(worker.tally("received").await, 2, "who left the queue was never sent");
    drop(next);
    dam.idle().await;
}

#[tokio::test]
async fn a_hung_worker_is_seen_although_its_callers_leave() {
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], "concurrency: { ttft_slo: 100ms }"));
    let streams =
        |promise: &str| dam.metric("streams_total", &format!("pool=\"default\",promise=\"{promise}\""));
    let seen = series(&dam, "streams_total");
    assert_eq!(seen.lines().count(), 5, "a pool is seen before its first stream: {seen}");

    // Two clients leave at once; the third one waits longer than the SLO.
    for (patience_ms, promise, count) in [(0, "left", 1.0), (0, "left", 2.0), (150, "abandoned", 1.0)] {
        let mut conn = Conn::open(dam.addr).await;
        conn.send(chat("waiting", true, 5, &["x-sim-fault: hang"])).await.unwrap();
        worker.busy_with(1).await;
        tokio::time::sleep(Duration::from_millis(patience_ms)).await;
        drop(conn);
        eventually("an end", async || streams(promise) == count).await;
        worker.busy_with(0).await;
    }

    // A client that leaves after a first token in time does not count against the worker.
    let mut enough = Conn::open(dam.addr).await;
    enough.send(chat("enough", true, 5, &["x-sim-fault: stall:2"])).await.unwrap();
    enough.head().await.unwrap();
    drop(enough);
    eventually("an end", async || streams("left") == 3.0).await;
    assert_eq!((streams("kept"), streams("late"), streams("failed")), (0.0, 0.0, 0.0));
    dam.idle().await;
}

#[tokio::test]
async fn what_a_drain_cuts_off_is_free_too() {
    let worker = Worker::start(8);
    let more = "concurrency: { ttft_slo: 400s, queue: { length: 8, wait: 60s } }\ndrain: { delay: 0s, timeout: 100ms }";
    let mut dam = Dam::start(&before(&[worker.entry("w1", 4)], more));
    let mut held = Vec::new();
    for fault in ["stall:2", "hang-after-headers", "hang", "stall:1", "stall:1", "stall:1"] {
        let mut conn = Conn::open(dam.addr).await;
        conn.send(chat("held", true, 5, &[&format!("x-sim-fault: {fault}")])).await.unwrap();
        held.push(conn);
    }
    eventually("four at work and two waiting", async || dam.held() == 6).await;
    assert_eq!(dam.app.drain().await, 0, "each is told so, and leaves");
    dam.ended().await;
    for mut conn in held {
        let answer = conn.answer().await.unwrap();
        assert!(answer.text().contains("\"code\":\"draining\""), "{}", answer.text());
    }
    dam.idle().await;
    worker.busy_with(0).await;
    assert_eq!(dam.metric("requests_total", "outcome=\"refused\""), 6.0);
}

#[tokio::test]
async fn a_stream_that_outlives_the_drain_is_told_so() {
    let worker = Worker::start(8);
    let mut dam = Dam::start(&before(&[worker.entry("w1", 4)], "drain: { delay: 0s, timeout: 50ms }"));
    let mut conn = Conn::open(dam.addr).await;
    conn.send(chat("long", true, 100_000, &[])).await.unwrap();
    let head = conn.head().await.unwrap();
    let (_, answer) = tokio::join!(dam.app.drain(), conn.rest(head));
    assert!(answer.whole, "it ends as a stream does");
    assert!(answer.text().contains("\"code\":\"draining\""), "no word of it");
    dam.ended().await;
    dam.idle().await;
    assert_eq!(dam.metric("requests_total", "outcome=\"refused\""), 1.0);
    assert_eq!(dam.metric("streams_total", "promise=\"failed\""), 1.0);
}

#[tokio::test]
async fn a_panic_is_answered_and_frees_the_seat() {
    let clock = Clock::system();
    let read = settings(&before(&["{ id: w1, url: \"http://127.0.0.1:1\", slots: 1 }".to_owned()], ""));
    let fleet = Arc::new(Fleet::new(read.workers, read.gate, None, clock.clone()));
    let gate = fleet.pools()[0].gate.clone();
    for late in [false, true] {
        let handler = tower::service_fn(move |_: Request<()>| {
            assert!(late, "in call");
            async move {
                tokio::task::yield_now().await;
                assert!(!late, "in its future");
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
            }
        });
        let service = ServiceBuilder::new()
            .layer(RescueLayer::default())
            .layer(ShedLayer::new(gate.clone(), clock.clone()))
            .service(handler);
        for _ in 0..3 {
            let answer = service.clone().oneshot(Request::new(())).await.unwrap();
            assert_eq!(answer.status(), 500);
            assert_eq!(answer.headers()["x-traffic-dam-reason"], "internal_error");
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let error: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(error["error"]["code"], "internal_error");
            assert!(error["error"]["message"].as_str().unwrap().contains("log"));
            assert_eq!(gate.snapshot().in_flight(), 0);
        }
    }
}

#[tokio::test]
async fn a_worker_that_dies_frees_all_its_seats() {
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], ""));
    let mut open = Vec::new();
    for _ in 0..8 {
        let mut conn = Conn::open(dam.addr).await;
        conn.send(chat("open", true, 5, &["x-sim-fault: stall:2"])).await.unwrap();
        open.push((conn.head().await.unwrap(), conn));
    }
    assert_eq!(dam.held(), 8);
    worker.kill().await;
    for (head, mut conn) in open {
        let answer = tokio::time::timeout(PATIENCE, conn.rest(head)).await.unwrap();
        assert!(answer.whole, "an event stream ends properly, with an error event");
        assert!(
            answer.text().contains("upstream_broke") && !answer.text().contains("[DONE]"),
            "{}",
            answer.text()
        );
    }
    dam.idle().await;
    assert_eq!(dam.metric("requests_total", "outcome=\"worker_failed\""), 8.0);
}
