//! Requests that do not fit are answered later, by any gateway with free capacity.

use std::time::Duration;

use serde_json::Value;
use traffic_dam::server::admin::AdminSource;

use super::client::{Conn, ask, get, request};
use super::later::{CHAT, KEYS, LATER, PLAIN, accepted, at, post, shown, stream};
use super::redis::Redis;
use super::rig::{Dam, Worker, before, eventually};

const OCCUPY: &str = r#"{"model":"sim","messages":[{"role":"user","content":"Hi."}],"stream":true,"max_tokens":8,"sim_fault":"stall:1"}"#;
const HANG: &str =
    r#"{"model":"sim","messages":[{"role":"user","content":"Hi."}],"max_tokens":8,"sim_fault":"hang"}"#;

fn overflowing(redis: &Redis, worker: &Worker, slots: u32) -> String {
    let url = redis.url();
    let more = format!(
        "concurrency: {{ limit: slots, overflow: jobs, queue: {{ wait: 0s }} }}\nredis: {{ url: \"{url}\", timeout: 500ms }}\ndrain: {{ delay: 0s, timeout: 20s }}\n{KEYS}"
    );
    before(&[worker.entry("w1", slots)], &more)
}

async fn gateway(redis: &Redis, worker: &Worker, slots: u32) -> Dam {
    let dam = Dam::start(&overflowing(redis, worker, slots));
    eventually("Redis is there", async || dam.metric("redis_up", "") == 1.0).await;
    dam
}

async fn stage() -> (Redis, Worker, Dam) {
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let dam = gateway(&redis, &worker, 1).await;
    (redis, worker, dam)
}

/// Takes the worker's only slot until the connection is dropped.
async fn occupy(dam: &Dam) -> Conn {
    let mut conn = Conn::open(dam.addr).await;
    conn.send(post("b", &[], OCCUPY)).await.unwrap();
    conn.head().await.unwrap();
    conn
}

async fn becomes(dam: &Dam, location: &str, status: &str) -> Value {
    eventually(status, async || shown(dam, location, "a").await["status"] == status).await;
    shown(dam, location, "a").await
}

async fn count(redis: &Redis, command: &[&[u8]]) -> i64 {
    match redis.run(command).await {
        Some(redis::Value::Int(count)) => count,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_has_no_room_is_answered_later_if_it_prefers_that() {
    let (redis, worker, dam) = stage().await;
    // With free capacity a request is answered at once.
    let at_once = dam.ask(post("a", &[LATER], PLAIN)).await;
    assert_eq!((at_once.status, at_once.header("preference-applied")), (200, None));
    dam.idle().await;

    let occupied = occupy(&dam).await;
    let (plain, streamed) = (accepted(&dam, "a", &[], PLAIN).await, accepted(&dam, "a", &[], CHAT).await);
    for bytes in [post("a", &[], PLAIN), request("POST /v1/chat/completions", &[LATER], PLAIN)] {
        let refused = dam.ask(bytes).await;
        assert_eq!((refused.status, refused.reason()), (503, "overloaded"));
    }
    assert_eq!(dam.ask(at("GET", &plain, "b", &[])).await.status, 404);
    assert_eq!(shown(&dam, &plain, "a").await["status"], "queued");
    assert_eq!(dam.metric("requests_total", "overloaded"), 2.0);
    drop(occupied);
    let done = becomes(&dam, &plain, "done").await;
    assert_eq!((&done["response"]["object"], &done["attempt"]), (&"chat.completion".into(), &1.into()));
    becomes(&dam, &streamed, "done").await;
    let other = gateway(&redis, &worker, 1).await;
    let read = stream(&other, &streamed, None).await;
    assert!(
        read.whole && read.text().contains("data: [DONE]") && read.text().contains("\nid: "),
        "{}",
        read.text()
    );
    dam.idle().await;
    eventually("they are counted", async || dam.metric("jobs_total", "answered") == 2.0).await;
    for key in ["dam:pending:{default}", "dam:pending:{default}:callers"] {
        assert_eq!(count(&redis, &[b"EXISTS", key.as_bytes()]).await, 0, "{key}");
    }
    assert_eq!(count(&redis, &[b"XLEN", b"dam:jobs:{default}:"]).await, 0);
}

#[tokio::test]
async fn a_job_whose_gateway_died_is_run_by_another() {
    let (redis, worker, dam) = stage().await;
    let occupied = occupy(&dam).await;
    let location = accepted(&dam, "a", &[], PLAIN).await;
    worker.fault("hang", 1).await;
    drop(occupied);
    becomes(&dam, &location, "running").await;
    worker.busy_with(1).await;
    drop(dam);
    let other = gateway(&redis, &worker, 1).await;
    let done = becomes(&other, &location, "done").await;
    assert_eq!((&done["attempt"], &done["response_status"]), (&2.into(), &200.into()));
    other.idle().await;
}

#[tokio::test]
async fn one_that_nobody_wants_any_more_is_stopped_at_its_worker() {
    let (_redis, worker, dam) = stage().await;
    let occupied = occupy(&dam).await;
    let [running, waiting] = [accepted(&dam, "a", &[], HANG).await, accepted(&dam, "a", &[], PLAIN).await];
    let gone = dam.ask(at("DELETE", &waiting, "a", &[])).await;
    assert_eq!((gone.status, &gone.json()["status"]), (200, &"cancelled".into()));
    drop(occupied);
    becomes(&dam, &running, "running").await;
    worker.busy_with(1).await;
    assert_eq!(dam.ask(at("DELETE", &running, "a", &[])).await.json()["status"], "cancelled");
    worker.busy_with(0).await;
    dam.idle().await;
    eventually("it is counted", async || dam.metric("jobs_total", "cancelled") == 1.0).await;
    assert_eq!(worker.tally("finished").await, 0, "nothing was answered");
}

#[tokio::test]
async fn three_runs_that_fail_are_a_dead_letter_which_may_be_tried_again() {
    let (_redis, worker, dam) = stage().await;
    let occupied = occupy(&dam).await;
    let location = accepted(&dam, "a", &[], CHAT).await;
    worker.fault("break:1", 3).await;
    drop(occupied);
    let dead = becomes(&dam, &location, "dead").await;
    assert_eq!((&dead["attempt"], &dead["error"]["code"]), (&3.into(), &"upstream_broke".into()));
    let letters = ask(dam.admin, get("/api/v1/dead")).await.json();
    let job = letters["dead"]["default"][0]["job"].as_str().unwrap().to_owned();
    let again = format!(r#"{{"pool":"default","job":"{job}"}}"#);
    let again = request("POST /api/v1/dead", &["content-type: application/json"], again);
    assert_eq!(ask(dam.admin, again).await.status, 202);
    assert_eq!(becomes(&dam, &location, "done").await["attempt"], 1);
    dam.idle().await;
}

#[tokio::test]
async fn without_redis_they_are_refused_as_ever() {
    let (mut redis, _worker, dam) = stage().await;
    let _occupied = occupy(&dam).await;
    redis.kill();
    let refused = dam.ask(post("a", &[LATER], PLAIN)).await;
    assert_eq!((refused.status, refused.reason()), (503, "overloaded"));
    assert!(refused.header("retry-after").is_some());
}

#[tokio::test]
async fn going_down_waits_for_what_runs() {
    let (_redis, worker, mut dam) = stage().await;
    let occupied = occupy(&dam).await;
    let location = accepted(&dam, "a", &[], PLAIN).await;
    worker.fault("slow-start:700", 1).await;
    drop(occupied);
    becomes(&dam, &location, "running").await;
    let app = dam.app.clone();
    let draining = tokio::time::timeout(Duration::from_secs(20), app.drain());
    assert_eq!(draining.await.unwrap(), 0);
    dam.ended().await;
    assert_eq!(worker.tally("in_flight").await, 0);
    eventually("it is counted", async || dam.metric("jobs_total", "answered") == 1.0).await;
}

#[tokio::test]
async fn a_job_whose_answer_redis_does_not_take_gives_its_seat_back() {
    let (mut redis, _worker, dam) = stage().await;
    let occupied = occupy(&dam).await;
    // Its answer begins when Redis is gone, and does not end.
    let stalls = OCCUPY.replace("stall:1", "slow-start:300,stall:1");
    let location = accepted(&dam, "a", &[], &stalls).await;
    drop(occupied);
    becomes(&dam, &location, "running").await;
    redis.kill();
    eventually("a permit for others", async || dam.ask(post("b", &[], PLAIN)).await.status == 200).await;
}

#[tokio::test]
async fn what_waits_for_a_seat_does_not_begin_on_the_way_down() {
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let text = overflowing(&redis, &worker, 1)
        .replace("wait: 0s", "wait: 60s")
        .replace("{ limit: slots", "{ ttft_slo: 400s, limit: slots");
    let mut dam = Dam::start(&text);
    eventually("Redis is there", async || dam.metric("redis_up", "") == 1.0).await;
    let occupied = occupy(&dam).await;
    // Another gateway, without waiting requests, stores a job and ends.
    let other = gateway(&redis, &worker, 1).await;
    let busy = occupy(&other).await;
    let location = accepted(&other, "a", &[], PLAIN).await;
    drop((other, busy));
    let job = location.rsplit('/').next().unwrap();
    eventually("it waits at the gate", async || dam.held() == 2).await;
    // One more client is connected, so the drain goes on for a while.
    let mut slow = Conn::open(dam.addr).await;
    slow.send("POST /v1/chat/completions HTTP/1.1\r\n").await.unwrap();
    eventually("it is connected", async || dam.metric("connections", "") == 2.0).await;
    let app = dam.app.clone();
    let down = tokio::spawn(async move { app.drain().await });
    eventually("requests are refused", async || dam.app.state()["phase"] == "refusing").await;
    drop(occupied);
    eventually("nobody waits for a permit", async || dam.held() == 0).await;
    drop(slow);
    down.await.unwrap();
    dam.ended().await;
    assert_eq!(
        count(&redis, &[b"HEXISTS", b"dam:pending:{default}", job.as_bytes()]).await,
        1,
        "it waits for another"
    );
}

/// Writes a job to Redis without a signature, and waits until its state is `end`.
async fn forge(redis: &Redis, path: &str, end: &str) {
    let job = &traffic_dam::redis::jobs::Job::random().unwrap().to_string();
    let hash = format!("dam:job:{{{job}}}");
    let fields = format!(
        "v 1 state queued pool default path {path} headers {{}} body {{}} async 1 epoch 0 n 0 sent 0 attempt 0 \
         max_attempts 3 cancelled 0 deadline_ms 99999999999999"
    );
    let mut set: Vec<&[u8]> = vec![b"HSET", hash.as_bytes()];
    set.extend(fields.split(' ').map(str::as_bytes));
    count(redis, &set).await;
    let pending = r#"{"caller":"key:x","class":"critical","weight":1,"model":null,"prompt":0,"max":null,"output":0,"sequences":1,"stream":false,"path":"/v1/completions","at_ms":AT,"counted":"x"}"#
        .replace("AT", &traffic_dam::clock::unix_millis().to_string());
    count(redis, &[b"HSET", b"dam:pending:{default}", job.as_bytes(), pending.as_bytes()]).await;
    eventually("the forged job ends", async || {
        match redis.run(&[b"HGET", hash.as_bytes(), b"state"]).await {
            Some(redis::Value::BulkString(state)) => state == end.as_bytes(),
            _ => false,
        }
    })
    .await;
}

#[tokio::test]
async fn with_a_key_only_signed_jobs_reach_a_worker() {
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let text = overflowing(&redis, &worker, 1).replace("timeout: 500ms", "timeout: 500ms, hmac_key: secret");
    let dam = Dam::start(&text);
    eventually("Redis is there", async || dam.metric("redis_up", "") == 1.0).await;
    forge(&redis, "/pause", "dead").await;
    assert_eq!(worker.tally("received").await, 0);
    // A job of the gateway itself is answered, and the signature of its answer is accepted.
    let occupied = occupy(&dam).await;
    let location = accepted(&dam, "a", &[], PLAIN).await;
    drop(occupied);
    let done = becomes(&dam, &location, "done").await;
    assert_eq!(done["response"]["object"], "chat.completion");
}

#[tokio::test]
async fn what_one_caller_has_waiting_is_bounded_in_bytes() {
    let (redis, _worker, dam) = stage().await;
    let _occupied = occupy(&dam).await;
    let large = format!(r#"{{"model":"sim","messages":[],"max_tokens":1,"x":"{}"}}"#, "a".repeat(7 << 20));
    // On a busy machine Redis may confirm too late that it has one; then it is sent again.
    let sent = async |key: &str| loop {
        let answer = dam.ask(post(key, &[LATER], &large)).await;
        if answer.status != 502 {
            return answer;
        }
    };
    let refused = loop {
        let answer = sent("a").await;
        if answer.status != 202 {
            break answer;
        }
    };
    assert_eq!((refused.status, refused.reason()), (503, "overloaded"), "{}", refused.text());
    let held = async || {
        let bytes = redis.run(&[b"HGET", b"dam:pending:{default}:callers", b":bytes"]).await;
        let Some(redis::Value::BulkString(bytes)) = bytes else { panic!("{bytes:?}") };
        let bytes: usize = String::from_utf8(bytes).unwrap().parse().unwrap();
        assert_eq!(
            bytes as i64,
            count(&redis, &[b"HLEN", b"dam:pending:{default}"]).await * large.len() as i64
        );
        bytes
    };
    let most = 32 << 20;
    let bytes = held().await;
    assert!(bytes <= most && bytes + large.len() > most, "{bytes}");
    // Other callers have their own bound.
    assert_eq!(sent("b").await.status, 202);
    assert!(held().await > bytes);
}

#[tokio::test]
async fn a_job_of_a_path_that_is_not_let_through_reaches_no_worker() {
    let (redis, worker, _dam) = stage().await;
    forge(&redis, "/pause", "dead").await;
    assert_eq!(worker.tally("received").await, 0);
    forge(&redis, "/v1/completions", "done").await;
    assert_eq!(worker.tally("received").await, 1);
}
