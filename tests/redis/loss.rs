//! Redis fails, stalls or comes back empty: no request waits for it, or fails because of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use traffic_dam::server::admin::AdminSource;

use super::{Dam, Server, Worker, call, eventually, gateways, patient, settings, up};

const LIMITS: &str = "  - { name: each, algorithm: token_bucket, per: caller, rate: 1/h, burst: 20 }";

/// Returns how many of `count` calls were admitted; all others were refused by a rule.
async fn admitted(dam: &Dam, count: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..count {
        let answer = call(dam).await;
        match answer.status {
            200 => admitted += 1,
            status => assert_eq!((status, answer.reason()), (429, "rate_limited"), "{}", answer.text()),
        }
    }
    admitted
}

#[tokio::test]
async fn without_redis_each_gateway_gives_its_share() {
    let (mut redis, worker) = (Server::start().await, Worker::start(64));
    let gateways = gateways(2, &patient(&redis, &worker, LIMITS, "")).await;
    assert_eq!(admitted(&gateways[0], 5).await, 5);
    redis.kill();
    for dam in &gateways {
        assert_eq!(admitted(dam, 20).await, 10, "half of the burst");
        up(dam, false).await;
        assert!(dam.metric("redis_fallback_total", "") >= 20.0);
    }
    redis.resume().await;
    for dam in &gateways {
        up(dam, true).await;
    }
    assert_eq!(admitted(&gateways[0], 30).await + admitted(&gateways[1], 30).await, 20, "it came back empty");
}

#[tokio::test]
async fn rules_are_open_or_closed_as_they_say() {
    let (mut redis, worker) = (Server::start().await, Worker::start(64));
    let limits = "  - { name: open, algorithm: sliding_log, per: caller, limit: 1, window: 1h, on_loss: open }
  - { name: closed, algorithm: sliding_window, per: caller, limit: 100, window: 1h, match: { model: shut }, on_loss: closed }";
    let gateways = gateways(1, &patient(&redis, &worker, limits, "")).await;
    assert_eq!(admitted(&gateways[0], 5).await, 1);
    redis.kill();
    up(&gateways[0], false).await;
    assert_eq!(admitted(&gateways[0], 5).await, 5);
    let body = r#"{"model":"shut","messages":[],"max_tokens":1}"#;
    let shut = super::request("POST /v1/chat/completions", &["content-type: application/json"], body);
    let answer = gateways[0].ask(&shut).await;
    assert_eq!((answer.status, answer.reason()), (503, "limiter_unavailable"), "{}", answer.text());
    assert!(answer.refusal().3.contains("'closed'"), "{}", answer.text());
    assert!((1000..=1500).contains(&answer.number("retry-after-ms")));
}

#[tokio::test]
async fn a_stalled_redis_holds_nobody_and_charges_nothing_twice() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let gateways = gateways(1, &settings(&redis, &worker, LIMITS, "")).await;
    let dam = &gateways[0];
    redis.stall(true);
    // The first few wait for the timeout, the others do not.
    assert_eq!(admitted(dam, 12).await, 12);
    up(dam, false).await;
    let slow = dam.metric("redis_command_seconds_count", "rules");
    // Heartbeats and probes that time out count towards the breaker too.
    assert!((1.0..12.0).contains(&slow), "{slow} trips in vain");
    redis.stall(false);
    up(dam, true).await;
    // Local charges stay; the effects of the late scripts on the server are undone.
    eventually("everything late is undone", async || {
        let mut connection = redis.connect().await;
        let pattern = "dam:limit:*:each:*";
        let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.unwrap();
        keys.is_empty()
    })
    .await;
    assert_eq!(admitted(dam, 30).await, 20);
}

#[tokio::test]
async fn a_slow_redis_is_given_up() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    // Much shorter than each command takes, or some would be answered in time.
    let text = settings(&redis, &worker, LIMITS, "").replace("timeout: 100ms", "timeout: 10ms");
    let gateways = gateways(1, &text).await;
    let mut connection = redis.connect().await;
    let found = Arc::new(AtomicBool::new(false));
    // Each command waits for one of 200 ms, for as long as it takes: this machine may be slow too.
    let over = Arc::clone(&found);
    let busy = tokio::spawn(async move {
        while !over.load(Ordering::Relaxed) {
            let script = "local t = redis.call('TIME'); local till = t[1] * 1e6 + t[2] + 200000
                repeat t = redis.call('TIME') until t[1] * 1e6 + t[2] > till";
            redis::cmd("EVAL")
                .arg(script)
                .arg(0)
                .query_async::<()>(&mut connection)
                .await
                .unwrap_or_default();
        }
    });
    eventually("it is found slow", async || {
        let answer = call(&gateways[0]).await;
        assert!(matches!(answer.status, 200 | 429), "{}", answer.text());
        tokio::time::sleep(Duration::from_millis(1)).await;
        gateways[0].metric("redis_up", "") == 0.0
    })
    .await;
    found.store(true, Ordering::Relaxed);
    busy.await.unwrap();
    up(&gateways[0], true).await;
}

#[tokio::test]
async fn a_client_that_goes_while_redis_is_asked_pays_nothing() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let gateways = gateways(1, &patient(&redis, &worker, LIMITS, "")).await;
    redis.stall(true);
    for _ in 0..7 {
        let mut connection = super::client::Conn::open(gateways[0].addr).await;
        connection.send(super::get("/v1/models")).await.unwrap();
        eventually("it is under way", async || gateways[0].metric("in_flight", "") == 1.0).await;
        drop(connection);
        eventually("it is gone", async || gateways[0].metric("in_flight", "") == 0.0).await;
    }
    redis.stall(false);
    eventually("everything is taken back", async || {
        let answer = call(&gateways[0]).await;
        answer.status == 200 && answer.number("x-ratelimit-remaining-requests") > 0
    })
    .await;
    let spent = gateways[0].metric("limit_checks_total", "allowed");
    let left = call(&gateways[0]).await.number("x-ratelimit-remaining-requests");
    assert_eq!(left as f64, 20.0 - spent - 1.0);
}

#[tokio::test]
async fn a_redis_that_comes_and_goes_gives_no_share_anew() {
    let (mut redis, worker) = (Server::start().await, Worker::start(64));
    let gateways = gateways(3, &patient(&redis, &worker, LIMITS, "gateways: 3")).await;
    redis.kill();
    for dam in &gateways {
        assert_eq!(admitted(dam, 10).await, 6, "a third of the burst");
    }
    for _ in 0..2 {
        // It comes back empty: the first gateway to look sees no others.
        redis.resume().await;
        for dam in &gateways {
            up(dam, true).await;
        }
        // On a slow machine one may have been away for so long that the others do not count it any more.
        for dam in &gateways {
            eventually("all are seen", async || dam.app.state()["gateways"] == 3).await;
        }
        redis.kill();
        for dam in &gateways {
            up(dam, false).await;
            assert_eq!((admitted(dam, 10).await, &dam.app.state()["gateways"]), (0, &3.into()));
        }
    }
}

#[tokio::test]
async fn a_gateway_that_starts_without_redis_begins_with_one() {
    let (mut redis, worker) = (Server::start().await, Worker::start(64));
    redis.kill();
    let text = settings(&redis, &worker, LIMITS, "gateways: 2");
    let own =
        "  - { name: each, algorithm: sliding_window, per: caller, unit: tokens, limit: 1000, window: 1h }";
    let tokens = settings(&redis, &worker, own, "gateways: 2");
    for _ in 0..3 {
        let dam = Dam::start(&text);
        assert_eq!(admitted(&dam, 10).await, 1);
        let answer = super::chat_as(&Dam::start(&tokens), "a", 50, false).await;
        assert_eq!((answer.status, answer.reason()), (429, "token_limited"), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_redis_that_runs_no_scripts_counts_as_away_at_the_start() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let mut connection = redis.connect().await;
    let words = ["SETUSER", "default", "-@scripting"];
    redis::cmd("ACL").arg(&words).query_async::<()>(&mut connection).await.unwrap();
    let text = settings(&redis, &worker, LIMITS, "gateways: 2");
    for _ in 0..3 {
        let dam = Dam::start(&text);
        up(&dam, true).await;
        assert_eq!(admitted(&dam, 10).await, 1, "it does not know what it gave before");
    }
}

#[tokio::test]
async fn the_part_of_the_workers_that_a_dead_gateway_had_is_taken_over() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let text = patient(&redis, &worker, LIMITS, "gateways: 2\nconcurrency: { limit: slots }");
    let mut gateways = gateways(2, &text).await;
    let limit = |dam: &Dam| dam.metric("concurrency_limit", "w1");
    for dam in &gateways {
        eventually("half of the slots", async || limit(dam) == 32.0).await;
    }
    gateways.remove(0);
    eventually("all of them", async || limit(&gateways[0]) == 64.0).await;
    // Two more gateways start.
    let more = [Dam::start(&text), Dam::start(&text)];
    for dam in gateways.iter().chain(&more) {
        eventually("a third of the slots", async || limit(dam) == 21.0).await;
    }
}

#[tokio::test]
async fn the_part_of_the_workers_that_a_draining_gateway_had_is_taken_over_at_once() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let more = "gateways: 2\nconcurrency: { limit: slots }\ndrain: { delay: 10m }";
    let gateways = gateways(2, &patient(&redis, &worker, LIMITS, more)).await;
    let limit = |dam: &Dam| dam.metric("concurrency_limit", "w1");
    for dam in &gateways {
        eventually("half of the slots", async || limit(dam) == 32.0).await;
    }
    let app = gateways[1].app.clone();
    let draining = tokio::spawn(async move { app.drain().await });
    eventually("all of them", async || limit(&gateways[0]) == 64.0).await;
    assert_eq!(gateways[0].app.state()["gateways"], 2, "it is still there, and counts for the rules");
    assert_eq!(limit(&gateways[1]), 32.0, "requests that come late have their room");
    draining.abort();
}

#[tokio::test]
async fn a_rotated_password_is_taken_with_a_reload() {
    let (redis, worker) = (Server::start().await, Worker::start(64));
    let connection = redis.connect().await;
    let run = async |words: &str| -> redis::Value {
        let words: Vec<&str> = words.split(' ').collect();
        let mut connection = connection.clone();
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.unwrap()
    };
    run("ACL SETUSER gateway on >old ~* &* +@all").await;
    let text = |password: &str| {
        patient(&redis, &worker, LIMITS, "").replace("redis://", &format!("redis://gateway:{password}@"))
    };
    let dam = &gateways(1, &text("old")).await[0];
    // While it is connected it needs no password.
    run("ACL SETUSER gateway resetpass >new").await;
    assert_eq!(admitted(dam, 1).await, 1);
    run("CLIENT KILL USER gateway").await;
    up(dam, false).await;
    dam.app.reload(super::rig::settings(&text("new"))).unwrap();
    up(dam, true).await;
    // The next settings are compared with the ones in force.
    run("ACL SETUSER gateway resetpass >newest").await;
    dam.app.reload(super::rig::settings(&text("newest"))).unwrap();
    run("CLIENT KILL USER gateway").await;
    eventually("it has connected anew", async || {
        format!("{:?}", run("CLIENT LIST").await).contains("user=gateway")
    })
    .await;
}
