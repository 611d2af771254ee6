//! The Redis users in the documents have enough rights: no command of a gateway is denied.

use std::path::Path;

use super::client::{ask, request};
use super::fleet::{serves, shown};
use super::hand::{Hand, JSON};
use super::later::{KEYS, LATER, PLAIN, accepted, post, shown as job};
use super::queue::known;
use super::redis::{Redis, Speaker, at};
use super::rig::{Dam, Worker, before, eventually};

const PASSWORD: &str = "s3cret";
const RULE: &str = "limits: [{ name: many, algorithm: token_bucket, per: caller, unit: requests, rate: 900/s, burst: 900 },\n  \
                    { name: all, algorithm: token_bucket, per: all, unit: requests, rate: 900/s, burst: 900 }]\nstate: redis\n";

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// Creates the user of that name as a document gives it, and returns its URL.
async fn user(redis: &Redis, document_of: &str, line: &str, name: &str) -> String {
    let text = document(document_of);
    let begins = format!("{line}{name} ");
    let rights = text.lines().find_map(|line| line.strip_prefix(&begins)).expect("the document has the user");
    let rights = rights.replace(">PASSWORD", &format!(">{PASSWORD}")).replace(">…", &format!(">{PASSWORD}"));
    let mut command: Vec<&[u8]> = vec![b"ACL", b"SETUSER", name.as_bytes()];
    command.extend(rights.split(' ').map(str::as_bytes));
    assert_eq!(redis.run(&command).await, Some(redis::Value::Okay), "{rights}");
    redis.url().replace("redis://", &format!("redis://{name}:{PASSWORD}@"))
}

/// Checks that Redis has denied no command.
async fn nothing_was_denied(redis: &Redis) {
    match redis.run(&[b"ACL", b"LOG"]).await {
        Some(redis::Value::Array(denied)) => assert!(denied.is_empty(), "{denied:?}"),
        other => panic!("{other:?}"),
    }
}

fn settings(url: &str) -> String {
    format!("redis: {{ url: \"{url}\", timeout: 500ms }}\ndrain: {{ delay: 0s, timeout: 5s }}\n")
}

async fn up(dam: &Dam) {
    eventually("Redis is there", async || dam.metric("redis_up", "") == 1.0).await;
}

#[tokio::test]
async fn the_user_for_rules_may_do_what_rules_need() {
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let url = user(&redis, "limits.md", "ACL SETUSER ", "dam-rules").await;
    let callers =
        "admin: { token: s3cret }\ncallers: { stored: redis, from: [api_key, ip], anonymous: allow }\n";
    let text = before(&[worker.entry("w1", 8)], &(settings(&url) + RULE + callers));
    let (mut dam, other) = (Dam::start(&text), Dam::start(&text));
    up(&dam).await;
    up(&other).await;
    let token = ["authorization: Bearer s3cret", "content-type: application/json"];
    for (path, body) in [
        ("callers/b", r#"{"key": "b-key-of-many-letters"}"#),
        ("limits/many", r#"{"rate": "800/s", "burst": 800, "ttl": 60, "scope": "fleet"}"#),
    ] {
        let put = request(&format!("PUT /api/v1/{path}"), &token, body);
        let answer = ask(dam.admin, put).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    for _ in 0..3 {
        serves(&dam).await;
    }
    assert_eq!(dam.metric("redis_fallback_total", ""), 0.0);
    eventually("both gateways tell and hear what they charged", async || {
        [&dam, &other].iter().all(|dam| dam.metric("redis_command_seconds_count", "exchange") >= 2.0)
    })
    .await;
    dam.app.drain().await;
    dam.ended().await;
    nothing_was_denied(&redis).await;
}

#[tokio::test]
async fn the_users_for_all_and_for_workers_may_do_what_discovery_rules_and_jobs_need() {
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let url = user(&redis, "limits.md", "ACL SETUSER ", "dam-all").await;
    let as_worker = user(&redis, "fleet.md", "user ", "worker").await;
    let finds = "workers: { discovery: redis, allow: [127.0.0.1] }\nconcurrency: { overflow: jobs }\n";
    let mut dam = Dam::start(&format!("{finds}{RULE}{KEYS}{}", settings(&url)));
    let publisher = Speaker::start_by(&as_worker, "w1", "a", at(&worker));
    up(&dam).await;
    eventually("w1 is found", async || shown(&dam, "w1").is_some_and(|w1| w1["eligible"] == true)).await;
    assert_eq!(dam.ask(post("a", &[LATER], PLAIN)).await.status, 200);
    let fields = ["content-type: application/json"];
    let switch = request("PUT /api/v1/pools/default/active", &fields, r#"{"colour":"blue"}"#);
    assert_eq!(ask(dam.admin, switch).await.status, 200);
    drop(publisher);
    dam.app.drain().await;
    dam.ended().await;
    nothing_was_denied(&redis).await;

    let queue = format!("workers: {{ mode: queue }}\n{KEYS}{}", settings(&url));
    let mut dam = Dam::start(&queue);
    let hand = Hand::join(&redis, "w1", "blue", 4).await;
    known(&dam, "default.blue").await;
    let location = accepted(&dam, "a", &[], PLAIN).await;
    let mut taken = hand.take().await;
    hand.answer(&mut taken, &[("head", JSON), ("data", r#"{"object":"chat.completion"}"#), ("end", "")])
        .await;
    eventually("it is answered", async || job(&dam, &location, "a").await["status"] == "done").await;
    dam.app.drain().await;
    dam.ended().await;
    nothing_was_denied(&redis).await;
}
