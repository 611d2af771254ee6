//! Entries that another worker claims, and answers of many pieces.

use super::client::{Conn, PATIENCE, chat};
use super::hand::{DONE, Hand, SSE, token};
use super::later::{CHAT, KEYS, accepted, shown, stream};
use super::queue::{known, queueing, started};
use super::redis::Redis;
use super::rig::{Dam, eventually};

async fn claimed(hand: &Hand) -> (String, String, u64) {
    let mut found = None;
    eventually("a claim", async || {
        found = hand.claim_given().await;
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test]
async fn a_worker_that_slept_before_it_began_ends_nobody_elses_run() {
    let (redis, dam, hand) = started(4, "").await;
    let second = Hand::silent(&redis, "w2", "blue").await;
    let third = Hand::silent(&redis, "w3", "blue").await;
    let mut conn = Conn::open(dam.addr).await;
    conn.send(chat("a", true, 8, &[])).await.unwrap();
    let mut read = None;
    eventually("it is read", async || {
        read = hand.read().await;
        read.is_some()
    })
    .await;
    let (entry, job) = read.unwrap();
    // A third worker claims it and pauses.
    let slept = claimed(&third).await;
    let mut taken = second.take_over().await;
    second.emit(&mut taken, &[("head", SSE), ("data", &token("one"))]).await;
    conn.see("one").await.unwrap();
    assert_eq!(hand.begin_given(&(entry.clone(), job, 1)).await, ["LEAVE"]);
    assert_eq!(third.begin_given(&slept).await, ["LEAVE"]);
    // Nor can a worker return an entry that another one has.
    assert!(!hand.hand_back(&entry).await && !third.hand_back(&entry).await);
    assert!(second.keeps(&entry).await);
    second.answer(&mut taken, &[("data", DONE), ("end", "")]).await;
    conn.see("[DONE]").await.unwrap();
    dam.idle().await;
}

#[tokio::test]
async fn what_was_left_is_found_behind_much_that_was_not() {
    const MANY: u32 = 40;
    let (redis, dam, hand) = started(MANY + 1, "concurrency: { limit: slots }").await;
    let dead = Hand::silent(&redis, "w2", "blue").await;
    let mut conns = Vec::new();
    let mut runs = Vec::new();
    for _ in 0..MANY {
        let mut conn = Conn::open(dam.addr).await;
        conn.send(chat("a", true, 8, &[])).await.unwrap();
        conns.push(conn);
        runs.push(hand.take().await);
    }
    let mut conn = Conn::open(dam.addr).await;
    conn.send(chat("b", true, 8, &[])).await.unwrap();
    let left = dead.take().await;
    let claimer = Hand::silent(&redis, "w3", "blue").await;
    let mut found = None;
    eventually("the one that was left", async || {
        for run in &runs {
            assert!(hand.keeps(&run.entry).await);
        }
        found = claimer.claim().await;
        found.is_some()
    })
    .await;
    assert_eq!(found.unwrap().0, left.entry);
}

#[tokio::test]
async fn an_answer_of_many_pieces_is_read_at_once() {
    const PIECES: usize = 1000;
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, KEYS));
    let hand = Hand::join(&redis, "w1", "blue", 1).await;
    known(&dam, "default.blue").await;
    let location = accepted(&dam, "a", &[], CHAT).await;
    let mut taken = hand.take().await;
    hand.emit(&mut taken, &[("head", SSE)]).await;
    let one = token("x");
    for _ in 0..PIECES / 50 {
        hand.emit(&mut taken, &[("data", one.as_str()); 50]).await;
    }
    hand.answer(&mut taken, &[("data", DONE), ("end", "")]).await;
    // Page after page, without a pause between them: there are fifteen.
    let read = tokio::time::timeout(PATIENCE / 5, stream(&dam, &location, None)).await.expect("in time");
    assert_eq!(read.text().matches("\"content\":\"x\"").count(), PIECES);
    let job = tokio::time::timeout(PATIENCE / 5, shown(&dam, &location, "a")).await.expect("in time");
    assert_eq!((&job["status"], &job["response_status"]), (&"done".into(), &200.into()));
    drop(redis);
}
