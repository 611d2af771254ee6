//! Requests that the gateway itself answers: health, and the models of all pools.

use serde_json::{Value, json};

use super::client::{Conn, ask, chat, get, request};
use super::hand::Hand;
use super::later::KEYS;
use super::queue::queueing;
use super::redis::{Redis, beat};
use super::rig::{Dam, Worker, before, eventually};

const SECRET: &str = "authorization: Bearer a";

fn names(models: &Value) -> Vec<&str> {
    models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect()
}

/// Two pools with one worker each, of one slot each.
fn pools(chat: &Worker, embed: &Worker, more: &str) -> String {
    let entry = |worker: &Worker, id: &str, model: &str| {
        let entry = worker.entry(id, 1);
        entry.replace(" }", &format!(", pool: {id}, model: \"{model}\" }}"))
    };
    before(&[entry(chat, "chat", "qwen*"), entry(embed, "embed", "bge*")], more)
}

#[tokio::test]
async fn the_models_of_all_pools_are_one_list_that_needs_no_seat() {
    let (first, second) = (Worker::serving("qwen/qwen3", 1), Worker::serving("bge-m3", 1));
    let dam = Dam::start(&pools(&first, &second, "concurrency: { limit: slots, queue: { length: 0 } }\n"));
    let mut busy = Conn::open(dam.addr).await;
    let body = r#"{"model":"qwen/qwen3","messages":[],"stream":true,"max_tokens":8,"sim_fault":"stall:1"}"#;
    busy.send(request("POST /v1/chat/completions", &[], body)).await.unwrap();
    busy.head().await.unwrap();
    let models = dam.ask(get("/v1/models")).await;
    assert_eq!((models.status, names(&models.json())), (200, vec!["bge-m3", "qwen/qwen3"]));
    assert_eq!(models.header("content-type"), Some("application/json"));
    for path in ["/v1/models/qwen/qwen3", "/v1/models/qwen%2Fqwen3"] {
        let one = dam.ask(get(path)).await;
        assert_eq!((one.status, &one.json()["id"]), (200, &json!("qwen/qwen3")), "{path}");
    }
    let unknown = dam.ask(get("/v1/models/gpt")).await;
    assert_eq!((unknown.status, unknown.reason()), (404, "not_found"));
    let unknown = dam.ask(request("GET /v1/models/gpt", &["anthropic-version: 2023-06-01"], "")).await;
    assert_eq!((unknown.status, &unknown.json()["error"]["type"]), (404, &json!("not_found_error")));
    assert!(unknown.header("request-id").is_some(), "{}", unknown.head);
    drop(busy);
    dam.idle().await;
}

#[tokio::test]
async fn what_a_pool_does_not_serve_is_not_in_the_list_and_a_dead_pool_hides_no_other() {
    // The worker of `embed` reports a model name that routing would send to the other pool.
    let (first, second) = (Worker::serving("qwen3", 1), Worker::serving("qwen-too", 1));
    let dam = Dam::start(&pools(&first, &second, ""));
    assert_eq!(names(&dam.ask(get("/v1/models")).await.json()), ["qwen3"]);
    let dam = Dam::start(&pools(&first, &second, ""));
    second.kill().await;
    assert_eq!(names(&dam.ask(get("/v1/models")).await.json()), ["qwen3"]);
    let dam = Dam::start(&pools(&first, &first, ""));
    first.kill().await;
    let refused = dam.ask(get("/v1/models")).await;
    assert_eq!((refused.status, refused.reason()), (503, "no_worker"));
    assert!(refused.header("retry-after").is_some());
}

#[tokio::test]
async fn the_models_of_a_queue_are_those_that_heartbeats_name() {
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, KEYS));
    let _hand = Hand::silent(&redis, "w1", "blue").await;
    let text = beat("w1", "a", 1, r#","slots":4,"model":"qwen3""#).replace(":100,", ":60000,");
    eventually("the model", async || {
        redis.publish(&text).await;
        let answer = dam.ask(request("GET /v1/models", &[SECRET], "")).await;
        answer.status == 200 && names(&answer.json()) == ["qwen3"]
    })
    .await;
}

#[tokio::test]
async fn a_worker_gets_the_clients_own_credentials_and_no_key_of_the_gateway() {
    let worker = Worker::serving("qwen3", 8);
    let forwarding = "callers: { forward_authorization: true, keys: [{ id: a, sha256: ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb }] }\n";
    let entry = worker.entry("w1", 8).replace(" }", ", model: \"*\" }");
    let dam = Dam::start(&before(&[entry], forwarding));
    let own = "x-api-key: of-the-worker";
    for line in ["GET /v1/models", "POST /v1/chat/completions"] {
        let body =
            if line.starts_with("POST") { r#"{"model":"qwen3","messages":[],"max_tokens":1}"# } else { "" };
        let answer = dam.ask(request(line, &["authorization: Bearer other", SECRET, own], body)).await;
        assert_eq!(answer.status, 200, "{line}: {}", answer.text());
        let headers = &worker.last().await["headers"];
        assert_eq!(
            (&headers["authorization"], &headers["x-api-key"][0]),
            (&Value::Null, &json!("of-the-worker")),
            "{line}"
        );
    }
}

#[tokio::test]
async fn health_is_told_without_a_key_and_with_what_the_settings_let_through() {
    let worker = Worker::start(8);
    let closed = "callers: { anonymous: refuse, keys: [{ id: a, sha256: ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb }] }\n";
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], closed));
    assert_eq!(dam.ask(get("/v1/models")).await.status, 401);
    let well = dam.ask(get("/health")).await;
    assert_eq!((well.status, well.json()), (200, json!({ "status": "ok" })));
    let mut conn = Conn::open(dam.addr).await;
    conn.send(request("HEAD /health", &[], "")).await.unwrap();
    assert_eq!(conn.head().await.unwrap().status, 200);
    for wrong in ["POST /health", "GET /health/x"] {
        assert_eq!(dam.ask(request(wrong, &[], "")).await.status, 401, "{wrong}");
    }
    let open = Dam::start(&before(&[worker.entry("w1", 8)], ""));
    let wrong = open.ask(request("POST /health", &[], "{}")).await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("GET, HEAD")));
    let own = Dam::start(&before(&[worker.entry("w1", 8)], "paths: [\"/health\"]\n"));
    assert_eq!(own.ask(get("/health")).await.text(), ask(worker.addr, get("/health")).await.text());
    dam.app.close();
    let gone = Dam::start("workers: { static: [] }\n");
    let refused = gone.ask(get("/health")).await;
    assert_eq!((refused.status, refused.reason()), (503, "no_worker"));
    assert_eq!(own.ask(chat("a", false, 1, &[])).await.status, 200);
}
