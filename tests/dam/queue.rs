//! Workers that take requests from a queue, over a real Redis.

use serde_json::{Value, json};

use super::client::{Answer, Conn, chat, get, request};
use super::fleet::{feed, shown};
use super::hand::{DONE, Hand, JSON, SSE, Taken, token};
use super::redis::Redis;
use super::rig::{Dam, eventually};

pub(crate) fn queueing(redis: &Redis, more: &str) -> String {
    format!("workers: {{ mode: queue }}\nredis: {{ url: \"{}\", timeout: 500ms }}\n{more}", redis.url())
}

/// Returns a gateway that knows a worker of `slots` slots.
pub(crate) async fn started(slots: u32, more: &str) -> (Redis, Dam, Hand) {
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, more));
    let hand = Hand::join(&redis, "w1", "blue", slots).await;
    known(&dam, "default.blue").await;
    (redis, dam, hand)
}

pub(crate) async fn known(dam: &Dam, side: &str) {
    eventually("the side is known", async || {
        shown(dam, side).is_some_and(|side| side["eligible"] == true) && dam.metric("redis_up", "") == 1.0
    })
    .await;
}

async fn asked(dam: &Dam, bytes: Vec<u8>) -> Conn {
    let mut conn = Conn::open(dam.addr).await;
    conn.send(bytes).await.unwrap();
    conn
}

/// Returns a chat whose first token the client has seen.
async fn begun(dam: &Dam, hand: &Hand) -> (Conn, Taken) {
    let mut conn = asked(dam, chat("a", true, 8, &[])).await;
    let mut taken = hand.take().await;
    assert_eq!(hand.emit(&mut taken, &[("head", SSE), ("data", &token("one"))]).await, "OK");
    conn.head().await.unwrap();
    conn.see("one").await.unwrap();
    (conn, taken)
}

async fn over(dam: &Dam, hand: &Hand) {
    dam.idle().await;
    eventually("an empty queue", async || hand.length().await == 0).await;
}

#[tokio::test]
async fn a_stream_comes_as_its_worker_made_it() {
    let (_redis, dam, hand) = started(4, "").await;
    let fields = [
        "authorization: Bearer secret",
        "cookie: a=b",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ];
    let mut conn = asked(&dam, chat("mine", true, 8, &fields)).await;
    let mut taken = hand.take().await;
    assert_eq!((taken.attempt, taken.path.as_str()), (1, "/v1/chat/completions"));
    let now = hand.run::<Vec<u64>>(&["TIME"]).await[0] * 1000;
    assert!(taken.epoch.abs_diff(now) < 60_000, "{} at {now}", taken.epoch);
    assert!((1..=600_000).contains(&taken.left_ms) && taken.signature.is_empty());
    let headers: Value = serde_json::from_str(&taken.headers).unwrap();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let expected = json!({"content-type": "application/json", "traceparent": trace, "x-request-id": "mine"});
    assert_eq!(headers, expected);
    assert_eq!(serde_json::from_str::<Value>(&taken.body).unwrap()["max_tokens"], 8);
    assert_eq!(hand.field(&taken.job, "class").await.as_deref(), Some("interactive"));
    assert_eq!(hand.field(&taken.job, "caller").await.unwrap().len(), 32);
    // Cut in the middle of an event.
    let whole = [token("ä"), token("b"), DONE.to_owned()].concat();
    let (one, rest) = whole.split_at(whole.find("content").unwrap());
    let (two, three) = rest.split_at(rest.len() - 3);
    hand.emit(&mut taken, &[("head", SSE), ("data", one)]).await;
    hand.emit(&mut taken, &[("data", two), ("data", ""), ("data", three)]).await;
    hand.answer(&mut taken, &[("end", "")]).await;
    let answer = conn.answer().await.unwrap();
    assert_eq!((answer.status, answer.whole, answer.text()), (200, true, whole.as_str()));
    assert_eq!(
        (answer.header("content-type"), answer.header("x-request-id")),
        (Some("text/event-stream"), Some("mine"))
    );
    over(&dam, &hand).await;
    assert_eq!(dam.metric("ttft_seconds_count", "default"), 1.0);
    assert_eq!(dam.metric("requests_total", "complete"), 1.0);
    assert_eq!(hand.field(&taken.job, "state").await.as_deref(), Some("done"));
    eventually("the answer is cleared away", async || {
        hand.run::<u64>(&["EXISTS", &format!("dam:reply:{{{}}}", taken.job)]).await == 0
    })
    .await;
}

#[tokio::test]
async fn json_errors_and_usage_come_through_as_over_http() {
    let limits = "limits: [{ name: t, algorithm: sliding_window, per: caller, unit: tokens, limit: 1000, window: 1m }]";
    let (_redis, dam, hand) = started(4, limits).await;
    let body = r#"{"object":"chat.completion","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}"#;
    let mut conn = asked(&dam, chat("a", false, 8, &[])).await;
    let mut taken = hand.take().await;
    hand.answer(&mut taken, &[("head", JSON), ("data", body), ("end", "")]).await;
    let answer = conn.answer().await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, body));
    over(&dam, &hand).await;
    assert_eq!(dam.metric("tokens_total", "output"), 5.0);

    let mut conn = asked(&dam, chat("a", false, 8, &[])).await;
    let mut taken = hand.take().await;
    let head = r#"{"worker":"w1","status":400,"headers":{"content-type":"application/json","x-ratelimit-limit":"1"}}"#;
    hand.answer(&mut taken, &[("head", head), ("data", "{}"), ("end", "")]).await;
    let answer = conn.answer().await.unwrap();
    assert_eq!((answer.status, answer.text()), (400, "{}"));

    let mut conn = asked(&dam, chat("a", true, 8, &[])).await;
    let mut taken = hand.take().await;
    hand.answer(&mut taken, &[("error", r#"{"reason":"upstream_timeout","message":"the engine hangs"}"#)])
        .await;
    let answer = conn.answer().await.unwrap();
    assert_eq!((answer.status, answer.reason()), (504, "upstream_timeout"));
    assert!(answer.text().contains("the engine hangs"), "{}", answer.text());
    over(&dam, &hand).await;
}

#[tokio::test]
async fn what_no_job_can_be_is_refused() {
    let (redis, dam, hand) = started(4, "paths: [\"/files/*\"]").await;
    let answer = dam.ask(get("/files/a")).await;
    assert_eq!((answer.status, answer.reason()), (501, "unsupported"));
    assert_eq!(hand.length().await, 0);
    drop(redis);
    eventually("Redis is gone", async || dam.metric("redis_up", "") == 0.0).await;
    let answer = dam.ask(chat("a", true, 8, &[])).await;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_unreachable"));
    dam.idle().await;
}

#[tokio::test]
async fn no_more_jobs_are_there_than_workers_can_start() {
    let (_redis, dam, hand) = started(2, "concurrency: { queue: { wait: 200ms } }").await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        waiting.push((asked(&dam, chat("a", true, 8, &[])).await, hand.take().await));
    }
    // The third request waits in the gate's queue, not in the stream.
    let third = asked(&dam, chat("a", true, 8, &[])).await;
    eventually("it waits", async || dam.held() == 3).await;
    assert_eq!(hand.length().await, 2);
    let (mut conn, mut taken) = waiting.pop().unwrap();
    hand.answer(&mut taken, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    assert!(conn.answer().await.unwrap().whole);
    waiting.push((third, hand.take().await));
    // A stream that others filled: the gateway has free permits, the workers have no slots.
    let other: String = hand.run(&["XADD", &hand.stream(), "*", "job", "x"]).await;
    let (mut conn, mut taken) = waiting.pop().unwrap();
    hand.answer(&mut taken, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    assert!(conn.answer().await.unwrap().whole);
    let answer = dam.ask(chat("a", true, 8, &[])).await;
    assert_eq!((answer.status, answer.reason()), (503, "overloaded"));
    assert!((1000..=1500).contains(&answer.number("retry-after-ms")));
    let waits = asked(&dam, chat("a", true, 8, &[])).await;
    hand.run::<u64>(&["XDEL", &hand.stream(), &other]).await;
    waiting.push((waits, hand.take().await));
    for (mut conn, mut taken) in waiting {
        hand.answer(&mut taken, &[("head", SSE), ("data", DONE), ("end", "")]).await;
        assert!(conn.answer().await.unwrap().whole);
    }
    over(&dam, &hand).await;
}

#[tokio::test]
async fn a_client_that_leaves_stops_its_worker() {
    let (redis, dam, hand) = started(4, "").await;
    let client = ::redis::Client::open(format!("{}/?protocol=resp3", redis.url())).unwrap();
    let (sender, mut pushes) = tokio::sync::mpsc::unbounded_channel();
    let config = ::redis::AsyncConnectionConfig::new().set_push_sender(sender);
    let mut ear = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    ear.subscribe("dam:cancels:w1").await.unwrap();
    let (conn, mut taken) = begun(&dam, &hand).await;
    drop(conn);
    let told = loop {
        let push: ::redis::PushInfo = pushes.recv().await.unwrap();
        if push.kind == ::redis::PushKind::Message {
            break push.data;
        }
    };
    let ::redis::Value::BulkString(text) = &told[1] else { panic!("{told:?}") };
    assert_eq!(std::str::from_utf8(text).unwrap(), format!("{} {}", taken.job, taken.epoch));
    assert_eq!(hand.field(&taken.job, "cancelled").await.as_deref(), Some("1"));
    assert_eq!(hand.emit(&mut taken, &[("data", &token("two"))]).await, "CANCELLED");
    hand.end(&taken).await;
    over(&dam, &hand).await;

    // A request that no worker has taken yet is removed.
    let conn = asked(&dam, chat("a", true, 8, &[])).await;
    eventually("it is there", async || hand.length().await == 1).await;
    drop(conn);
    over(&dam, &hand).await;
    assert!(hand.read().await.is_none());
}

#[tokio::test]
async fn what_a_dead_worker_began_is_answered_once() {
    let (redis, dam, hand) = started(4, "").await;
    let second = Hand::silent(&redis, "w2", "blue").await;
    // Nothing was sent: the client gets the second run's answer, and nothing of the first run's.
    let mut conn = asked(&dam, chat("a", true, 8, &[])).await;
    let mut first = hand.take().await;
    hand.emit(&mut first, &[("head", JSON)]).await;
    let mut again = second.take_over().await;
    assert!(again.epoch > first.epoch && again.attempt == 2);
    assert_eq!(hand.renew(&[&first.entry]).await, [first.entry.clone()]);
    assert_eq!(hand.emit(&mut first, &[("data", &token("first"))]).await, "FENCED");
    let whole = [token("second").as_str(), DONE].concat();
    second.answer(&mut again, &[("head", SSE), ("data", &whole), ("end", "")]).await;
    let answer = conn.answer().await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, whole.as_str()));

    // Something was sent: the answer ends with an error, and is not run again.
    let (mut conn, first) = begun(&dam, &hand).await;
    let mut claimed = None;
    eventually("a claim", async || {
        claimed = second.claim().await;
        claimed.is_some()
    })
    .await;
    assert_eq!(claimed.unwrap().1, first.job);
    assert_eq!(second.begin(&first.job).await, ["GONE"]);
    second.end(&first).await;
    conn.see("\"code\":\"upstream_broke\"").await.unwrap();
    over(&dam, &hand).await;
    assert_eq!(hand.field(&first.job, "state").await.as_deref(), Some("failed"));
    assert_eq!(dam.metric("requests_total", "worker_failed"), 1.0);
}

#[tokio::test]
async fn a_job_that_fails_everywhere_is_a_dead_letter() {
    let (_redis, dam, hand) = started(4, "").await;
    let mut conn = asked(&dam, chat("a", true, 8, &[])).await;
    let mut taken = hand.take().await;
    for attempt in 1..=3 {
        assert_eq!(taken.attempt, attempt);
        assert_eq!(hand.emit(&mut taken, &[("fail", "out of memory")]).await, "OK");
        let (stream, entry) = (hand.stream(), taken.entry.clone());
        hand.run::<::redis::Value>(&[
            "XCLAIM", &stream, "workers", "w1", "0", &entry, "IDLE", "3600000", "JUSTID",
        ])
        .await;
        if attempt < 3 {
            taken = hand.take_over().await;
        }
    }
    let (entry, job) = hand.claim().await.unwrap();
    assert_eq!(hand.begin(&job).await, ["DEAD", "out of memory", "86400000"]);
    hand.end_dead(&entry, &job, "out of memory").await;
    let answer = conn.answer().await.unwrap();
    assert_eq!((answer.status, answer.reason()), (502, "upstream_broke"));
    assert!(answer.text().contains("out of memory"));
    assert_eq!(hand.run::<u64>(&["XLEN", "dam:dead:{default}"]).await, 1);
    over(&dam, &hand).await;
}

#[tokio::test]
async fn time_runs_out_for_who_waits_and_for_who_works() {
    let redis = Redis::start().await;
    let text = queueing(&redis, "")
        .replace("mode: queue", "mode: queue, timeouts: { first_token: 200ms, idle: 300ms, total: 600ms }");
    let dam = Dam::start(&text);
    let hand = Hand::join(&redis, "w1", "blue", 4).await;
    known(&dam, "default.blue").await;
    // No worker takes it.
    let answer = dam.ask(chat("a", true, 8, &[])).await;
    assert_eq!((answer.status, answer.reason()), (504, "upstream_timeout"));
    over(&dam, &hand).await;
    // The worker never sends a token.
    let mut conn = asked(&dam, chat("a", true, 8, &[])).await;
    let mut taken = hand.take().await;
    assert!(taken.left_ms <= 600);
    hand.emit(&mut taken, &[("head", SSE)]).await;
    assert_eq!(conn.answer().await.unwrap().status, 504);
    eventually("it is told", async || hand.field(&taken.job, "state").await.as_deref() == Some("expired"))
        .await;
    assert_eq!(hand.emit(&mut taken, &[("data", "x")]).await, "CANCELLED");
    hand.end(&taken).await;
    // The worker sends nothing after the first token.
    let (mut conn, taken) = begun(&dam, &hand).await;
    conn.see("\"code\":\"upstream_timeout\"").await.unwrap();
    hand.end(&taken).await;
    over(&dam, &hand).await;
}

#[tokio::test]
async fn a_slow_client_costs_a_box_and_gets_everything() {
    let (_redis, dam, hand) = started(4, "").await;
    let mut conn = asked(&dam, chat("a", true, 8, &[])).await;
    let mut taken = hand.take().await;
    // Far more than the sockets and the mailbox can buffer, before anything is read.
    let mut sent = String::new();
    hand.emit(&mut taken, &[("head", SSE)]).await;
    let filler = "x".repeat(20_000);
    for n in 0..1000 {
        let event = token(&format!("{n} {filler}"));
        assert_eq!(hand.emit(&mut taken, &[("data", &event)]).await, "OK");
        sent.push_str(&event);
    }
    hand.answer(&mut taken, &[("data", DONE), ("end", "")]).await;
    sent.push_str(DONE);
    let answer = conn.answer().await.unwrap();
    assert!(answer.whole && answer.text() == sent, "{} of {} bytes", answer.body.len(), sent.len());
    over(&dam, &hand).await;
}

#[tokio::test]
async fn what_was_published_to_nobody_is_read_from_the_stream() {
    let (redis, dam, hand) = started(4, "").await;
    let (conn, mut taken) = begun(&dam, &hand).await;
    // All connections but the worker's own break, again and again.
    let mut conn = conn;
    let mut sent = String::new();
    for n in 0..20 {
        let event = token(&format!("n{n}."));
        sent.push_str(&event);
        hand.run::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert_eq!(hand.emit(&mut taken, &[("data", &event)]).await, "OK");
    }
    hand.answer(&mut taken, &[("data", DONE), ("end", "")]).await;
    for n in 0..20 {
        conn.see(&format!("n{n}.")).await.unwrap();
    }
    conn.see("[DONE]").await.unwrap();
    over(&dam, &hand).await;
    drop(redis);
}

#[tokio::test]
async fn work_goes_to_the_active_colour_only() {
    let redis = Redis::start().await;
    let text = queueing(&redis, "").replace("mode: queue", "mode: queue, active_colour: blue");
    let dam = Dam::start(&text);
    let (blue, green) =
        (Hand::join(&redis, "w1", "blue", 4).await, Hand::join(&redis, "w2", "green", 4).await);
    known(&dam, "default.blue").await;
    eventually("green is known", async || shown(&dam, "default.green").is_some()).await;
    let (mut old, mut taken) = begun(&dam, &blue).await;
    let switch = request(
        "PUT /api/v1/pools/default/active",
        &["content-type: application/json"],
        r#"{"colour":"green"}"#,
    );
    let switched: Answer = super::client::ask(dam.admin, switch).await;
    assert_eq!(switched.status, 200, "{}", switched.text());
    let mut new = asked(&dam, chat("b", true, 8, &[])).await;
    let mut other = green.take().await;
    assert!(blue.read().await.is_none());
    green.answer(&mut other, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    assert!(new.answer().await.unwrap().whole);
    blue.answer(&mut taken, &[("data", DONE), ("end", "")]).await;
    old.see("[DONE]").await.unwrap();
    over(&dam, &blue).await;
    assert_eq!(green.field(&other.job, "runs").await.as_deref(), Some("w2/green"));
}

#[tokio::test]
async fn jobs_are_signed_when_heartbeats_are() {
    let redis = Redis::start().await;
    let text =
        queueing(&redis, "").replace("timeout: 500ms", "timeout: 500ms, hmac_key: \"not for everybody\"");
    let dam = Dam::start(&text);
    let key = traffic_dam::fleet::heartbeat::SigningKey::new("not for everybody");
    let hand = Hand::silent(&redis, "w1", "blue").await.signing(&key);
    let beat = super::redis::beat("w1", "a", 1, r#","slots":4,"colour":"blue""#).replace(":100,", ":60000,");
    feed(&dam, 1.0).await;
    redis.publish(&key.signed_text("dam:health", &beat)).await;
    known(&dam, "default.blue").await;
    let mut conn = asked(&dam, chat("a", true, 8, &[])).await;
    let mut taken = hand.take().await;
    let text =
        [&taken.job, "default", &taken.path, &taken.headers, &taken.body].map(|line| line as &str).join("\n");
    assert_eq!((&taken.signature, taken.sealed), (&key.sign("dam:job", text.as_bytes()), true));
    // Anyone can publish; messages with a wrong signature are ignored, and the right ones pass.
    let gateways = hand.field(&taken.job, "dam").await.unwrap();
    for (n, kind, data) in [(1, "head", SSE), (2, "data", "data: forged\n\n"), (3, "end", "")] {
        let forged = format!("{} {} {n} {kind}\n{data}", taken.job, taken.epoch);
        hand.run::<i64>(&["PUBLISH", &format!("dam:replies:{gateways}"), &forged]).await;
    }
    hand.answer(&mut taken, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    let answer = conn.answer().await.unwrap();
    assert!(answer.whole && answer.text() == DONE, "{}", answer.text());
}

#[tokio::test]
async fn where_redis_comes_back_empty_answers_end_and_their_seats_are_free() {
    let (_redis, dam, hand) = started(2, "").await;
    let (mut streams, _) = begun(&dam, &hand).await;
    let mut silent = asked(&dam, chat("a", false, 8, &[])).await;
    hand.take().await;
    assert_eq!(dam.held(), 2);
    hand.run::<String>(&["FLUSHALL"]).await;
    streams.see("upstream_broke").await.unwrap();
    assert_eq!(silent.answer().await.unwrap().reason(), "upstream_broke");
    dam.idle().await;
}

#[tokio::test]
async fn names_of_workers_that_left_are_forgotten_and_those_that_hold_a_job_are_not() {
    let redis = Redis::start().await;
    let [left, holds] =
        [Hand::silent(&redis, "left", "blue").await, Hand::silent(&redis, "holds", "blue").await];
    let stream = left.stream();
    for job in ["a", "b"] {
        left.run::<String>(&["XADD", &stream, "*", "job", job]).await;
    }
    let (entry, _) = left.read().await.unwrap();
    holds.read().await.unwrap();
    left.run::<u64>(&["XACK", &stream, "workers", &entry]).await;
    let script = include_str!("../../src/redis/jobs/lua/forget.lua");
    let forget = async |stream: &str, unheard: u64| -> u64 {
        left.run(&["EVAL", script, "1", stream, &unheard.to_string()]).await
    };
    assert_eq!(forget("dam:jobs:{default}:none", 0).await, 0, "a stream that is not there");
    assert_eq!(forget(&stream, 3_600_000).await, 0, "heard within the hour");
    assert_eq!(forget(&stream, 0).await, 1);
    let names: Vec<std::collections::HashMap<String, ::redis::Value>> =
        left.run(&["XINFO", "CONSUMERS", &stream, "workers"]).await;
    let names: Vec<String> =
        names.iter().map(|of| ::redis::from_redis_value_ref(&of["name"]).unwrap()).collect();
    assert_eq!(names, ["holds"]);
    // The worker has its name again when it comes back.
    left.run::<String>(&["XADD", &stream, "*", "job", "c"]).await;
    assert!(left.read().await.is_some());
}
