//! Redis comes back with older data in the middle of an answer, as after a failover.

use tokio::io::AsyncReadExt;

use super::client::Conn;
use super::hand::{DONE, Hand, SSE, token};
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

#[tokio::test]
async fn a_run_is_not_continued_by_one_that_follows_the_loss_of_its_beginning() {
    let (_redis, dam, hand) = stage(4).await;
    let mut conn = Conn::open(dam.addr).await;
    conn.send(post("a", &[], CHAT)).await.unwrap();
    let mut read = None;
    eventually("a job", async || {
        read = hand.read().await;
        read.is_some()
    })
    .await;
    let (entry, job) = read.unwrap();
    copy(&hand, &job, false).await;
    let mut first = hand.begun((entry.clone(), job.clone(), 1)).await;
    hand.emit(&mut first, &[("head", SSE), ("data", &token("A1")), ("data", &token("A2"))]).await;
    conn.see("A2").await.unwrap();
    copy(&hand, &job, true).await;
    let mut second = hand.begun((entry, job, 1)).await;
    assert_ne!(first.epoch, second.epoch);
    let text = ["B1", "B2", "B3", "B4"].map(token);
    let data = text.each_ref().map(|text| ("data", &**text));
    hand.emit(&mut second, &[&[("head", SSE)][..], &data].concat()).await;
    // Also the first run cannot be told apart by its number alone.
    assert_eq!(hand.emit(&mut first, &[("data", &token("A3"))]).await, "FENCED");
    // The gateway may have cancelled it already.
    let _said = hand.emit(&mut second, &[("data", DONE), ("end", "")]).await;
    hand.end(&second).await;
    let mut rest = Vec::new();
    let ended = async || {
        let text = String::from_utf8_lossy(&rest).into_owned();
        if !text.contains("upstream_broke") && !text.contains("[DONE]") {
            conn.socket.read_buf(&mut rest).await.unwrap();
            return false;
        }
        assert!(!text.contains("\"B") && !text.contains("[DONE]"), "{text}");
        true
    };
    eventually("the answer ends with an error", ended).await;
    dam.idle().await;
}
