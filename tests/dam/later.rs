//! Jobs whose answers are fetched later, from any gateway, by their caller; and repeated requests.

use serde_json::Value;

use super::client::{Answer, Conn, PATIENCE, ask, request};
use super::hand::{DONE, Hand, JSON, SSE, token};
use super::queue::{known, queueing};
use super::redis::Redis;
use super::rig::{Dam, eventually};

pub(crate) const CHAT: &str =
    r#"{"model":"sim","messages":[{"role":"user","content":"Hi."}],"stream":true,"max_tokens":8}"#;
pub(crate) const PLAIN: &str =
    r#"{"model":"sim","messages":[{"role":"user","content":"Hi."}],"max_tokens":8}"#;
pub(crate) const LATER: &str = "prefer: respond-async";
/// The SHA-256 of `a` and of `b`.
pub(crate) const KEYS: &str = "callers:\n  keys:\n    - { id: a, sha256: ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb }\n    - { id: b, sha256: 3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d }\n";

pub(crate) fn post(key: &str, fields: &[&str], body: &str) -> Vec<u8> {
    let key = format!("authorization: Bearer {key}");
    let fields: Vec<&str> =
        [key.as_str(), "content-type: application/json"].iter().chain(fields).copied().collect();
    request("POST /v1/chat/completions", &fields, body)
}

pub(crate) fn at(method: &str, location: &str, key: &str, fields: &[&str]) -> Vec<u8> {
    let key = format!("authorization: Bearer {key}");
    let fields: Vec<&str> = [key.as_str()].iter().chain(fields).copied().collect();
    request(&format!("{method} {location}"), &fields, "")
}

pub(crate) async fn stage(slots: u32) -> (Redis, Dam, Hand) {
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, KEYS));
    let hand = Hand::join(&redis, "w1", "blue", slots).await;
    known(&dam, "default.blue").await;
    (redis, dam, hand)
}

pub(crate) async fn accepted(dam: &Dam, key: &str, fields: &[&str], body: &str) -> String {
    let fields: Vec<&str> = fields.iter().chain(&[LATER]).copied().collect();
    let answer = dam.ask(post(key, &fields, body)).await;
    assert_eq!(
        (answer.status, answer.header("preference-applied")),
        (202, Some("respond-async")),
        "{}",
        answer.text()
    );
    let location = answer.header("location").unwrap().to_owned();
    assert_eq!(location.strip_prefix("/v1/jobs/"), answer.json()["id"].as_str());
    location
}

pub(crate) async fn shown(dam: &Dam, location: &str, key: &str) -> Value {
    dam.ask(at("GET", location, key, &[])).await.json()
}

pub(crate) async fn stream(dam: &Dam, location: &str, from: Option<&str>) -> Answer {
    let from = from.map(|id| format!("last-event-id: {id}"));
    let fields: Vec<&str> = ["accept: text/event-stream"].into_iter().chain(from.as_deref()).collect();
    dam.ask(at("GET", location, "a", &fields)).await
}

/// Returns the complete events of a stream that was cut off, and the id of the last one.
fn kept(seen: &str) -> (&str, Option<String>) {
    let end = seen.rfind("\n\n").map_or(0, |at| at + 2);
    let id = seen[..end].lines().filter_map(|line| line.strip_prefix("id: ")).next_back();
    (&seen[..end], id.map(str::to_owned))
}

#[tokio::test]
async fn a_job_is_answered_later_and_to_its_caller_only() {
    let (redis, dam, hand) = stage(4).await;
    let location = accepted(&dam, "a", &[], PLAIN).await;
    let mut taken = hand.take().await;
    assert_eq!(shown(&dam, &location, "a").await["status"], "running");
    hand.answer(
        &mut taken,
        &[("head", JSON), ("data", r#"{"object":"chat"#), ("data", r#".completion"}"#), ("end", "")],
    )
    .await;
    let job = shown(&dam, &location, "a").await;
    assert_eq!(
        (&job["status"], &job["response"]["object"], &job["response_status"]),
        (&"done".into(), &"chat.completion".into(), &200.into())
    );

    let other = dam.ask(at("GET", &location, "b", &[])).await;
    let none = dam.ask(at("GET", "/v1/jobs/0123456789abcdef0123456789abcdef", "b", &[])).await;
    assert_eq!((other.status, other.text()), (404, none.text()), "nothing tells them apart");
    assert_eq!(dam.ask(at("DELETE", &location, "b", &[])).await.status, 404);
    for wrong in ["/v1/jobs/x", "/v1/jobs/", "/v1/jobs/0123456789ABCDEF0123456789ABCDEF"] {
        assert_eq!(dam.ask(at("GET", wrong, "a", &[])).await.status, 404);
    }
    for bytes in [at("GET", &location, "unknown", &[]), post("unknown", &[LATER], PLAIN)] {
        assert_eq!(dam.ask(bytes).await.status, 401);
    }
    // Its answer expires before its record.
    hand.run::<u64>(&["DEL", &format!("dam:reply:{{{}}}", taken.job)]).await;
    let answer = dam.ask(at("GET", &location, "a", &[])).await;
    assert_eq!((answer.status, answer.reason()), (410, "expired"));
    dam.idle().await;
    assert_eq!(dam.metric("jobs_total", "answered"), 1.0);
    drop(redis);
}

#[tokio::test]
async fn a_stream_is_read_on_at_any_gateway_wherever_it_was_cut() {
    let (redis, dam, hand) = stage(4).await;
    let other = Dam::start(&queueing(&redis, KEYS));
    known(&other, "default.blue").await;
    let location = accepted(&dam, "a", &[], CHAT).await;
    // Read before any answer exists, at the gateway that does not hold the job.
    let mut early = Conn::open(other.addr).await;
    early.send(at("GET", &location, "a", &["accept: text/event-stream"])).await.unwrap();
    let mut taken = hand.take().await;
    let whole = [token("one"), token("two"), token("three"), DONE.to_owned()].concat();
    hand.emit(&mut taken, &[("head", SSE)]).await;
    for piece in whole.as_bytes().chunks(37) {
        hand.emit(&mut taken, &[("data", std::str::from_utf8(piece).unwrap())]).await;
    }
    hand.answer(&mut taken, &[("end", "")]).await;
    let early = early.answer().await.unwrap();
    let uncut = stream(&dam, &location, None).await;
    assert_eq!((early.status, early.whole, early.text()), (200, true, uncut.text()));
    let without: String =
        uncut.text().split_inclusive('\n').filter(|line| !line.starts_with("id: ")).collect();
    assert_eq!(without, whole);
    let mut conn = Conn::open(other.addr).await;
    for cut in 0..=uncut.text().len() {
        let (seen, id) = kept(&uncut.text()[..cut]);
        let id = id.map(|id| format!("last-event-id: {id}"));
        let fields: Vec<&str> = ["accept: text/event-stream"].into_iter().chain(id.as_deref()).collect();
        let rest = conn.ask(at("GET", &location, "a", &fields)).await.unwrap();
        assert_eq!([seen, rest.text()].concat(), uncut.text(), "cut at {cut}");
    }
    assert_eq!(stream(&dam, &location, Some("x")).await.status, 400);
    let beyond = format!("{}-99-0", taken.epoch);
    assert_eq!(stream(&dam, &location, Some(&beyond)).await.status, 400);
    // Reading does not continue with the events of another run: an earlier one, or one that was lost.
    for epoch in [7, taken.epoch + 7] {
        let stale = stream(&dam, &location, Some(&format!("{epoch}-1-1"))).await;
        assert!(stale.status == 200 && stale.text().contains("upstream_broke"), "{}", stale.text());
    }
}

#[tokio::test]
async fn a_second_run_is_not_glued_to_the_first() {
    let (redis, dam, hand) = stage(4).await;
    let second = Hand::silent(&redis, "w2", "blue").await;
    let location = accepted(&dam, "a", &[], CHAT).await;
    let mut first = hand.take().await;
    hand.emit(&mut first, &[("head", SSE), ("data", &token("first"))]).await;
    let mut reader = Conn::open(dam.addr).await;
    reader.send(at("GET", &location, "a", &["accept: text/event-stream"])).await.unwrap();
    reader.see("first").await.unwrap();
    let mut again = second.take_over().await;
    second.answer(&mut again, &[("head", SSE), ("data", &token("again")), ("data", DONE), ("end", "")]).await;
    reader.see("\"code\":\"upstream_broke\"").await.unwrap();
    let stale = stream(&dam, &location, Some(&format!("{}-2-10", first.epoch))).await;
    assert!(stale.text().contains("upstream_broke") && !stale.text().contains("again"), "{}", stale.text());
    let fresh = stream(&dam, &location, None).await;
    assert!(
        fresh.text().contains("again") && !fresh.text().contains("first") && fresh.text().ends_with("\n\n")
    );
    dam.idle().await;
}

#[tokio::test]
async fn jobs_wait_in_redis_for_their_fair_turn_and_can_be_cancelled() {
    let (redis, dam, hand) = stage(1).await;
    let first = accepted(&dam, "a", &[], CHAT).await;
    let mut taken = hand.take().await;
    let mut waiting = Vec::new();
    for key in ["a", "a", "b"] {
        waiting.push(accepted(&dam, key, &[], CHAT).await);
    }
    let pending = async || hand.run::<u64>(&["HLEN", "dam:pending:{default}"]).await;
    eventually("they wait", async || pending().await == 3).await;
    assert_eq!(
        (hand.length().await, shown(&dam, &waiting[0], "a").await["status"].clone()),
        (1, "queued".into())
    );
    let gone = dam.ask(at("DELETE", &waiting[0], "a", &[])).await;
    assert_eq!((gone.status, &gone.json()["status"]), (200, &"cancelled".into()));
    assert_eq!(pending().await, 2);
    // The gateway that accepted them ends; another one queues them for the workers.
    let other = Dam::start(&queueing(&redis, KEYS));
    known(&other, "default.blue").await;
    drop(dam);
    hand.answer(&mut taken, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    for _ in 0..2 {
        let mut taken = hand.take().await;
        hand.answer(&mut taken, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    }
    for (location, key) in [(&first, "a"), (&waiting[1], "a"), (&waiting[2], "b")] {
        eventually("it is done", async || shown(&other, location, key).await["status"] == "done").await;
    }
    assert_eq!(
        hand.run::<u64>(&["EXISTS", "dam:pending:{default}", "dam:pending:{default}:callers"]).await,
        0
    );
    other.idle().await;
    // A running job is cancelled too, and stays cancelled.
    let location = accepted(&other, "a", &[], CHAT).await;
    let mut taken = hand.take().await;
    let gone = other.ask(at("DELETE", &location, "a", &[])).await;
    assert_eq!(gone.json()["status"], "cancelled");
    assert_eq!(hand.emit(&mut taken, &[("head", SSE)]).await, "CANCELLED");
    hand.end(&taken).await;
    assert!(stream(&other, &location, None).await.text().contains("cancelled"));
    other.idle().await;
}

#[tokio::test]
async fn one_caller_cannot_fill_the_store() {
    let (_redis, dam, hand) = stage(1).await;
    let _first = accepted(&dam, "a", &[], CHAT).await;
    let _taken = hand.take().await;
    let mut conn = Conn::open(dam.addr).await;
    let full = async {
        for count in 0.. {
            let answer = conn.ask(post("a", &[LATER], CHAT)).await.unwrap();
            if answer.status != 202 {
                return (count, answer);
            }
        }
        unreachable!()
    };
    let (count, answer) = tokio::time::timeout(PATIENCE, full).await.unwrap();
    assert_eq!((count, answer.status, answer.reason()), (256, 503, "overloaded"));
    accepted(&dam, "b", &[], CHAT).await;
}

#[tokio::test]
async fn a_request_that_is_sent_again_runs_once() {
    let (_redis, dam, hand) = stage(4).await;
    let key = "idempotency-key: k1";
    let mut conn = Conn::open(dam.addr).await;
    conn.send(post("a", &[key], CHAT)).await.unwrap();
    let mut taken = hand.take().await;
    let early = dam.ask(post("a", &[key], CHAT)).await;
    assert_eq!((early.status, early.reason()), (409, "conflict"));
    let whole = [token("one"), DONE.to_owned()].concat();
    hand.answer(&mut taken, &[("head", SSE), ("data", &whole), ("end", "")]).await;
    let first = conn.answer().await.unwrap();
    let again = dam.ask(post("a", &[key], CHAT)).await;
    assert_eq!((first.text(), again.text(), again.status), (&*whole, &*whole, 200));
    assert_eq!(again.header("content-type"), Some("text/event-stream"));
    let other = dam.ask(post("a", &[key], PLAIN)).await;
    assert_eq!((other.status, other.reason()), (422, "key_reused"));
    assert!(hand.read().await.is_none(), "nothing ran again");
    // The same key of another caller is a different key.
    let mut theirs = Conn::open(dam.addr).await;
    theirs.send(post("b", &[key], CHAT)).await.unwrap();
    let mut taken = hand.take().await;
    // A cancelled request may be sent again.
    drop(theirs);
    eventually("it is cancelled", async || hand.field(&taken.job, "cancelled").await.as_deref() == Some("1"))
        .await;
    assert_eq!(hand.emit(&mut taken, &[("head", SSE)]).await, "CANCELLED");
    hand.end(&taken).await;
    let mut theirs = Conn::open(dam.addr).await;
    theirs.send(post("b", &[key], CHAT)).await.unwrap();
    let mut taken = hand.take().await;
    hand.answer(&mut taken, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    assert!(theirs.answer().await.unwrap().whole);

    let later = accepted(&dam, "a", &["idempotency-key: k2"], PLAIN).await;
    assert_eq!(accepted(&dam, "a", &["idempotency-key: k2"], PLAIN).await, later);
    let mut taken = hand.take().await;
    hand.answer(&mut taken, &[("head", JSON), ("data", "{}"), ("end", "")]).await;
    assert_eq!(dam.ask(post("", &["idempotency-key: k3"], PLAIN)).await.status, 401);
    let long = format!("idempotency-key: {}", "k".repeat(256));
    assert_eq!(dam.ask(post("a", &[&long], PLAIN)).await.status, 400);
    dam.idle().await;
}

#[tokio::test]
async fn a_request_whose_job_came_to_nothing_runs_again_also_later() {
    let (_redis, dam, hand) = stage(4).await;
    let key = "idempotency-key: k1";
    let first = accepted(&dam, "a", &[key], CHAT).await;
    assert_eq!(accepted(&dam, "a", &[key], CHAT).await, first, "it waits");
    let mut taken = hand.take().await;
    assert_eq!(dam.ask(at("DELETE", &first, "a", &[])).await.json()["status"], "cancelled");
    assert_eq!(hand.emit(&mut taken, &[("head", SSE)]).await, "CANCELLED");
    hand.end(&taken).await;
    let second = accepted(&dam, "a", &[key], CHAT).await;
    assert_ne!(second, first);
    let mut taken = hand.take().await;
    let error = r#"{"reason":"upstream_broke","message":"no"}"#;
    hand.answer(&mut taken, &[("head", SSE), ("error", error)]).await;
    let third = accepted(&dam, "a", &[key], CHAT).await;
    assert!(third != first && third != second);
    let mut taken = hand.take().await;
    hand.answer(&mut taken, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    assert_eq!(accepted(&dam, "a", &[key], CHAT).await, third, "it is answered");
    dam.idle().await;
}

#[tokio::test]
async fn a_dead_letter_is_shown_and_gets_another_chance() {
    let (_redis, dam, hand) = stage(4).await;
    let location = accepted(&dam, "a", &[], PLAIN).await;
    let mut taken = hand.take().await;
    for attempt in 1..=3 {
        hand.emit(&mut taken, &[("fail", "out of memory")]).await;
        if attempt < 3 {
            taken = hand.take_over().await;
        }
    }
    let mut claimed = None;
    eventually("a claim", async || {
        claimed = hand.claim().await;
        claimed.is_some()
    })
    .await;
    let (entry, job) = claimed.unwrap();
    assert_eq!(hand.begin(&job).await, ["DEAD", "out of memory", "86400000"]);
    hand.end_dead(&entry, &job, "out of memory").await;
    let shown_job = shown(&dam, &location, "a").await;
    assert_eq!(
        (&shown_job["status"], &shown_job["error"]["message"]),
        (&"dead".into(), &"out of memory".into())
    );

    let dead = async || ask(dam.admin, super::client::get("/api/v1/dead")).await.json();
    let letters = dead().await;
    let letter = &letters["dead"]["default"][0];
    assert_eq!((letter["job"].as_str(), &letter["error"]), (Some(&*job), &"out of memory".into()));
    assert_eq!(
        (&letter["class"], &letter["path"], &letter["colour"]),
        (&"interactive".into(), &"/v1/chat/completions".into(), &"blue".into())
    );
    let errors = letter["errors"].as_array().unwrap();
    assert!(errors.iter().all(|it| it["run"] == "w1/blue" && it["error"] == "out of memory"), "{letter}");
    assert_eq!(errors.len(), 3);
    let requeue = |job: &str| {
        let body = format!(r#"{{"pool":"default","job":"{job}"}}"#);
        request("POST /api/v1/dead", &["content-type: application/json"], body)
    };
    for wrong in ["x", "0123456789abcdef0123456789abcdef"] {
        assert_eq!(ask(dam.admin, requeue(wrong)).await.status, 404);
    }
    assert_eq!(ask(dam.admin, requeue(&job)).await.status, 202);
    let mut taken = hand.take().await;
    assert_eq!((&taken.job, taken.attempt), (&job, 1));
    hand.answer(&mut taken, &[("head", JSON), ("data", "{}"), ("end", "")]).await;
    assert_eq!(shown(&dam, &location, "a").await["status"], "done");
    assert_eq!(dead().await["dead"]["default"], Value::Array(Vec::new()));
    dam.idle().await;
}
