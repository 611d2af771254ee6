//! Endings of asynchronous jobs other than success: requeued dead letters, runs lost during the
//! answer, and expired deadlines.

use serde_json::Value;

use super::client::{Answer, Conn, ask, get, request};
use super::hand::{DONE, Hand, JSON, SSE, Taken, token};
use super::later::{CHAT, KEYS, PLAIN, accepted, at, shown, stage};
use super::queue::{known, queueing};
use super::redis::Redis;
use super::rig::{Dam, eventually};

const WAITING: &str = "dam:pending:{default}";
const CALLERS: &str = "dam:pending:{default}:callers";

/// Returns a dead letter of the caller `a`.
async fn dead_letter(dam: &Dam, hand: &Hand) -> (String, String) {
    let location = accepted(dam, "a", &[], PLAIN).await;
    let Taken { job, entry, .. } = hand.take().await;
    hand.run::<u64>(&["HSET", &format!("dam:job:{{{job}}}"), "attempt", "3", "last_error", "no memory"])
        .await;
    assert_eq!(hand.begin(&job).await, ["DEAD", "no memory", "86400000"]);
    hand.end_dead(&entry, &job, "no memory").await;
    dam.idle().await;
    (location, job)
}

async fn requeued(dam: &Dam, job: &str) -> Answer {
    let body = format!(r#"{{"pool":"default","job":"{job}"}}"#);
    ask(dam.admin, request("POST /api/v1/dead", &["content-type: application/json"], body)).await
}

async fn letters(dam: &Dam) -> usize {
    let letters = ask(dam.admin, get("/api/v1/dead")).await.json();
    letters["dead"]["default"].as_array().unwrap().len()
}

/// Returns the number of waiting jobs of each caller.
async fn counts(hand: &Hand) -> Vec<u64> {
    let known: Vec<(String, u64)> = hand.run(&["HGETALL", CALLERS]).await;
    known.into_iter().filter(|(of, _)| !of.ends_with(":bytes")).map(|(_, count)| count).collect()
}

async fn finish(hand: &Hand, mut taken: Taken) {
    hand.answer(&mut taken, &[("head", JSON), ("data", "{}"), ("end", "")]).await;
}

#[tokio::test]
async fn a_dead_letter_that_waits_again_is_counted_once_and_not_for_its_caller() {
    let (_redis, dam, hand) = stage(1).await;
    let (location, job) = dead_letter(&dam, &hand).await;
    let _other = accepted(&dam, "b", &[], PLAIN).await;
    let running = hand.take().await;
    let waits = accepted(&dam, "a", &[], PLAIN).await;
    assert_eq!(requeued(&dam, &job).await.status, 202);
    let counts = async || counts(&hand).await;
    assert_eq!(counts().await, [1, 1]);
    assert_eq!(dam.ask(at("DELETE", &location, "a", &[])).await.json()["status"], "cancelled");
    assert_eq!(counts().await, [1]);
    assert_eq!(dam.ask(at("DELETE", &waits, "a", &[])).await.json()["status"], "cancelled");
    assert_eq!(hand.run::<u64>(&["EXISTS", WAITING, CALLERS]).await, 0);
    finish(&hand, running).await;
    dam.idle().await;
}

#[tokio::test]
async fn a_dead_letter_for_which_there_is_no_room_stays_one() {
    let (_redis, dam, hand) = stage(4).await;
    let (location, job) = dead_letter(&dam, &hand).await;
    let filled: Vec<String> = (0..4096).map(|n| n.to_string()).collect();
    let fill: Vec<&str> =
        ["HSET", WAITING].into_iter().chain(filled.iter().flat_map(|n| [&**n, "x"])).collect();
    hand.run::<u64>(&fill).await;
    let refused = requeued(&dam, &job).await;
    assert!(refused.status == 503 && refused.text().contains("no room"), "{}", refused.text());
    let stands = shown(&dam, &location, "a").await;
    assert_eq!(
        (&stands["status"], &stands["attempt"], &stands["error"]["message"]),
        (&"dead".into(), &3.into(), &"no memory".into())
    );
    let day = hand.run::<i64>(&["TTL", &format!("dam:job:{{{job}}}")]).await > 23 * 3600;
    assert_eq!((letters(&dam).await, day), (1, true));
    hand.run::<u64>(&["DEL", WAITING]).await;
    assert_eq!(requeued(&dam, &job).await.status, 202);
    finish(&hand, hand.take().await).await;
    assert_eq!(shown(&dam, &location, "a").await["status"], "done");
    dam.idle().await;
}

#[tokio::test]
async fn a_dead_letter_is_put_where_jobs_wait_once() {
    let (_redis, dam, hand) = stage(4).await;
    let (_, job) = dead_letter(&dam, &hand).await;
    let is_there = ["XADD", "dam:dead:{default}", "*", "job", &job, "error", "no memory"];
    assert_eq!(requeued(&dam, &job).await.status, 202);
    eventually("the workers have it", async || hand.length().await == 1).await;
    // Another gateway read the letter before it was removed.
    hand.run::<String>(&is_there).await;
    assert_eq!(requeued(&dam, &job).await.status, 404);
    let taken = hand.take().await;
    assert_eq!((hand.read().await, hand.run::<u64>(&["EXISTS", WAITING]).await), (None, 0));
    finish(&hand, taken).await;
    dam.idle().await;

    // A letter that is being requeued is left alone, unless its gateway is long gone.
    let (_, job) = dead_letter(&dam, &hand).await;
    let record = format!("dam:job:{{{job}}}");
    let now = hand.run::<Vec<u64>>(&["TIME"]).await[0] * 1000;
    hand.run::<u64>(&["HSET", &record, "state", "queued", "requeued_ms", &now.to_string()]).await;
    assert_eq!((requeued(&dam, &job).await.status, letters(&dam).await), (503, 1));
    hand.run::<u64>(&["HSET", &record, "requeued_ms", &(now - 60_000).to_string()]).await;
    assert_eq!((requeued(&dam, &job).await.status, letters(&dam).await), (202, 0));
    finish(&hand, hand.take().await).await;
    dam.idle().await;
}

#[tokio::test]
async fn a_job_has_its_seat_in_every_run() {
    let (redis, dam, hand) = stage(4).await;
    let second = Hand::silent(&redis, "w2", "blue").await;
    let location = accepted(&dam, "a", &[], CHAT).await;
    let mut first = hand.take().await;
    hand.emit(&mut first, &[("head", SSE), ("data", &token("first"))]).await;
    let mut again = second.take_over().await;
    second.emit(&mut again, &[("head", SSE), ("data", &token("again"))]).await;
    // Read at the same gateway: what it shows has also reached the request with the permit.
    let mut reader = Conn::open(dam.addr).await;
    reader.send(at("GET", &location, "a", &["accept: text/event-stream"])).await.unwrap();
    reader.see("again").await.unwrap();
    super::redis::throughout(std::time::Duration::from_millis(200), async || assert_eq!(dam.held(), 1)).await;
    assert_eq!(dam.metric("jobs_total", ""), 0.0);
    second.answer(&mut again, &[("data", DONE), ("end", "")]).await;
    dam.idle().await;
    assert_eq!(dam.metric("jobs_total", "answered"), 1.0);
}

#[tokio::test]
async fn a_job_that_falls_silent_is_cancelled() {
    let redis = Redis::start().await;
    let text = queueing(&redis, KEYS)
        .replace("mode: queue", "mode: queue, timeouts: { first_token: 200ms, idle: 300ms, total: 5s }");
    let dam = Dam::start(&text);
    let hand = Hand::join(&redis, "w1", "blue", 4).await;
    known(&dam, "default.blue").await;
    let content = token("x");
    // Before its answer begins, before its first content, and after that.
    for pieces in
        [vec![], vec![("head", SSE), ("data", ": hello\n\n")], vec![("head", SSE), ("data", &content)]]
    {
        let location = accepted(&dam, "a", &[], CHAT).await;
        let mut taken = hand.take().await;
        if !pieces.is_empty() {
            hand.emit(&mut taken, &pieces).await;
        }
        eventually("it is told", async || {
            hand.field(&taken.job, "state").await.as_deref() == Some("expired")
        })
        .await;
        assert_eq!(shown(&dam, &location, "a").await["status"], "expired");
        hand.end(&taken).await;
        dam.idle().await;
    }
    eventually("they are counted", async || dam.metric("jobs_total", "expired") == 3.0).await;
}

#[tokio::test]
async fn jobs_whose_hour_is_over_end_while_they_wait() {
    let (redis, dam, hand) = stage(1).await;
    let _first = accepted(&dam, "b", &[], CHAT).await;
    let running = hand.take().await;
    let [late, early] = [accepted(&dam, "a", &[], PLAIN).await, accepted(&dam, "a", &[], PLAIN).await];
    let name = |location: &str| location.rsplit('/').next().unwrap().to_owned();
    // Both came an hour ago by a gateway's clock, one of them also by Redis' clock.
    for job in [name(&late), name(&early)] {
        let known: String = hand.run(&["HGET", WAITING, &job]).await;
        let mut known: Value = serde_json::from_str(&known).unwrap();
        known["at_ms"] = 1.into();
        hand.run::<u64>(&["HSET", WAITING, &job, &known.to_string()]).await;
    }
    hand.run::<u64>(&["HSET", &format!("dam:job:{{{}}}", name(&late)), "deadline_ms", "1"]).await;
    let state = async |job: String| hand.field(&job, "state").await.unwrap();
    eventually("it ends", async || state(name(&late)).await == "expired").await;
    eventually("it is taken out", async || hand.run::<u64>(&["HLEN", WAITING]).await == 1).await;
    assert_eq!((state(name(&early)).await.as_str(), counts(&hand).await), ("queued", vec![1]));
    assert_eq!(dam.metric("jobs_total", "expired"), 1.0);
    assert_eq!(shown(&dam, &late, "a").await["status"], "expired");
    // Also without a worker.
    let other = Hand::silent(&redis, "w2", "blue").await;
    drop(hand);
    let beat = super::redis::beat("w1", "a", 1_000_000, r#","slots":1,"colour":"blue""#);
    redis.publish(&beat.replace("ready", "draining")).await;
    eventually("no worker is left", async || {
        super::fleet::shown(&dam, "default.blue").is_none_or(|side| side["eligible"] == false)
    })
    .await;
    other.run::<u64>(&["HSET", &format!("dam:job:{{{}}}", name(&early)), "deadline_ms", "1"]).await;
    eventually("it is taken out", async || other.run::<u64>(&["EXISTS", WAITING, CALLERS]).await == 0).await;
    assert_eq!(other.field(&name(&early), "state").await.as_deref(), Some("expired"));
    drop(running);
}

#[tokio::test]
async fn a_stream_ends_with_its_job_however_that_ends() {
    let (_redis, dam, hand) = stage(1).await;
    let _first = accepted(&dam, "b", &[], CHAT).await;
    let _running = hand.take().await;
    let mut readers = Vec::new();
    for _ in 0..2 {
        let location = accepted(&dam, "a", &[], CHAT).await;
        let mut conn = Conn::open(dam.addr).await;
        conn.send(at("GET", &location, "a", &["accept: text/event-stream"])).await.unwrap();
        conn.head().await.unwrap();
        readers.push((format!("dam:job:{{{}}}", location.rsplit('/').next().unwrap()), conn));
    }
    let (mut gone, mut late) = (readers.pop().unwrap(), readers.pop().unwrap());
    hand.run::<u64>(&["DEL", WAITING, CALLERS, &gone.0]).await;
    hand.run::<u64>(&["HSET", &late.0, "deadline_ms", "1"]).await;
    gone.1.see("\"code\":\"upstream_broke\"").await.unwrap();
    late.1.see("\"code\":\"upstream_timeout\"").await.unwrap();
}
