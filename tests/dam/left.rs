//! What is left in Redis after all jobs have ended and all processes have left.

use traffic_dam::glob::Glob;

use super::client::{Conn, request};
use super::hand::{DONE, Hand, JSON, SSE};
use super::later::{CHAT, KEYS, LATER, PLAIN, accepted, at, post};
use super::queue::{known, queueing};
use super::redis::Redis;
use super::rig::{Dam, eventually};

const PROTOCOL: &str = include_str!("../../docs/queue-protocol.md");

/// The keys of the documents' table, and whether each stays.
fn documented() -> Vec<(Glob, bool)> {
    let section = PROTOCOL.split("\n## ").find(|part| part.starts_with("What stays in Redis")).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let keys = rows.flat_map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let stays = cells[2].starts_with("stay");
        let names: Vec<_> =
            cells[1].split('`').filter(|name| name.starts_with('{')).map(str::to_owned).collect();
        names.into_iter().map(move |name| (name, stays))
    });
    keys.map(|(name, stays)| {
        // What is in capitals stands for any value.
        let name = name.replace("{prefix}", "dam");
        let runs =
            name.as_bytes().chunk_by(|one, next| one.is_ascii_uppercase() == next.is_ascii_uppercase());
        let pattern: String = runs
            .map(|run| if run[0].is_ascii_uppercase() { "*" } else { std::str::from_utf8(run).unwrap() })
            .collect();
        (Glob::new(pattern), stays)
    })
    .collect()
}

#[tokio::test]
async fn nothing_is_left_that_the_documents_do_not_name() {
    let documented = documented();
    assert!(documented.len() > 10, "{documented:?}");
    let redis = Redis::start().await;
    let mut dam = Dam::start(&queueing(&redis, &format!("{KEYS}jobs: {{ attempts: 1 }}\n")));
    let hand = Hand::join(&redis, "w1", "blue", 4).await;
    known(&dam, "default.blue").await;

    // A turn of a session, and its next one in the worker's own stream.
    let own = Hand::silent(&redis, "w1", "blue:w1").await;
    let head = SSE.replace(r#""worker":"w1""#, r#""worker":"w1","colour":"blue""#);
    for taken_by in [&hand, &own] {
        let mut conn = Conn::open(dam.addr).await;
        conn.send(post("a", &["x-session-id: s"], CHAT)).await.unwrap();
        let mut taken = taken_by.take().await;
        taken_by.answer(&mut taken, &[("head", &head), ("data", DONE), ("end", "")]).await;
        assert!(conn.answer().await.unwrap().whole);
    }
    // One that is answered later, one that may be repeated, one whose client leaves.
    accepted(&dam, "a", &["idempotency-key: later"], PLAIN).await;
    let mut taken = hand.take().await;
    hand.answer(&mut taken, &[("head", JSON), ("data", "{}"), ("end", "")]).await;
    let mut conn = Conn::open(dam.addr).await;
    conn.send(post("a", &["idempotency-key: k"], PLAIN)).await.unwrap();
    let mut taken = hand.take().await;
    hand.answer(&mut taken, &[("head", JSON), ("data", "{}"), ("end", "")]).await;
    assert_eq!(conn.answer().await.unwrap().status, 200);
    let mut conn = Conn::open(dam.addr).await;
    conn.send(post("a", &["idempotency-key: left"], CHAT)).await.unwrap();
    let taken = hand.take().await;
    drop(conn);
    eventually("it is cancelled", async || {
        hand.field(&taken.job, "state").await.as_deref() == Some("cancelled")
    })
    .await;
    hand.end(&taken).await;
    // One that is refused, and a dead letter.
    let far = dam.ask(post("a", &[LATER, "x-traffic-dam-not-before: 2999-01-01T00:00:00Z"], PLAIN)).await;
    assert_eq!(far.status, 400);
    let waits = accepted(&dam, "a", &[], PLAIN).await;
    let taken = hand.take().await;
    assert!(waits.ends_with(&taken.job));
    assert!(hand.hand_back(&taken.entry).await);
    let again = hand.claim_given().await.unwrap();
    assert_eq!(hand.begin_given(&again).await[0], "DEAD");
    hand.end_dead(&taken.entry, &taken.job, "no").await;
    assert_eq!(dam.ask(at("DELETE", &waits, "a", &[])).await.status, 200);
    // A switch.
    let put = request(
        "PUT /api/v1/pools/default/active",
        &["content-type: application/json"],
        r#"{"colour":"blue"}"#,
    );
    assert_eq!(super::client::ask(dam.admin, put).await.status, 200);
    dam.idle().await;
    dam.app.close();
    dam.ended().await;

    let keys: Vec<String> = own.run(&["KEYS", "*"]).await;
    assert!(keys.iter().any(|key| key.starts_with("dam:session:")), "{keys:?}");
    assert!(keys.iter().any(|key| key.starts_with("dam:dead:")), "{keys:?}");
    for key in keys {
        let row = documented.iter().find(|(name, _)| name.matches(&key));
        let (_, stays) = row.unwrap_or_else(|| panic!("{key} is left, and no document names it"));
        let lives: i64 = own.run(&["PTTL", &key]).await;
        assert!(lives >= 0 || (*stays && lives == -1), "{key} lives for ever");
        let kind: String = own.run(&["TYPE", &key]).await;
        if kind == "stream" && key.starts_with("dam:jobs:") {
            assert_eq!(own.run::<u64>(&["XLEN", &key]).await, 0, "{key} is not empty");
        }
    }
}
