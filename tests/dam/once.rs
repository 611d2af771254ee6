//! Requests with an `Idempotency-Key` to workers that are called over HTTP.

use ::redis::{FromRedisValue, Value};
use traffic_dam::fleet::heartbeat::SigningKey;

use super::client::{Answer, Conn, get, request};
use super::later::{CHAT, KEYS, LATER, PLAIN, accepted, at, post, shown};
use super::redis::Redis;
use super::rig::{Dam, Worker, before, eventually};

const KEY: &str = "idempotency-key: k";
const HANG: &str =
    r#"{"model":"sim","messages":[{"role":"user","content":"Hi."}],"max_tokens":8,"sim_fault":"hang"}"#;
/// Its connection stays open after the last event.
const OCCUPY: &str = r#"{"model":"sim","messages":[{"role":"user","content":"Hi."}],"stream":true,"max_tokens":8,"sim_fault":"stall:1"}"#;

async fn gateway(redis: &Redis, worker: &Worker, more: &str) -> Dam {
    let url = redis.url();
    let more = format!("state: redis\nredis: {{ url: \"{url}\", timeout: 500ms }}\n{KEYS}{more}");
    let dam = Dam::start(&before(&[worker.entry("w1", 4)], &more));
    eventually("Redis is there", async || dam.metric("redis_up", "") == 1.0).await;
    dam
}

async fn stage(more: &str) -> (Redis, Worker, Dam) {
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let dam = gateway(&redis, &worker, more).await;
    (redis, worker, dam)
}

async fn run<T: FromRedisValue>(redis: &Redis, words: &[&str]) -> T {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let answer: Value = redis.run(&words).await.expect("Redis answers");
    T::from_redis_value(answer).unwrap()
}

async fn names(redis: &Redis, what: &str) -> Vec<String> {
    run(redis, &["KEYS", &format!("dam:{what}:*")]).await
}

/// Sends a request and reads its answer.
async fn once(dam: &Dam, key: &str, body: &str) -> Answer {
    dam.ask(post(key, &[KEY], body)).await
}

/// Sends a request with the key and waits until the worker has it.
async fn runs(dam: &Dam, worker: &Worker, body: &str) -> Conn {
    let mut conn = Conn::open(dam.addr).await;
    conn.send(post("a", &[KEY], body)).await.unwrap();
    worker.busy_with(1).await;
    conn
}

fn used(dam: &Dam, with: &str) -> f64 {
    dam.metric("idempotency_keys_total", &format!("\"{with}\""))
}

#[tokio::test]
async fn an_answer_comes_again_from_any_gateway_and_the_worker_runs_once() {
    let (redis, worker, dam) = stage("").await;
    let other = gateway(&redis, &worker, "").await;
    for (number, body) in [PLAIN, CHAT].into_iter().enumerate() {
        let key = format!("idempotency-key: {number}");
        let first = dam.ask(post("a", &[&key], body)).await;
        assert_eq!(first.status, 200, "{}", first.text());
        let ran = worker.tally("received").await;
        for gateway in [&dam, &other] {
            let again = gateway.ask(post("a", &[&key], body)).await;
            assert_eq!((again.status, again.text()), (200, first.text()));
            assert_eq!(again.header("content-type"), first.header("content-type"));
        }
        assert_eq!(worker.tally("received").await, ran, "repeats do not reach the worker");
        let changed = body.replace("Hi.", "Ho.");
        let refused = other.ask(post("a", &[&key], &changed)).await;
        assert_eq!((refused.status, refused.reason()), (422, "key_reused"));
        // The key is the caller's own.
        assert_eq!(dam.ask(post("b", &[&key], &changed)).await.status, 200);
        assert_eq!(worker.tally("received").await, ran + 1);
    }
    assert_eq!((used(&dam, "first"), used(&dam, "repeated"), used(&other, "reused")), (4.0, 2.0, 2.0));
    for wrong in ["idempotency-key:", &format!("idempotency-key: {}", "k".repeat(256))] {
        assert_eq!(dam.ask(post("a", &[wrong], PLAIN)).await.status, 400);
    }
    // Without a key that tells the caller, the header is the worker's.
    let anonymous = request("POST /v1/chat/completions", &["content-type: application/json", KEY], PLAIN);
    let ran = worker.tally("received").await;
    for _ in 0..2 {
        assert_eq!(dam.ask(&anonymous).await.status, 200);
    }
    assert_eq!(worker.tally("received").await, ran + 2);
    dam.idle().await;
}

#[tokio::test]
async fn a_repeat_waits_for_nobody_and_a_client_that_leaves_frees_the_key() {
    let (redis, worker, dam) = stage("").await;
    let other = gateway(&redis, &worker, "").await;
    let first = runs(&dam, &worker, HANG).await;
    for gateway in [&dam, &other] {
        let again = once(gateway, "a", HANG).await;
        assert_eq!((again.status, again.reason()), (409, "conflict"));
    }
    let key = names(&redis, "idem").await.pop().unwrap();
    assert!(run::<i64>(&redis, &["PTTL", &key]).await > 120_000, "it lives as long as the request may");
    drop(first);
    eventually("the key is free", async || names(&redis, "idem").await.is_empty()).await;
    assert!(names(&redis, "job").await.is_empty() && names(&redis, "reply").await.is_empty());

    // A stream that was read to its last event is complete, also if the client closes then.
    let mut conn = Conn::open(dam.addr).await;
    conn.send(post("a", &[KEY], CHAT)).await.unwrap();
    conn.see("[DONE]").await.unwrap();
    drop(conn);
    eventually("it is stored", async || !names(&redis, "reply").await.is_empty()).await;
    eventually("its key names it", async || once(&dam, "a", CHAT).await.status == 200).await;
    assert_eq!(used(&dam, "first"), 2.0);

    // Half a stream is not.
    let mut conn = Conn::open(dam.addr).await;
    conn.send(post("b", &[KEY], OCCUPY)).await.unwrap();
    conn.head().await.unwrap();
    drop(conn);
    eventually("the key is free", async || names(&redis, "idem").await.len() == 1).await;
    dam.idle().await;
}

#[tokio::test]
async fn an_answer_after_which_clients_try_again_is_not_kept() {
    let (redis, worker, dam) = stage("").await;
    for (status, kept) in [(503, 0), (429, 0), (400, 1)] {
        let body =
            PLAIN.replace("\"max_tokens\":8", &format!("\"max_tokens\":8,\"sim_fault\":\"status:{status}\""));
        let key = format!("idempotency-key: {status}");
        let ran = worker.tally("received").await;
        let first = dam.ask(post("a", &[&key], &body)).await;
        assert_eq!(first.status, status, "{}", first.text());
        assert_eq!(names(&redis, "idem").await.len(), kept);
        let tried = worker.tally("received").await - ran;
        assert_eq!(dam.ask(post("a", &[&key], &body)).await.status, status);
        assert_eq!(worker.tally("received").await - ran - tried == 0, kept == 1, "{status}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_stored_does_not_run_again() {
    let (redis, worker, dam) = stage("jobs: { idempotency: 150B }\n").await;
    let first = once(&dam, "a", PLAIN).await;
    assert_eq!(first.status, 200);
    let ran = worker.tally("received").await;
    let again = once(&dam, "a", PLAIN).await;
    assert_eq!((again.status, again.reason()), (410, "expired"));
    assert_eq!(worker.tally("received").await, ran);
    assert_eq!((used(&dam, "not_stored"), used(&dam, "expired")), (1.0, 1.0));
    assert!(names(&redis, "reply").await.is_empty());
    let off = gateway(&redis, &worker, "jobs: { idempotency: 0 }\n").await;
    assert_eq!(once(&off, "a", PLAIN).await.status, 200, "the header is the worker's");
    assert_eq!(off.ask(post("a", &["idempotency-key:"], PLAIN)).await.status, 200);
    assert_eq!(worker.tally("received").await, ran + 2);
    dam.idle().await;
}

#[tokio::test]
async fn the_key_of_a_dead_gateways_request_is_free_and_a_forged_one_is_none() {
    let secret = "0123456789abcdef0123456789abcdef";
    let redis = Redis::start().await;
    let worker = Worker::start(8);
    let url = redis.url();
    let more =
        format!("state: redis\nredis: {{ url: \"{url}\", timeout: 500ms, hmac_key: {secret} }}\n{KEYS}");
    let dam = Dam::start(&before(&[worker.entry("w1", 4)], &more));
    eventually("Redis is there", async || dam.metric("redis_up", "") == 1.0).await;

    let first = once(&dam, "a", PLAIN).await;
    let key = names(&redis, "idem").await.pop().unwrap();
    let stored: String = run(&redis, &["GET", &key]).await;
    let (_, value) = stored.split_once(' ').unwrap();
    assert_eq!(stored, SigningKey::new(secret).signed_text(&key, value));
    assert_eq!(once(&dam, "a", PLAIN).await.text(), first.text());

    let ran = worker.tally("received").await;
    let (job, digest) = value.split_once(' ').unwrap();
    let waits = format!("{job} {digest} waits gone");
    let sealed = SigningKey::new(secret).signed_text(&key, &waits);
    for (left, text) in [("a dead gateway's", &sealed), ("an unsigned one", &waits)] {
        run::<String>(&redis, &["SET", &key, text]).await;
        run::<u64>(&redis, &["DEL", &names(&redis, "job").await[0]]).await;
        assert_eq!(once(&dam, "a", PLAIN).await.status, 200, "{left}");
    }
    assert_eq!(worker.tally("received").await, ran + 2);

    // An entry of another answer is not believed.
    let reply = names(&redis, "reply").await;
    let newest: String = run(&redis, &["GET", &key]).await;
    let job = newest.split(' ').nth(1).unwrap();
    assert!(reply.contains(&format!("dam:reply:{{{job}}}")));
    run::<u64>(&redis, &["DEL", &format!("dam:reply:{{{job}}}")]).await;
    assert_eq!(once(&dam, "a", PLAIN).await.reason(), "expired");
}

#[tokio::test]
async fn without_redis_requests_are_served_and_counted() {
    let (mut redis, worker, dam) = stage("").await;
    redis.kill();
    eventually("Redis is away", async || dam.metric("redis_up", "") == 0.0).await;
    for _ in 0..2 {
        assert_eq!(once(&dam, "a", PLAIN).await.status, 200);
    }
    assert_eq!((used(&dam, "unchecked"), worker.tally("received").await), (2.0, 2));
    assert_eq!(
        dam.ask(get("/v1/jobs/0123456789abcdef0123456789abcdef")).await.status,
        404,
        "there are no jobs"
    );
    redis.restart().await;
    eventually("it is back", async || {
        // Another key: the answers from before may still be stored.
        dam.ask(post("a", &["idempotency-key: back"], CHAT)).await;
        used(&dam, "repeated") > 0.0
    })
    .await;
    dam.idle().await;
}

#[tokio::test]
async fn with_overflow_a_repeat_gets_the_same_job_or_the_answer_that_was_given_at_once() {
    let more = "concurrency: { limit: slots, overflow: jobs, queue: { wait: 0s } }\n";
    let redis = Redis::start().await;
    let worker = Worker::start(8);
    let dam = {
        let url = redis.url();
        let more = format!("{more}redis: {{ url: \"{url}\", timeout: 500ms }}\n{KEYS}");
        Dam::start(&before(&[worker.entry("w1", 1)], &more))
    };
    eventually("Redis is there", async || dam.metric("redis_up", "") == 1.0).await;
    let at_once = dam.ask(post("a", &[LATER, KEY], PLAIN)).await;
    assert_eq!(at_once.status, 200);
    let location = accepted(&dam, "a", &[KEY], PLAIN).await;
    let job = shown(&dam, &location, "a").await;
    assert_eq!((&job["status"], &job["response"]), (&"done".into(), &at_once.json()));

    let mut busy = Conn::open(dam.addr).await;
    busy.send(post("b", &[], OCCUPY)).await.unwrap();
    busy.head().await.unwrap();
    let refused = dam.ask(post("a", &["idempotency-key: x"], PLAIN)).await;
    assert_eq!(refused.status, 503);
    let waits = accepted(&dam, "a", &["idempotency-key: x"], PLAIN).await;
    assert_ne!(waits, location);
    assert_eq!(accepted(&dam, "a", &["idempotency-key: x"], PLAIN).await, waits);
    assert_eq!(dam.ask(post("a", &["idempotency-key: x"], PLAIN)).await.reason(), "conflict");
    drop(busy);
    eventually("it is answered", async || shown(&dam, &waits, "a").await["status"] == "done").await;
    let again = dam.ask(post("a", &["idempotency-key: x"], PLAIN)).await;
    assert_eq!(again.json(), shown(&dam, &waits, "a").await["response"]);
    assert_eq!(dam.ask(at("GET", &waits, "b", &[])).await.status, 404);
    dam.idle().await;
}
