//! Responses that a worker keeps: later requests about them go to that worker.

use serde_json::json;

use super::client::{Answer, Conn, request};
use super::redis::Redis;
use super::rig::{Dam, Worker, before, eventually};

const KEYS: &str = "callers:
  anonymous: refuse
  keys:
    - { id: a, sha256: ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb }
    - { id: b, sha256: 3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d }
kinds: [responses_by_id]\n";

fn text(workers: &[Worker; 2], more: &str) -> String {
    before(&[workers[0].entry("w1", 2), workers[1].entry("w2", 2)], &format!("{KEYS}{more}"))
}

/// Asks for a response; `more` are members of the body. The worker names it after the request id.
async fn respond(dam: &Dam, caller: &str, id: &str, stream: bool, more: serde_json::Value) -> Answer {
    let mut body = json!({ "model": "sim", "input": "Hi", "stream": stream, "max_output_tokens": 2 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let fields = [&format!("authorization: Bearer {caller}")[..], &format!("x-request-id: {id}")];
    dam.ask(request("POST /v1/responses", &fields, body.to_string())).await
}

async fn about(dam: &Dam, caller: &str, line: &str) -> Answer {
    dam.ask(request(line, &[&format!("authorization: Bearer {caller}")], "")).await
}

/// Returns the id in an answer.
fn id_of(answer: &Answer) -> String {
    let text = answer.text();
    let (_, rest) = text.split_once("\"id\":\"").unwrap_or_else(|| panic!("no id: {text}"));
    rest.split('"').next().unwrap().to_owned()
}

async fn received(workers: &[Worker; 2]) -> [u64; 2] {
    [workers[0].tally("received").await, workers[1].tally("received").await]
}

#[tokio::test]
async fn a_response_is_continued_and_read_where_it_was_made_and_by_its_caller_only() {
    let workers = [Worker::start(2), Worker::start(2)];
    let dam = Dam::start(&text(&workers, ""));
    for turn in 0..12 {
        let before = received(&workers).await;
        let first = respond(&dam, "a", &format!("turn-{turn}"), turn % 2 == 0, json!({})).await;
        assert_eq!(first.status, 200, "{}", first.text());
        let home = usize::from(received(&workers).await[1] > before[1]);
        let id = id_of(&first);
        let before = received(&workers).await;
        for _ in 0..3 {
            let next = json!({ "previous_response_id": id });
            let next = respond(&dam, "a", &format!("next-{turn}"), false, next).await;
            assert_eq!(next.status, 200, "{}", next.text());
        }
        assert_eq!(received(&workers).await[home], before[home] + 3, "the other worker does not know it");
        for line in [
            format!("GET /v1/responses/{id}"),
            format!("GET /v1/responses/{id}/input_items"),
            format!("POST /v1/responses/{id}/cancel"),
            format!("DELETE /v1/responses/{id}"),
        ] {
            // The simulated worker keeps nothing: its own 404 passes.
            let answer = about(&dam, "a", &line).await;
            assert_eq!((answer.status, answer.reason()), (404, ""), "{line}: {}", answer.text());
            assert_eq!(workers[home].last().await["request"], line.as_str());
        }
        // Another caller's, and an unknown one: no worker is asked.
        let before = received(&workers).await;
        for (caller, id) in [("b", &*id), ("a", "resp_unknown")] {
            let answer = about(&dam, caller, &format!("GET /v1/responses/{id}")).await;
            assert_eq!((answer.status, answer.reason()), (404, "not_found"), "{}", answer.text());
            let previous = json!({ "previous_response_id": id });
            let answer = respond(&dam, caller, "x", false, previous).await;
            assert_eq!((answer.status, answer.reason()), (400, "bad_request"), "{}", answer.text());
            assert_eq!(answer.json()["error"]["param"], "previous_response_id");
        }
        assert_eq!(received(&workers).await, before);
        assert_ne!(workers[home].last().await["request"], "GET /v1/responses/resp_unknown");
    }
    dam.idle().await;
}

#[tokio::test]
async fn a_response_waits_for_its_worker_and_for_no_other() {
    let workers = [Worker::start(2), Worker::start(2)];
    let more = "concurrency: { limit: slots, queue: { wait: 20s } }\n";
    let dam = Dam::start(&text(&workers, more));
    let before = received(&workers).await;
    let first = respond(&dam, "a", "first", false, json!({})).await;
    let home = usize::from(received(&workers).await[1] > before[1]);
    let previous = json!({ "previous_response_id": id_of(&first), "stream": true, "sim_fault": "stall:1" });
    let open = async |more: &serde_json::Value| {
        let mut body = json!({ "model": "sim", "input": "Hi", "max_output_tokens": 9 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut conn = Conn::open(dam.addr).await;
        conn.send(request("POST /v1/responses", &["authorization: Bearer a"], body.to_string()))
            .await
            .unwrap();
        conn
    };
    let mut full = Vec::new();
    for _ in 0..2 {
        let mut conn = open(&previous).await;
        assert_eq!(conn.head().await.unwrap().status, 200);
        full.push(conn);
    }
    assert_eq!(workers[home].tally("in_flight").await, 2);
    // Its worker is full: it waits, although the other one is idle.
    let mut waits = open(&json!({ "previous_response_id": id_of(&first) })).await;
    eventually("it waits", async || dam.held() == 3).await;
    assert_eq!(workers[1 - home].tally("in_flight").await, 0);
    drop(full);
    assert_eq!(waits.answer().await.unwrap().status, 200);
    assert_eq!(received(&workers).await[1 - home], before[1 - home]);
    dam.idle().await;
}

#[tokio::test]
async fn gateways_with_one_redis_know_each_others_responses() {
    let (redis, workers) = (Redis::start().await, [Worker::start(2), Worker::start(2)]);
    let more = format!("state: redis\nredis: {{ url: \"{}\", timeout: 500ms }}\n", redis.url());
    let dams = [Dam::start(&text(&workers, &more)), Dam::start(&text(&workers, &more))];
    for dam in &dams {
        eventually("Redis is there", async || dam.metric("redis_up", "") == 1.0).await;
    }
    let first = respond(&dams[0], "a", "first", true, json!({})).await;
    let id = id_of(&first);
    eventually("the other gateway knows it", async || {
        let previous = json!({ "previous_response_id": id });
        respond(&dams[1], "a", "next", false, previous).await.status == 200
    })
    .await;
    let foreign = about(&dams[1], "b", &format!("GET /v1/responses/{id}")).await;
    assert_eq!((foreign.status, foreign.reason()), (404, "not_found"));
    let keys = redis.run(&[b"KEYS", b"dam:response:*"]).await.expect("Redis answers");
    let redis::Value::Array(keys) = keys else { panic!("{keys:?}") };
    for key in keys {
        let redis::Value::BulkString(key) = key else { panic!("{key:?}") };
        let redis::Value::Int(ttl) = redis.run(&[b"TTL", &key]).await.unwrap() else { panic!("no time") };
        assert!((1..=3600).contains(&ttl), "{ttl}");
    }
    dams[0].idle().await;
}
