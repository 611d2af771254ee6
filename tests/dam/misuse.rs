//! Workers that do not keep to the queue's protocol.

use super::client::Conn;
use super::hand::{DONE, SSE, token};
use super::later::{CHAT, accepted, at, post, stage};

#[tokio::test]
async fn an_entry_of_no_known_kind_and_a_number_that_is_none_are_refused() {
    let (_redis, dam, hand) = stage(4).await;
    let mut conn = Conn::open(dam.addr).await;
    conn.send(post("a", &[], CHAT)).await.unwrap();
    let mut taken = hand.take().await;
    let text = token("one");
    for kind in ["done", "HEAD", "da ta", ""] {
        for pieces in [vec![(kind, "")], vec![("head", SSE), ("data", &text), (kind, "")]] {
            let said = hand.try_emit(&taken, "1", &pieces).await.unwrap_err().to_string();
            let allowed = "head, data, end, error or fail";
            assert!(said.contains(&format!("`{kind}`")) && said.contains(allowed), "{said}");
        }
    }
    for number in ["0", "-1", "1.5", "x", "", "nan", "inf"] {
        let said = hand.try_emit(&taken, number, &[("head", SSE)]).await.unwrap_err().to_string();
        assert!(said.contains(&format!("`{number}`")) && said.contains("from 1 on"), "{said}");
    }
    let said = hand.try_emit(&taken, "3", &[("head", SSE)]).await.unwrap_err().to_string();
    assert!(said.contains("the next entry is number 1"), "{said}");
    // None of it took effect.
    assert_eq!(hand.field(&taken.job, "n").await.as_deref(), Some("0"));
    hand.answer(&mut taken, &[("head", SSE), ("data", &text), ("data", DONE), ("end", "")]).await;
    let answer = conn.answer().await.unwrap();
    assert!(answer.whole && answer.text().contains("[DONE]"), "{}", answer.text());
    dam.idle().await;
}

#[tokio::test]
async fn a_stream_ends_with_an_entry_of_unknown_kind() {
    let (_redis, dam, hand) = stage(4).await;
    let location = accepted(&dam, "a", &[], CHAT).await;
    let mut taken = hand.take().await;
    hand.emit(&mut taken, &[("head", SSE), ("data", &token("one"))]).await;
    let mut conn = Conn::open(dam.addr).await;
    conn.send(at("GET", &location, "a", &["accept: text/event-stream"])).await.unwrap();
    conn.see("one").await.unwrap();
    // The `emit` of a worker of before takes it for an end.
    let (reply, record) = (format!("dam:reply:{{{}}}", taken.job), format!("dam:job:{{{}}}", taken.job));
    let (epoch, id) = (taken.epoch.to_string(), format!("{}-3", taken.epoch));
    let fields = ["n", "3", "epoch", &epoch, "kind", "done", "data", ""];
    hand.run::<String>(&[&["XADD", &reply, &id][..], &fields].concat()).await;
    hand.run::<u64>(&["HSET", &record, "n", "3", "state", "failed"]).await;
    hand.end(&taken).await;
    conn.see("\"code\":\"upstream_broke\"").await.unwrap();
    dam.idle().await;
}
