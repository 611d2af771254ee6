//! What is to be done in Redis after a response has ended, when Redis is away just then.

use std::time::Duration;

use super::client::Conn;
use super::hand::{SSE, token};
use super::later::{CHAT, KEYS, PLAIN, post, stage};
use super::queue::{known, queueing};
use super::redis::{Redis, throughout};
use super::rig::{Dam, Worker, before, eventually};

const KEY: &str = "idempotency-key: k";
/// Longer than a few tries take.
const OUTAGE: Duration = Duration::from_secs(6);

/// Lets Redis be away for a while, during which `meanwhile` is done first.
async fn outage(redis: &Redis, dam: &Dam, meanwhile: impl Future<Output = ()>) {
    redis.pause();
    meanwhile.await;
    eventually("Redis is away", async || dam.metric("redis_up", "") == 0.0).await;
    throughout(OUTAGE, async || assert_eq!(dam.metric("redis_up", ""), 0.0)).await;
    redis.resume().await;
    eventually("Redis is back", async || dam.metric("redis_up", "") == 1.0).await;
}

#[tokio::test]
async fn a_job_whose_client_leaves_is_cancelled_afterwards_and_counted_then() {
    let (redis, dam, hand) = stage(4).await;
    let mut conn = Conn::open(dam.addr).await;
    conn.send(post("a", &[], CHAT)).await.unwrap();
    let mut taken = hand.take().await;
    hand.emit(&mut taken, &[("head", SSE), ("data", &token("one"))]).await;
    conn.see("one").await.unwrap();
    outage(&redis, &dam, async {
        drop(conn);
        dam.idle().await;
        assert_eq!(dam.metric("jobs_total", ""), 0.0, "it runs on");
    })
    .await;
    eventually("it is cancelled", async || {
        hand.field(&taken.job, "state").await.as_deref() == Some("cancelled")
    })
    .await;
    eventually("it is counted", async || dam.metric("jobs_total", "cancelled") == 1.0).await;
    assert_eq!(dam.metric("jobs_total", ""), 1.0);
}

#[tokio::test]
async fn a_job_that_was_answered_in_the_end_does_not_count_as_cancelled() {
    let (_redis, dam, hand) = stage(4).await;
    let mut conn = Conn::open(dam.addr).await;
    conn.send(post("a", &[], CHAT)).await.unwrap();
    let mut taken = hand.take().await;
    hand.emit(&mut taken, &[("head", SSE), ("data", &token("one"))]).await;
    conn.see("one").await.unwrap();
    // The worker is faster than the cancel, and the gateway has not heard of it.
    hand.run::<u64>(&["HSET", &format!("dam:job:{{{}}}", taken.job), "state", "done"]).await;
    drop(conn);
    eventually("it is counted", async || dam.metric("jobs_total", "answered") == 1.0).await;
    assert_eq!(dam.metric("jobs_total", ""), 1.0);
}

#[tokio::test]
async fn a_key_whose_request_is_refused_is_free_afterwards() {
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, KEYS));
    let hand = super::hand::Hand::join(&redis, "w1", "blue", 1).await;
    known(&dam, "default.blue").await;
    outage(&redis, &dam, async {
        let refused = dam.ask(post("a", &[KEY], PLAIN)).await;
        assert_eq!(refused.reason(), "upstream_unreachable", "{}", refused.text());
    })
    .await;
    eventually("a repeat runs", async || {
        let mut conn = Conn::open(dam.addr).await;
        conn.send(post("a", &[KEY], PLAIN)).await.unwrap();
        tokio::select! {
            answer = conn.answer() => {
                let answer = answer.unwrap();
                assert!([409, 502, 503].contains(&answer.status), "{}", answer.text());
                false
            }
            _taken = hand.take() => true,
        }
    })
    .await;
    assert_eq!(hand.run::<Vec<String>>(&["KEYS", "dam:idem:*"]).await.len(), 1);
}

#[tokio::test]
async fn over_http_an_answer_is_stored_afterwards_and_a_key_freed() {
    let (redis, worker) = (Redis::start().await, Worker::paced(8, 20.0));
    let long = CHAT.replace("\"max_tokens\":8", "\"max_tokens\":100");
    let url = redis.url();
    let more = format!("state: redis\nredis: {{ url: \"{url}\", timeout: 500ms }}\n{KEYS}");
    let dam = Dam::start(&before(&[worker.entry("w1", 4)], &more));
    eventually("Redis is there", async || dam.metric("redis_up", "") == 1.0).await;
    // Two answers that have begun: one is read to its last event, the client of the other leaves.
    let mut conns = Vec::new();
    for key in ["a", "b"] {
        let mut conn = Conn::open(dam.addr).await;
        conn.send(post(key, &[KEY], &long)).await.unwrap();
        conn.head().await.unwrap();
        conns.push(conn);
    }
    worker.busy_with(2).await;
    let (left, mut read) = (conns.pop().unwrap(), conns.pop().unwrap());
    outage(&redis, &dam, async {
        drop(left);
        read.see("[DONE]").await.unwrap();
        drop(read);
        dam.idle().await;
    })
    .await;
    let ran = worker.tally("received").await;
    eventually("it is stored", async || {
        let again = dam.ask(post("a", &[KEY], &long)).await;
        assert!(again.status == 200 || again.status == 409, "{}", again.text());
        again.status == 200
    })
    .await;
    assert_eq!(worker.tally("received").await, ran, "the stored answer came");
    eventually("the other key is free", async || {
        let again = dam.ask(post("b", &[KEY], &long)).await;
        assert!([200, 409].contains(&again.status), "{}", again.text());
        again.status == 200
    })
    .await;
    dam.idle().await;
}
