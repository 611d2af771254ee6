//! One quota, whatever the number of gateways.

use std::time::{Duration, Instant};

use super::{Dam, Server, Worker, call, chat_as, dams, eventually, patient};

/// Clients in all.
const CLIENTS: usize = 64;

#[expect(clippy::disallowed_methods, reason = "a test over real sockets takes real time")]
fn now() -> Instant {
    Instant::now()
}

/// Calls as fast as it goes, for so long; says how many were admitted and how long it took.
async fn flood(dams: &[Dam], length: Duration) -> (u64, Duration) {
    let began = now();
    let clients = (0..CLIENTS).map(|client| async move {
        let dam = &dams[client % dams.len()];
        let mut admitted = 0;
        while began.elapsed() < length {
            let answer = call(dam).await;
            match answer.status {
                200 => admitted += 1,
                429 => assert_eq!(answer.reason(), "rate_limited"),
                status => panic!("{status} {}", answer.text()),
            }
            // Refusals are cheap; the sockets of this machine are not.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        admitted
    });
    let admitted = futures_util::future::join_all(clients).await.into_iter().sum();
    (admitted, began.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_admit_one_quota_and_no_more() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let limits = "  - { name: each, algorithm: token_bucket, per: caller, rate: 100/s, burst: 10 }";
    let dams = dams(3, &patient(&redis, &worker, limits, "")).await;
    let (admitted, took) = flood(&dams, Duration::from_secs(3)).await;
    let quota = 100.0 * took.as_secs_f64() + 10.0;
    assert!(admitted as f64 <= quota, "{admitted} of {quota}");
    assert!(admitted as f64 >= 0.7 * quota, "only {admitted} of {quota}");
    for dam in &dams {
        assert_eq!(dam.metric("redis_fallback_total", ""), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_admit_one_quota_and_their_leases() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let limits = "  - { name: whole, algorithm: token_bucket, per: all, rate: 300/s, burst: 60 }";
    let dams = dams(3, &patient(&redis, &worker, limits, "")).await;
    let (admitted, took) = flood(&dams, Duration::from_secs(3)).await;
    // Each may hold a lease of at most a tenth of a second's share.
    let quota = 300.0 * took.as_secs_f64() + 60.0 + 3.0 * 10.0;
    assert!(admitted as f64 <= quota, "{admitted} of {quota}");
    assert!(admitted as f64 >= 0.7 * quota, "only {admitted} of {quota}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_save_trips_up_to_half_the_quota() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let limits = "  - { name: whole, algorithm: token_bucket, per: all, rate: 10000/s, burst: 10000 }";
    let dams = dams(1, &patient(&redis, &worker, limits, "")).await;
    let (admitted, _) = flood(&dams, Duration::from_secs(2)).await;
    let trips = dams[0].metric("redis_command_seconds_count", "lease");
    assert!(admitted as f64 >= 20.0 * trips && trips >= 1.0, "{trips} trips for {admitted} requests");
}

#[tokio::test]
async fn tokens_are_settled_for_all_gateways() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let limits =
        "  - { name: tokens, algorithm: sliding_window, per: caller, unit: tokens, limit: 1000, window: 1h }";
    let more = "callers: { from: [{ header: x-user-id }], trusted_proxies: [127.0.0.1] }";
    let dams = dams(2, &patient(&redis, &worker, limits, more)).await;
    let left = async |dam: &Dam, id: &str| {
        let answer = chat_as(dam, id, 1, false).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.number("x-ratelimit-remaining-tokens")
    };
    for stream in [false, true] {
        let id = format!("u{stream}");
        let answer = chat_as(&dams[0], &id, 400, stream).await;
        assert!(answer.status == 200 && answer.whole, "{}", answer.text());
        let reserved = answer.number("x-ratelimit-remaining-tokens");
        // Whatever was reserved, in the end the answer's 400 tokens and the prompt's few count, and then those of the
        // small calls that look.
        let mut calls = 0;
        eventually("the answer is settled", async || {
            calls += 1;
            let left = left(&dams[1], &id).await;
            let spent = 1000 - left;
            assert!(left > 300, "{left} left after {calls} calls, {reserved} at first");
            spent > 400
        })
        .await;
    }
    assert!(left(&dams[1], "another").await > 900, "callers do not share a quota");
}

#[tokio::test]
async fn a_refusal_says_when_and_holds_without_further_trips() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let limits = "  - { name: each, algorithm: token_bucket, per: caller, rate: 2/s, burst: 1 }
  - { name: hour, algorithm: sliding_log, per: caller, limit: 3, window: 1h, mode: observe }";
    let dams = dams(2, &patient(&redis, &worker, limits, "")).await;
    let first = call(&dams[0]).await;
    assert_eq!((first.status, first.number("x-ratelimit-remaining-requests")), (200, 0));
    let refused = call(&dams[1]).await;
    assert_eq!((refused.status, refused.reason()), (429, "rate_limited"));
    assert!(refused.refusal().3.contains("Rule 'each' allows each caller 2 requests per second, burst 1"));
    let trips = dams[1].metric("redis_command_seconds_count", "rules");
    for _ in 0..5 {
        assert_eq!(call(&dams[1]).await.status, 429);
    }
    assert_eq!(dams[1].metric("redis_command_seconds_count", "rules"), trips, "what is known is not asked");
    let wait = call(&dams[1]).await.number("retry-after-ms");
    tokio::time::sleep(Duration::from_millis(wait)).await;
    assert_eq!(call(&dams[1]).await.status, 200, "who waits as told is admitted");
    for _ in 0..2 {
        let wait = call(&dams[0]).await.number("retry-after-ms");
        tokio::time::sleep(Duration::from_millis(wait)).await;
        assert_eq!(call(&dams[0]).await.status, 200, "the rule that observes refuses nobody");
    }
    assert_eq!(dams[0].metric("limit_checks_total", "would_refuse"), 1.0);
}
