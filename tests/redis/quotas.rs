//! One quota, for any number of gateways.

use std::time::{Duration, Instant};

use super::{Dam, Server, Worker, call, chat_as, eventually, gateways, patient};

/// Number of clients.
const CLIENTS: usize = 64;

#[expect(clippy::disallowed_methods, reason = "a test over real sockets takes real time")]
fn now() -> Instant {
    Instant::now()
}

/// Calls as fast as possible for `length`. Returns how many were admitted and the time it took. On
/// a busy machine that may be far fewer than the rules admit.
async fn flood(gateways: &[Dam], length: Duration) -> (u64, Duration) {
    let began = now();
    let clients = (0..CLIENTS).map(|client| async move {
        let dam = &gateways[client % gateways.len()];
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
    let gateways = gateways(3, &patient(&redis, &worker, limits, "")).await;
    let (admitted, took) = flood(&gateways, Duration::from_secs(3)).await;
    let quota = 100.0 * took.as_secs_f64() + 10.0;
    assert!(admitted as f64 <= quota, "{admitted} of {quota}");
    assert!(admitted as f64 >= 0.25 * quota, "only {admitted} of {quota}");
    for dam in &gateways {
        assert_eq!(dam.metric("redis_fallback_total", ""), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_admit_one_quota_and_their_leases() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let limits = "  - { name: whole, algorithm: token_bucket, per: all, rate: 300/s, burst: 60 }";
    let gateways = gateways(3, &patient(&redis, &worker, limits, "")).await;
    let (admitted, took) = flood(&gateways, Duration::from_secs(3)).await;
    // Each may hold a lease of at most a tenth of a second's share.
    let quota = 300.0 * took.as_secs_f64() + 60.0 + 3.0 * 10.0;
    assert!(admitted as f64 <= quota, "{admitted} of {quota}");
    assert!(admitted as f64 >= 0.25 * quota, "only {admitted} of {quota}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_save_trips_up_to_half_the_quota() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let limits = "  - { name: whole, algorithm: token_bucket, per: all, rate: 10000/s, burst: 10000 }";
    let gateways = gateways(1, &patient(&redis, &worker, limits, "")).await;
    // Before the first lease every gateway asks for one.
    for _ in 0..3 {
        assert_eq!(call(&gateways[0]).await.status, 200);
    }
    let trips = || gateways[0].metric("redis_command_seconds_count", "lease");
    let before = trips();
    assert!(before >= 1.0);
    let (admitted, _) = flood(&gateways, Duration::from_secs(2)).await;
    let trips = trips() - before;
    assert!(admitted as f64 >= 20.0 * trips, "{trips} trips for {admitted} requests");
}

#[tokio::test]
async fn tokens_are_settled_for_all_gateways() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let limits =
        "  - { name: tokens, algorithm: sliding_window, per: caller, unit: tokens, limit: 1000, window: 1h }";
    let more = "callers: { from: [{ header: x-user-id }], trusted_proxies: [127.0.0.1] }";
    let gateways = gateways(2, &patient(&redis, &worker, limits, more)).await;
    let left = async |dam: &Dam, id: &str| {
        let answer = chat_as(dam, id, 1, false).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.number("x-ratelimit-remaining-tokens")
    };
    for stream in [false, true] {
        let id = format!("u{stream}");
        let answer = chat_as(&gateways[0], &id, 400, stream).await;
        assert!(answer.status == 200 && answer.whole, "{}", answer.text());
        let reserved = answer.number("x-ratelimit-remaining-tokens");
        // Whatever was reserved, in the end the answer's 400 tokens and the prompt count, and then
        // the tokens of the small probing calls.
        let mut calls = 0;
        eventually("the answer is settled", async || {
            calls += 1;
            let left = left(&gateways[1], &id).await;
            let spent = 1000 - left;
            assert!(left > 300, "{left} left after {calls} calls, {reserved} at first");
            spent > 400
        })
        .await;
    }
    assert!(left(&gateways[1], "another").await > 900, "callers do not share a quota");
}

#[tokio::test]
async fn a_refusal_says_when_and_holds_without_further_trips() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let limits = "  - { name: each, algorithm: token_bucket, per: caller, rate: 2/s, burst: 1 }
  - { name: hour, algorithm: sliding_log, per: caller, limit: 3, window: 1h, mode: observe }";
    let gateways = gateways(2, &patient(&redis, &worker, limits, "")).await;
    let first = call(&gateways[0]).await;
    assert_eq!((first.status, first.number("x-ratelimit-remaining-requests")), (200, 0));
    let refused = call(&gateways[1]).await;
    assert_eq!((refused.status, refused.reason()), (429, "rate_limited"));
    assert!(refused.refusal().3.contains("Rule 'each' allows each caller 2 requests per second, burst 1"));
    let trips = gateways[1].metric("redis_command_seconds_count", "rules");
    for _ in 0..5 {
        assert_eq!(call(&gateways[1]).await.status, 429);
    }
    assert_eq!(
        gateways[1].metric("redis_command_seconds_count", "rules"),
        trips,
        "what is known is not asked"
    );
    tokio::time::sleep(Duration::from_millis(refused.number("retry-after-ms"))).await;
    assert_eq!(call(&gateways[1]).await.status, 200, "who waits as told is admitted");
    for _ in 0..2 {
        let wait = call(&gateways[0]).await.number("retry-after-ms");
        tokio::time::sleep(Duration::from_millis(wait)).await;
        assert_eq!(call(&gateways[0]).await.status, 200, "the rule that observes refuses nobody");
    }
    assert_eq!(gateways[0].metric("limit_checks_total", "would_refuse"), 1.0);
}

#[tokio::test]
async fn what_is_given_back_elsewhere_ends_a_refusal_however_long_it_was_to_hold() {
    // Once with one trip per request, once with leases.
    for limits in [
        "  - { name: each, algorithm: sliding_log, per: caller, limit: 1, window: 1h }",
        "  - { name: whole, algorithm: token_bucket, per: all, rate: 1/h, burst: 1 }",
    ] {
        let (redis, worker) = (Server::start().await, Worker::start(64));
        let gateways = gateways(1, &patient(&redis, &worker, limits, "")).await;
        assert_eq!(call(&gateways[0]).await.status, 200);
        let refused = call(&gateways[0]).await;
        assert_eq!(refused.status, 429, "{limits}");
        assert!(refused.number("retry-after") > 3000);
        let mut connection = redis.connect().await;
        let cells: Vec<String> =
            redis::cmd("KEYS").arg("dam:limit:*").query_async(&mut connection).await.unwrap();
        redis::cmd("DEL").arg(cells).query_async::<u64>(&mut connection).await.unwrap();
        eventually("the quota is asked again", async || call(&gateways[0]).await.status == 200).await;
    }
}

#[tokio::test]
async fn of_a_crowd_each_is_told_when_its_own_unit_is_free() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let limits = "  - { name: each, algorithm: token_bucket, per: caller, rate: 1/m, burst: 2 }";
    let gateways = gateways(1, &patient(&redis, &worker, limits, "")).await;
    let mut waits = Vec::new();
    for _ in 0..4 {
        let answer = call(&gateways[0]).await;
        if answer.status == 429 {
            waits.push(answer.number("retry-after-ms"));
        }
    }
    // The second unit is free a minute after the first, less the time of the calls.
    assert!(waits.len() == 2 && waits[1] > waits[0] + 30_000, "{waits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_streams_use_no_more_tokens_than_the_quota_has() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let limits = "  - { name: tokens, algorithm: token_bucket, per: caller, unit: tokens, rate: 100/h, burst: 100, reserve: max }";
    let more = "callers: { from: [{ header: x-user-id }], trusted_proxies: [127.0.0.1] }";
    let gateways = gateways(3, &patient(&redis, &worker, limits, more)).await;
    let streams = (0..30).map(|index| chat_as(&gateways[index % 3], "greedy", 30, true));
    let answers = futures_util::future::join_all(streams).await;
    let admitted = answers.iter().filter(|answer| answer.status == 200).count();
    assert!(answers.iter().all(|answer| answer.status == 200 || answer.reason() == "token_limited"));
    let used: f64 = gateways.iter().map(|dam| dam.metric("tokens_total", "")).sum();
    assert!((2..=3).contains(&admitted) && used <= 100.0, "{admitted} streams used {used} tokens");
    // Reserved but unused tokens are free again, for each gateway, and no more than that.
    let small = async |dam: &Dam| chat_as(dam, "greedy", 1, false).await.status;
    eventually("the rest is free", async || small(&gateways[1]).await == 200).await;
    while small(&gateways[2]).await == 200 {}
    let used: f64 = gateways.iter().map(|dam| dam.metric("tokens_total", "")).sum();
    // The last admitted call may misjudge its prompt; hardly any quota has refilled.
    assert!(used <= 105.0, "{used} tokens in all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debt_is_paid_before_the_next_is_admitted() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    // The bucket holds less than an answer takes: it is reserved whole, and the rest becomes debt.
    let limits =
        "  - { name: tokens, algorithm: token_bucket, per: caller, unit: tokens, rate: 100/s, burst: 50 }";
    let more = "callers: { from: [{ header: x-user-id }], trusted_proxies: [127.0.0.1] }";
    let gateways = gateways(2, &patient(&redis, &worker, limits, more)).await;
    let began = now();
    assert_eq!(chat_as(&gateways[0], "u", 250, false).await.status, 200);
    eventually("the debt is known to the other", async || {
        let answer = chat_as(&gateways[1], "u", 1, false).await;
        answer.reason() == "token_limited" && answer.number("retry-after-ms") > 700
    })
    .await;
    let wait = chat_as(&gateways[1], "u", 1, false).await.number("retry-after-ms");
    tokio::time::sleep(Duration::from_millis(wait)).await;
    assert_eq!(chat_as(&gateways[1], "u", 1, false).await.status, 200);
    let used: f64 = gateways.iter().map(|dam| dam.metric("tokens_total", "")).sum();
    let quota = 50.0 + 100.0 * began.elapsed().as_secs_f64();
    // The probing calls may misjudge their prompts.
    assert!(used <= quota + 20.0, "{used} of {quota}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_of_ten_holds_more_than_the_log_allows() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let limits = "  - { name: log, algorithm: sliding_log, per: caller, limit: 20, window: 300ms }";
    let gateways = gateways(3, &patient(&redis, &worker, limits, "")).await;
    let (admitted, took) = flood(&gateways, Duration::from_secs(3)).await;
    let windows = (took.as_secs_f64() / 0.3).ceil();
    assert!(admitted as f64 <= 20.0 * windows && admitted >= 120, "{admitted} in {windows} windows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_of_ten_holds_more_than_the_log_and_the_leases() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let limits = "  - { name: log, algorithm: sliding_log, per: all, limit: 90, window: 300ms }";
    let gateways = gateways(3, &patient(&redis, &worker, limits, "")).await;
    let (admitted, took) = flood(&gateways, Duration::from_secs(3)).await;
    let windows = (took.as_secs_f64() / 0.3).ceil();
    // A lease is at most what the rule gives each gateway in 100 ms.
    let most = 90.0 * windows + 3.0 * 10.0;
    assert!(admitted as f64 <= most && admitted >= 120, "{admitted} in {windows} windows");
}

#[tokio::test]
async fn budgets_lie_within_each_other_at_one_trip_a_request() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let limits = "  - { name: caller, algorithm: sliding_window, per: caller, limit: 4, window: 1h }
  - { name: team, algorithm: sliding_window, per: team, limit: 6, window: 1d }
  - { name: month, algorithm: sliding_window, per: all, limit: 1000, window: 30d }";
    // The SHA-256 of `a`, `b` and `c`.
    let more = "callers:
  anonymous: refuse
  keys:
    - { id: a, team: red, sha256: ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb }
    - { id: b, team: red, sha256: 3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d }
    - { id: c, team: blue, sha256: 2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6 }";
    let gateways = gateways(2, &patient(&redis, &worker, limits, more)).await;
    let call = async |dam: &Dam, key: &str| {
        let key = format!("authorization: Bearer {key}");
        dam.ask(super::request("GET /v1/models", &[&key], "")).await
    };
    for index in 0..4 {
        assert_eq!(call(&gateways[index % 2], "a").await.status, 200);
    }
    let own = call(&gateways[0], "a").await;
    assert!(own.status == 429 && own.refusal().3.contains("Rule 'caller' allows each caller 4"));
    assert_eq!((call(&gateways[0], "b").await.status, call(&gateways[1], "b").await.status), (200, 200));
    let team = call(&gateways[0], "b").await;
    assert!(team.status == 429 && team.refusal().3.contains("Rule 'team' allows each team 6"));
    assert_eq!(call(&gateways[1], "c").await.status, 200, "another team");
    for dam in &gateways {
        let asked = dam.metric("requests_total", "");
        let trips = dam.metric("redis_command_seconds_count", "rules");
        assert!(trips <= asked && trips >= 1.0, "{trips} trips for {asked} requests");
    }
}
