//! Requests that are repeated with the same idempotency key, in every state of the first one.

use super::client::{Answer, Conn};
use super::hand::{DONE, Hand, JSON, SSE, token};
use super::later::{CHAT, PLAIN, accepted, post, stage};
use super::rig::{Dam, eventually};

const KEY: &str = "idempotency-key: k";
/// Longer than a key is remembered if its request is not a job.
const LONG_MS: i64 = 120_000;

async fn keys(hand: &Hand) -> Vec<String> {
    hand.run(&["KEYS", "dam:idem:*"]).await
}

async fn sent(dam: &Dam, body: &str) -> Conn {
    let mut conn = Conn::open(dam.addr).await;
    conn.send(post("a", &[KEY], body)).await.unwrap();
    conn
}

async fn again(dam: &Dam) -> Answer {
    dam.ask(post("a", &[KEY], PLAIN)).await
}

#[tokio::test]
async fn a_key_is_its_jobs_for_as_long_as_that_runs() {
    let (_redis, dam, hand) = stage(4).await;
    // A JSON answer shows nothing before its end, however long that takes.
    let mut conn = sent(&dam, PLAIN).await;
    let mut taken = hand.take().await;
    let key = keys(&hand).await.pop().unwrap();
    assert!(hand.run::<i64>(&["PTTL", &key]).await > LONG_MS);
    assert_eq!(again(&dam).await.reason(), "conflict");
    hand.answer(&mut taken, &[("head", JSON), ("data", "{}"), ("end", "")]).await;
    assert_eq!(conn.answer().await.unwrap().text(), "{}");

    // The record decides: if it is gone or past its time, there is nothing to wait for.
    hand.run::<u64>(&["DEL", &format!("dam:job:{{{}}}", taken.job)]).await;
    let mut conn = sent(&dam, PLAIN).await;
    let mut taken = hand.take().await;
    hand.answer(&mut taken, &[("head", JSON), ("data", "{}"), ("end", "")]).await;
    assert_eq!(conn.answer().await.unwrap().status, 200);
    let job = format!("dam:job:{{{}}}", taken.job);
    hand.run::<u64>(&["HSET", &job, "state", "running", "deadline_ms", "1"]).await;
    let mut conn = sent(&dam, PLAIN).await;
    let mut fresh = hand.take().await;
    assert_eq!(hand.field(&taken.job, "state").await.as_deref(), Some("expired"));
    hand.answer(&mut fresh, &[("head", JSON), ("data", "{}"), ("end", "")]).await;
    assert_eq!(conn.answer().await.unwrap().status, 200);
    dam.idle().await;
}

#[tokio::test]
async fn who_leaves_or_is_refused_before_there_is_a_job_leaves_no_key() {
    let (_redis, dam, hand) = stage(1).await;
    let _running = accepted(&dam, "b", &[], CHAT).await;
    let mut running = hand.take().await;
    let waits = sent(&dam, PLAIN).await;
    eventually("it waits", async || dam.held() == 2).await;
    assert_eq!((keys(&hand).await.len(), again(&dam).await.reason()), (1, "conflict"));
    drop(waits);
    eventually("its key is free", async || keys(&hand).await.is_empty()).await;

    let mut waits = sent(&dam, PLAIN).await;
    hand.answer(&mut running, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    let mut taken = hand.take().await;
    hand.answer(&mut taken, &[("head", JSON), ("data", "{}"), ("end", "")]).await;
    assert_eq!(waits.answer().await.unwrap().status, 200);
    dam.idle().await;
}

#[tokio::test]
async fn of_many_that_repeat_what_failed_one_runs() {
    let (_redis, dam, hand) = stage(8).await;
    let mut conn = sent(&dam, CHAT).await;
    let mut taken = hand.take().await;
    let failed = r#"{"reason":"upstream_broke","message":"no"}"#;
    // During its answer: its client already has the head.
    hand.answer(&mut taken, &[("head", SSE), ("data", &token("one")), ("error", failed)]).await;
    conn.see("upstream_broke").await.unwrap();
    let mut repeats = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let addr = dam.addr;
        repeats.spawn(async move {
            let mut conn = Conn::open(addr).await;
            conn.send(post("a", &[KEY], CHAT)).await.unwrap();
            conn.answer().await.unwrap().status
        });
    }
    let mut statuses = Vec::new();
    while statuses.len() < 4 {
        statuses.push(repeats.join_next().await.unwrap().unwrap());
    }
    let mut taken = hand.take().await;
    hand.answer(&mut taken, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    assert_eq!((statuses, repeats.join_next().await.unwrap().unwrap()), (vec![409; 4], 200));
    assert!(hand.read().await.is_none(), "nothing ran again");
    dam.idle().await;
}

#[tokio::test]
async fn what_a_dead_gateway_never_put_into_the_queue_runs_for_who_sends_it_again() {
    let (_redis, dam, hand) = stage(4).await;
    let mut conn = sent(&dam, PLAIN).await;
    let mut taken = hand.take().await;
    let record = format!("dam:job:{{{}}}", taken.job);
    let alive = hand.field(&taken.job, "dam").await.unwrap();
    hand.answer(&mut taken, &[("head", JSON), ("data", "{}"), ("end", "")]).await;
    assert_eq!(conn.answer().await.unwrap().status, 200);
    dam.idle().await;

    // The state that a gateway leaves if it dies while it waits for room: a record, but no entry.
    let later = (hand.run::<Vec<u64>>(&["TIME"]).await[0] + 600) * 1000;
    let left = async |gateway: &str| {
        let fields = ["state", "queued", "dam", gateway, "deadline_ms", &later.to_string()];
        hand.run::<u64>(&[&["HSET", &record], &fields[..]].concat()).await;
    };
    left(&alive).await;
    assert_eq!(again(&dam).await.reason(), "conflict", "its gateway is at work");
    left("gone").await;
    let mut conn = sent(&dam, PLAIN).await;
    let mut fresh = hand.take().await;
    assert_ne!(fresh.job, taken.job);
    // If it were in the stream after all, no worker would run it.
    assert_eq!(hand.field(&taken.job, "state").await.as_deref(), Some("cancelled"));
    assert_eq!(again(&dam).await.reason(), "conflict", "the key is the new job's");
    hand.answer(&mut fresh, &[("head", JSON), ("data", "{}"), ("end", "")]).await;
    assert_eq!(conn.answer().await.unwrap().status, 200);

    // A job that is running goes on, whichever gateway queued it.
    let record = format!("dam:job:{{{}}}", fresh.job);
    let running = ["HSET", &record, "state", "running", "dam", "gone", "deadline_ms", &later.to_string()];
    hand.run::<u64>(&running).await;
    assert_eq!(again(&dam).await.reason(), "conflict");
    assert_eq!(hand.field(&fresh.job, "state").await.as_deref(), Some("running"));
    dam.idle().await;
}

#[tokio::test]
async fn a_key_of_a_dead_gateways_waiting_request_is_free() {
    let (_redis, dam, hand) = stage(1).await;
    let _running = accepted(&dam, "b", &[], CHAT).await;
    let mut running = hand.take().await;
    let waits = sent(&dam, PLAIN).await;
    eventually("it waits", async || dam.held() == 2).await;
    let key = keys(&hand).await.pop().unwrap();
    let mine: String = hand.run(&["GET", &key]).await;
    drop(waits);
    eventually("its key is free", async || keys(&hand).await.is_empty()).await;
    hand.run::<String>(&["SET", &key, &mine]).await;
    assert_eq!(again(&dam).await.reason(), "conflict", "its gateway is at work");
    let (text, _) = mine.rsplit_once(' ').unwrap();
    hand.answer(&mut running, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    hand.run::<String>(&["SET", &key, &format!("{text} gone")]).await;
    let mut conn = sent(&dam, PLAIN).await;
    let mut taken = hand.take().await;
    hand.answer(&mut taken, &[("head", JSON), ("data", "{}"), ("end", "")]).await;
    assert_eq!(conn.answer().await.unwrap().status, 200);
    dam.idle().await;
}
