//! The rules report their state without changing it.

use serde_json::{Value, json};

use super::client::ask;
use super::{Dam, Server, Worker, before, call, gateways, get, patient, request, up};

const LIMITS: &str = "  - { name: bucket, algorithm: token_bucket, per: caller, rate: 1/h, burst: 3 }
  - { name: all, algorithm: sliding_window, per: all, limit: 50, window: 30d }
  - { name: seen, algorithm: sliding_log, per: [caller, model], limit: 1, window: 1h, mode: observe }
  - { name: other, algorithm: sliding_log, per: caller, limit: 1, window: 1h, match: { model: gpt } }
  - { name: tokens, algorithm: token_bucket, per: team, unit: tokens, rate: 100/h, burst: 100 }";

async fn explain(dam: &Dam, query: &str) -> Value {
    let answer = ask(dam.admin, get(&format!("/api/v1/explain?{query}"))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Returns decision, amount and remaining quota per rule.
fn standing(explained: &Value) -> Vec<Value> {
    let rules = explained["rules"].as_array().unwrap().iter();
    rules.map(|rule| json!([rule["decision"], rule["amount"], rule["remaining"]])).collect()
}

async fn asks(dam: &Dam, counted: &str) {
    for _ in 0..2 {
        assert_eq!(call(dam).await.status, 200);
    }
    let query = "caller=ip:127.0.0.1&team=red&path=/v1/models&prompt_tokens=60";
    for _ in 0..3 {
        let explained = explain(dam, query).await;
        assert_eq!(explained["counted"], counted);
        let seen = json!(["would_refuse", 1, 0]);
        let expected = [
            json!(["allowed", 1, 1]),
            json!(["allowed", 1, 48]),
            seen,
            json!(["not_matched", null, null]),
            json!(["allowed", 60, 100]),
        ];
        assert_eq!(standing(&explained), expected, "{explained}");
    }
    assert_eq!(call(dam).await.status, 200);
    let explained = explain(dam, query).await;
    assert_eq!(standing(&explained)[0], json!(["refused", 1, 0]));
    assert!(explained["rules"][0]["wait_ms"].as_u64().is_some_and(|wait| wait > 3_500_000), "{explained}");
    assert_eq!(explained["rules"][0]["quota"], "1 request per hour, burst 3");
    let large = explain(dam, "team=red&prompt_tokens=101").await;
    assert_eq!(large["rules"][4]["decision"], "refused", "{large}");
    assert_eq!(large["rules"][4]["wait_ms"], Value::Null, "waiting does not help");
}

/// Returns what the answer to a call reports of each rule, if the call asks with this token.
async fn told(dam: &Dam, token: &str) -> Vec<String> {
    let token = format!("x-traffic-dam-admin-token: {token}");
    let answer = dam.ask(request("GET /v1/models", &["x-traffic-dam-explain: 1", &token], "")).await;
    let lines = answer.head.lines().filter_map(|line| line.strip_prefix("x-traffic-dam-explain: "));
    lines.map(ToOwned::to_owned).collect()
}

async fn tells(dam: &Dam, worker: &Worker) {
    let key = "key=\"caller=ip:127.0.0.1\";quota=\"1 request per hour, burst 3\"";
    for (decision, left) in [("allowed", 2), ("allowed", 1), ("allowed", 0), ("refused", 0)] {
        let lines = told(dam, "s3cret").await;
        assert_eq!(lines.len(), 5, "{lines:?}");
        let begins = format!("\"bucket\";decision={decision};{key};limit=3;remaining={left};reset_ms=");
        assert!(lines[0].starts_with(&begins), "{} {begins}", lines[0]);
        assert!(lines[1].contains("key=\"all\""), "{}", lines[1]);
        assert!(lines[3].starts_with("\"other\";decision=not_matched;"), "{}", lines[3]);
    }
    assert!(told(dam, "guess").await.is_empty());
    assert!(!worker.last().await.to_string().contains("s3cret"));
}

const ADMIN: &str = "admin: { token: s3cret }";

#[tokio::test]
async fn rules_in_redis_are_explained_on_the_answer() {
    let (redis, worker) = (Server::start().await, Worker::start(8));
    let gateways = gateways(1, &patient(&redis, &worker, LIMITS, ADMIN)).await;
    tells(&gateways[0], &worker).await;
}

#[tokio::test]
async fn rules_in_memory_are_explained_on_the_answer() {
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], &format!("limits:\n{LIMITS}\n{ADMIN}\n")));
    tells(&dam, &worker).await;
}

#[tokio::test]
async fn rules_in_redis_say_how_they_stand() {
    let (mut redis, worker) = (Server::start().await, Worker::start(8));
    let gateways = gateways(1, &patient(&redis, &worker, LIMITS, "")).await;
    asks(&gateways[0], "redis").await;
    redis.kill();
    up(&gateways[0], false).await;
    let alone = explain(&gateways[0], "caller=ip:127.0.0.1").await;
    assert_eq!((&alone["counted"], &alone["rules"][0]["remaining"]), (&json!("alone"), &json!(3)));
}

#[tokio::test]
async fn rules_in_memory_say_the_same() {
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], &format!("limits:\n{LIMITS}\n")));
    asks(&dam, "memory").await;
}
