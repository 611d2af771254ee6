//! Workers appear, leave and stop sending heartbeats over a real Redis; and Redis itself fails.

use std::time::Duration;

use serde_json::Value;
use traffic_dam::server::admin::AdminSource;

use super::client::{Conn, chat, get};
use super::redis::{INTERVAL, Redis, Speaker, at, beat, throughout};
use super::rig::{Dam, Worker, eventually, settings};

pub(crate) fn discovering(redis: &Redis, more: &str) -> String {
    format!(
        "workers: {{ discovery: redis, allow: [127.0.0.1]{more} }}\nredis: {{ url: \"{}\" }}\n",
        redis.url()
    )
}

/// Returns what the admin port shows of a worker.
pub(crate) fn shown(dam: &Dam, id: &str) -> Option<Value> {
    let state = dam.app.state();
    let pools = state["pools"].as_array().unwrap().iter();
    pools.flat_map(|pool| pool["workers"].as_array().unwrap()).find(|worker| worker["id"] == id).cloned()
}

async fn light(dam: &Dam, id: &str, light: &str) {
    eventually(light, async || shown(dam, id).is_some_and(|worker| worker["light"] == light)).await;
}

pub(crate) async fn serves(dam: &Dam) {
    let answer = dam.ask(chat("a", true, 2, &[])).await;
    assert_eq!((answer.status, answer.whole), (200, true), "{}", answer.text());
}

pub(crate) async fn feed(dam: &Dam, up: f64) {
    let awaited = if up == 1.0 { "the feed is up" } else { "the feed is down" };
    eventually(awaited, async || dam.metric("redis_up", "") == up).await;
}

#[tokio::test]
async fn a_worker_comes_with_its_heartbeat_and_goes_when_it_says_so() {
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let dam = Dam::start(&discovering(&redis, ""));
    feed(&dam, 1.0).await;
    let answer = dam.ask(chat("a", true, 2, &[])).await;
    assert_eq!((answer.status, answer.reason()), (503, "no_worker"));
    assert_eq!(super::client::ask(dam.admin, get("/readyz")).await.status, 200);

    let patient = |seq, state: &str| {
        let text = beat("w1", "a", seq, &at(&worker));
        text.replace("\"interval_ms\":100", "\"interval_ms\":60000").replace("ready", state)
    };
    redis.publish(&patient(1, "ready")).await;
    light(&dam, "w1", "green").await;
    serves(&dam).await;
    for (seq, state, served) in
        [(2, "standby", 503), (3, "ready", 200), (4, "failed", 503), (5, "ready", 200), (6, "draining", 503)]
    {
        redis.publish(&patient(seq, state)).await;
        eventually(state, async || shown(&dam, "w1").unwrap()["said"]["state"] == state).await;
        eventually(state, async || dam.ask(chat("a", true, 2, &[])).await.status == served).await;
    }
}

#[tokio::test]
async fn what_was_said_before_is_read_from_the_keys() {
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let publisher = Speaker::start(&redis, "w1", at(&worker));
    // Names without a heartbeat, and keys of another type, do no harm.
    redis.run(&[b"SADD", b"dam:workers", b"gone", b"odd", b"\xff\n"]).await.unwrap();
    redis.run(&[b"LPUSH", b"dam:worker:odd", b"1"]).await.unwrap();
    let is_kept = async || redis.run(&[b"EXISTS", b"dam:worker:w1"]).await == Some(::redis::Value::Int(1));
    eventually("the key", is_kept).await;
    publisher.quiet(true);
    let dam = Dam::start(&discovering(&redis, ""));
    eventually("the worker", async || shown(&dam, "w1").is_some()).await;
    drop(publisher);
    let members = async || redis.run(&[b"SMEMBERS", b"dam:workers"]).await.unwrap();
    let left = redis::Value::Array(vec![redis::Value::BulkString(b"w1".to_vec())]);
    eventually("the set is swept", async || members().await == left).await;
}

#[tokio::test]
async fn a_silent_worker_gets_nothing_until_it_speaks_again() {
    let (redis, workers) = (Redis::start().await, [Worker::start(8), Worker::start(8)]);
    let dam = Dam::start(&discovering(&redis, ""));
    let speakers =
        [Speaker::start(&redis, "w1", at(&workers[0])), Speaker::start(&redis, "w2", at(&workers[1]))];
    light(&dam, "w1", "green").await;
    light(&dam, "w2", "green").await;
    speakers[0].quiet(true);
    light(&dam, "w1", "red").await;
    eventually("it counts for nothing", async || shown(&dam, "w1").unwrap()["weight"] == 0.0).await;
    let before = workers[0].tally("received").await;
    for _ in 0..20 {
        serves(&dam).await;
    }
    assert_eq!(workers[0].tally("received").await, before);
    assert!(dam.metric("worker_heartbeat_age_seconds", "w1") > 0.3);
    speakers[0].quiet(false);
    light(&dam, "w1", "green").await;
    eventually("it is asked again", async || {
        serves(&dam).await;
        workers[0].tally("received").await > before
    })
    .await;
}

/// Checks that requests are served during an outage, and that the state is right soon after it.
async fn outlives(dam: &Dam, publisher: &Speaker, end: impl AsyncFnOnce()) {
    // Ten times the time after which a silent worker is forgotten while Redis works.
    throughout(INTERVAL * 30, async || serves(dam).await).await;
    feed(dam, 0.0).await;
    throughout(INTERVAL * 5, async || serves(dam).await).await;
    end().await;
    feed(dam, 1.0).await;
    throughout(INTERVAL * 10, async || serves(dam).await).await;
    light(dam, "w1", "green").await;
    // Its heartbeats are heard again.
    publisher.quiet(true);
    light(dam, "w1", "red").await;
}

#[tokio::test]
async fn redis_is_killed_and_comes_back_empty_and_nobody_notices() {
    let (mut redis, worker) = (Redis::start().await, Worker::start(8));
    let dam = Dam::start(&discovering(&redis, ""));
    let publisher = Speaker::start(&redis, "w1", at(&worker));
    light(&dam, "w1", "green").await;
    redis.kill();
    outlives(&dam, &publisher, async || redis.restart().await).await;
}

#[tokio::test]
async fn redis_hangs_and_nobody_notices() {
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let dam = Dam::start(&discovering(&redis, ""));
    let publisher = Speaker::start(&redis, "w1", at(&worker));
    light(&dam, "w1", "green").await;
    redis.pause();
    outlives(&dam, &publisher, async || redis.resume().await).await;
}

#[tokio::test]
async fn forged_heartbeats_change_nothing_and_are_counted() {
    let (redis, workers) = (Redis::start().await, [Worker::start(8), Worker::start(8)]);
    let static_one = format!(", static: [{}]", workers[0].entry("s1", 8));
    let dam = Dam::start(&discovering(&redis, &static_one));
    feed(&dam, 1.0).await;
    let far = r#","url":"http://192.0.2.1:8000""#;
    let elsewhere = at(&workers[1]);
    redis.publish(&beat("w1", "a", 5, &elsewhere)).await;
    eventually("the worker", async || shown(&dam, "w1").is_some()).await;
    for (text, kind) in [
        (beat("x", "a", 1, far), "not_allowed"),
        (beat("s1", "a", 1, &elsewhere), "contradicts"),
        (beat("w1", "a", 5, &elsewhere), "replayed"),
        (beat("w1", "a", 6, &(elsewhere.clone() + r#","at_ms":99999999999999"#)), "future"),
        ("x".repeat(1 << 20), "oversized"),
        ("{}".to_owned(), "malformed"),
        (r#"{"v":2}"#.to_owned(), "version"),
    ] {
        let before = dam.metric("heartbeats_total", kind);
        redis.publish(&text).await;
        eventually(kind, async || dam.metric("heartbeats_total", kind) == before + 1.0).await;
        assert!(shown(&dam, "x").is_none());
        assert_eq!(shown(&dam, "s1").unwrap()["said"], Value::Null);
        assert_eq!(shown(&dam, "w1").unwrap()["said"]["at_ms"], Value::Null);
    }
    serves(&dam).await;
}

#[tokio::test]
async fn with_a_key_only_signed_heartbeats_count() {
    use traffic_dam::fleet::heartbeat::SigningKey;
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let text = discovering(&redis, "").replace("redis: { url", "redis: { hmac_key: k, url");
    let dam = Dam::start(&text);
    feed(&dam, 1.0).await;
    redis.publish(&beat("w1", "a", 1, &at(&worker))).await;
    redis
        .publish(&SigningKey::new("other").signed_text("dam:health", &beat("w1", "a", 1, &at(&worker))))
        .await;
    for kind in ["unsigned", "forged"] {
        eventually(kind, async || dam.metric("heartbeats_total", kind) == 1.0).await;
    }
    assert!(shown(&dam, "w1").is_none());
    redis.publish(&SigningKey::new("k").signed_text("dam:health", &beat("w1", "a", 1, &at(&worker)))).await;
    eventually("the worker", async || shown(&dam, "w1").is_some()).await;
}

#[tokio::test]
async fn a_reload_follows_another_redis_or_none() {
    let (one, other) = (Redis::start().await, Redis::start().await);
    let workers = [Worker::start(8), Worker::start(8)];
    let dam = Dam::start(&discovering(&one, ""));
    let _speakers =
        [Speaker::start(&one, "w1", at(&workers[0])), Speaker::start(&other, "w2", at(&workers[1]))];
    light(&dam, "w1", "green").await;
    dam.app.reload(settings(&discovering(&other, ""))).unwrap();
    light(&dam, "w2", "green").await;
    let static_one = format!("workers: {{ static: [{}] }}\n", workers[0].entry("s1", 8));
    dam.app.reload(settings(&static_one)).unwrap();
    assert!(shown(&dam, "w2").is_none() && shown(&dam, "s1").is_some());
    assert_eq!(dam.app.metrics().matches("redis_up").count(), 0);
    throughout(Duration::from_millis(300), async || serves(&dam).await).await;
    assert!(shown(&dam, "w2").is_none());
}

#[tokio::test]
async fn what_a_worker_reports_lowers_what_it_gets() {
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let dam = Dam::start(&(discovering(&redis, "") + "concurrency: { queue: { wait: 0s } }\n"));
    let full = at(&worker) + r#","kv_tokens":1000,"kv_used":0.9"#;
    let publisher = Speaker::start(&redis, "w1", full);
    light(&dam, "w1", "yellow").await;
    assert_eq!(dam.metric("worker_kv_used", "w1"), 0.9);
    // One request runs; a second one does not fit into a KV cache that is reported so full.
    let mut holder = Conn::open(dam.addr).await;
    holder.send(chat("holder", true, 5, &["x-sim-fault: stall:1"])).await.unwrap();
    worker.busy_with(1).await;
    eventually("the report counts", async || dam.ask(chat("a", true, 2, &[])).await.reason() == "overloaded")
        .await;
    drop(holder);
    dam.idle().await;
    assert_eq!(dam.metric("concurrency_limit", "w1"), 8.0);
    publisher.quiet(true);
    eventually("its weight falls", async || dam.metric("concurrency_limit", "w1") < 8.0).await;
}
