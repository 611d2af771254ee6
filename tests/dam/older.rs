//! Redis comes back with older data in the middle of an answer, as after a failover.

use super::client::Conn;
use super::hand::{Hand, SSE, token};
use super::later::{CHAT, post, stage};
use super::rig::eventually;

/// Copies what Redis holds of a job, or brings the copy back. A part without a copy is deleted.
async fn copy(hand: &Hand, job: &str, back: bool) {
    for part in ["job", "reply"] {
        let (now, then) = (format!("dam:{part}:{{{job}}}"), format!("older:{part}:{{{job}}}"));
        let (from, to) = if back { (&then, &now) } else { (&now, &then) };
        hand.run::<u64>(&["DEL", to]).await;
        hand.run::<u64>(&["COPY", from, to]).await;
    }
}

#[tokio::test]
async fn a_job_that_ended_behind_the_place_of_its_reader_is_lost() {
    let (redis, dam, hand) = stage(4).await;
    let second = Hand::silent(&redis, "w2", "blue").await;
    let mut conn = Conn::open(dam.addr).await;
    conn.send(post("a", &[], CHAT)).await.unwrap();
    let mut taken = hand.take().await;
    hand.emit(&mut taken, &[("head", SSE), ("data", &token("one"))]).await;
    copy(&hand, &taken.job, false).await;
    hand.emit(&mut taken, &[("data", &token("two")), ("data", &token("three"))]).await;
    conn.see("three").await.unwrap();
    copy(&hand, &taken.job, true).await;
    // Its worker misses a number and stops; another one finds that the answer has begun.
    let mut found = None;
    eventually("a claim", async || {
        found = second.claim_given().await;
        found.is_some()
    })
    .await;
    assert_eq!(second.begin_given(&found.unwrap()).await, ["GONE"]);
    second.end(&taken).await;
    conn.see("\"code\":\"upstream_broke\"").await.unwrap();
    dam.idle().await;
    assert_eq!(dam.metric("jobs_total", "failed"), 1.0);
}
