//! What strangers write into the keys of a queue does not stop it.

use super::client::{ask, chat, get};
use super::drain::start;
use super::hand::{DONE, Hand, JSON, SSE};
use super::later::{KEYS, PLAIN, accepted, shown, stage};
use super::queue::{known, queueing};
use super::redis::{INTERVAL, Redis};
use super::rig::{Dam, eventually};

const STREAM: &[u8] = b"dam:jobs:{default}:blue";
const DEAD: &[u8] = b"dam:dead:{default}";
/// A job as a gateway writes it, without its time limit and numbers.
const FIELDS: [&str; 18] = [
    "state",
    "queued",
    "pool",
    "default",
    "colour",
    "blue",
    "path",
    "/v1/chat/completions",
    "headers",
    r#"{"content-type":"application/json"}"#,
    "body",
    PLAIN,
    "dam",
    "",
    "async",
    "1",
    "signature",
    "",
];
/// The time limit and the numbers of a job.
const NUMBERS: [&str; 12] = [
    "deadline_ms",
    "99999999999999",
    "epoch",
    "0",
    "attempt",
    "0",
    "max_attempts",
    "3",
    "n",
    "0",
    "sent",
    "0",
];

async fn count(redis: &Redis, command: &[&[u8]]) -> i64 {
    match redis.run(command).await {
        Some(redis::Value::Int(count)) => count,
        other => panic!("{other:?}"),
    }
}

/// Writes the hash of a job, and an entry for it.
async fn written(redis: &Redis, job: &str, more: &[&str]) {
    recorded(redis, job, more).await;
    enqueued(redis, job.as_bytes(), b"blue").await;
}

async fn recorded(redis: &Redis, job: &str, more: &[&str]) {
    let key = format!("dam:job:{{{job}}}");
    let mut command: Vec<&[u8]> = vec![b"HSET", key.as_bytes()];
    command.extend(FIELDS.iter().chain(more).map(|word| word.as_bytes()));
    redis.run(&command).await.unwrap();
}

async fn enqueued(redis: &Redis, job: &[u8], colour: &[u8]) {
    redis.run(&[b"XADD", STREAM, b"*", b"job", job, b"colour", colour]).await.unwrap();
}

async fn is_empty(redis: &Redis) {
    eventually("the stream is empty", async || count(redis, &[b"XLEN", STREAM]).await == 0).await;
}

fn job(n: usize) -> String {
    format!("{n:032x}")
}

#[tokio::test]
async fn a_job_that_can_never_run_is_ended() {
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, ""));
    let _drainer = start(&redis, "w1", INTERVAL);
    known(&dam, "default.blue").await;
    // Twice as many of each kind as there are slots would stop the pool for good.
    for n in 0..8 {
        written(&redis, &job(n), &[&NUMBERS[2..], &["deadline_ms", "soon"]].concat()).await;
    }
    for n in 8..16 {
        redis.run(&[b"SET", format!("dam:job:{{{}}}", job(n)).as_bytes(), b"x"]).await.unwrap();
        enqueued(&redis, job(n).as_bytes(), b"blue").await;
    }
    for n in 16..24 {
        let key = format!("dam:job:{{{}}}", job(n));
        redis.run(&[b"HSET", key.as_bytes(), b"state", b"queued", b"colour", b"blue"]).await.unwrap();
        enqueued(&redis, job(n).as_bytes(), b"blue").await;
    }
    // A field in which the script stumbles although it is valid JSON.
    let odd = ["state", "running", "errors", "[1e999]"];
    for n in 24..32 {
        written(&redis, &job(n), &[&NUMBERS[..], &odd].concat()).await;
    }
    for odd in [&b"\xff\xfe"[..], b""] {
        enqueued(&redis, odd, b"blue").await;
        redis.run(&[b"XADD", STREAM, b"*", b"\xff", odd]).await.unwrap();
    }
    is_empty(&redis).await;
    let answer = dam.ask(chat("a", true, 8, &[])).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Those that have a record are dead letters, which people see.
    let listed = ask(dam.admin, get("/api/v1/dead")).await.json();
    let listed: Vec<_> =
        listed["dead"]["default"].as_array().unwrap().iter().map(|dead| &dead["job"]).collect();
    for n in (0..8).chain(16..32) {
        assert!(listed.contains(&&job(n).into()), "{n} is not among {listed:?}");
    }
    assert!(!listed.contains(&&job(8).into()));
    let state = redis.run(&[b"HGET", format!("dam:job:{{{}}}", job(0)).as_bytes(), b"state"]).await;
    assert_eq!(state, Some(redis::Value::BulkString(b"dead".to_vec())));
    dam.idle().await;
}

#[tokio::test]
async fn a_number_that_is_none_counts_as_its_default() {
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, ""));
    let _drainer = start(&redis, "w1", INTERVAL);
    known(&dam, "default.blue").await;
    for (n, odd) in ["x", "1e308", "-1", "1.5", "nan", ""].into_iter().enumerate() {
        let fields = ["epoch", odd, "attempt", odd, "max_attempts", odd, "n", odd, "deadline_ms", NUMBERS[1]];
        written(&redis, &job(n), &fields).await;
    }
    is_empty(&redis).await;
    for n in 0..6 {
        let key = format!("dam:job:{{{}}}", job(n));
        let state = redis.run(&[b"HMGET", key.as_bytes(), b"state", b"attempt"]).await;
        let [done, first] = [&b"done"[..], b"1"].map(|text| redis::Value::BulkString(text.to_vec()));
        assert_eq!(state, Some(redis::Value::Array(vec![done, first])));
    }
    dam.idle().await;
}

#[tokio::test]
async fn an_entry_in_the_stream_of_another_colour_is_ended_after_a_while() {
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, ""));
    let _drainer = start(&redis, "w1", INTERVAL);
    known(&dam, "default.blue").await;
    let green = [&NUMBERS[..], &["colour", "green"]].concat();
    recorded(&redis, &job(0), &green).await;
    enqueued(&redis, job(0).as_bytes(), b"blue").await;
    // Only the entry names another colour.
    recorded(&redis, &job(1), &[&NUMBERS[..], &["colour", ""]].concat()).await;
    enqueued(&redis, job(1).as_bytes(), b"green").await;
    is_empty(&redis).await;
    assert_eq!(count(&redis, &[b"XLEN", DEAD]).await, 2);
    for n in 0..2 {
        let key = format!("dam:job:{{{}}}", job(n));
        let found = redis.run(&[b"HMGET", key.as_bytes(), b"state", b"runs"]).await;
        let dead = redis::Value::BulkString(b"dead".to_vec());
        assert_eq!(found, Some(redis::Value::Array(vec![dead, redis::Value::Nil])));
    }
    dam.idle().await;
}

/// What somebody starts by mistake reads a stream whose entries are right: it must end none of them.
#[tokio::test]
async fn a_worker_of_another_colour_ends_nothing_in_the_stream() {
    let redis = Redis::start().await;
    let right = Hand::silent(&redis, "right", "blue").await;
    // A worker has refused it before, long ago.
    written(&redis, &job(0), &[&NUMBERS[..], &["refused_ms", "1"]].concat()).await;
    let (entry, _) = right.read().await.expect("the job is there");
    for _ in 0..12 {
        assert_eq!(right.claims_as("grey").await, Vec::<(String, String, u64)>::new());
    }
    let stream = right.stream();
    assert_eq!(right.begin_with("grey", &job(0), &[&entry, "2", &stream]).await, ["OTHER", "blue"]);
    assert_eq!(right.field(&job(0), "state").await.as_deref(), Some("queued"));
    assert!(right.keeps(&entry).await);
    assert_eq!(right.claims_as("blue").await, [(entry, job(0), 2)], "no delivery was counted");
}

#[tokio::test]
async fn a_dead_workers_job_is_taken_over_beside_an_entry_that_is_none() {
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, ""));
    let _lost = Hand::join(&redis, "lost", "blue", 4).await;
    known(&dam, "default.blue").await;
    enqueued(&redis, b"\xff\xfe", b"blue").await;
    written(&redis, &job(0), &NUMBERS).await;
    let read = [&b"XREADGROUP"[..], b"GROUP", b"workers", b"lost", b"STREAMS", STREAM, b">"];
    redis.run(&read).await.unwrap();
    let _drainer = start(&redis, "w1", INTERVAL);
    is_empty(&redis).await;
    let state = redis.run(&[b"HGET", format!("dam:job:{{{}}}", job(0)).as_bytes(), b"state"]).await;
    assert_eq!(state, Some(redis::Value::BulkString(b"done".to_vec())));
}

#[tokio::test]
async fn one_value_that_cannot_be_read_hides_no_other() {
    let (redis, dam, hand) = stage(1).await;
    let pending: &[u8] = b"dam:pending:{default}";
    redis.run(&[b"HSET", pending, b"\xff", b"{}"]).await.unwrap();
    redis.run(&[b"HSET", pending, job(1).as_bytes(), b"\xff", job(2).as_bytes(), b"{"]).await.unwrap();
    let letter = [&b"XADD"[..], DEAD, b"*", b"job"];
    redis.run(&[&letter[..], &[b"\xff", b"error", b"x"]].concat()).await.unwrap();
    let name = job(3);
    redis
        .run(&[&letter[..], &[name.as_bytes(), b"error", b"no \xff", b"\xff", b"x"]].concat())
        .await
        .unwrap();
    // One whose job is no hash.
    redis.run(&[b"SET", format!("dam:job:{{{}}}", job(4)).as_bytes(), b"x"]).await.unwrap();
    redis.run(&[&letter[..], &[job(4).as_bytes(), b"error", b"x"]].concat()).await.unwrap();
    let location = accepted(&dam, "a", &[], PLAIN).await;
    let mut taken = hand.take().await;
    hand.answer(&mut taken, &[("head", JSON), ("data", "{}"), ("end", "")]).await;
    assert_eq!(shown(&dam, &location, "a").await["status"], "done");
    let listed = ask(dam.admin, get("/api/v1/dead")).await;
    assert_eq!(listed.status, 200, "{}", listed.text());
    let listed = listed.json();
    let listed = listed["dead"]["default"].as_array().unwrap();
    assert_eq!((listed.len(), &listed[0]["job"]), (2, &job(4).into()));
    assert_eq!((&listed[1]["job"], &listed[1]["error"]), (&name.into(), &"no \u{fffd}".into()));
}

#[tokio::test]
async fn jobs_move_to_another_version_past_an_entry_that_is_none() {
    let redis = Redis::start().await;
    let dam =
        Dam::start(&queueing(&redis, &format!("{KEYS}concurrency: {{ queue: {{ version_wait: 1s }} }}\n")));
    let old = Hand::join(&redis, "w1", "v-1", 4).await;
    known(&dam, "default.v-1").await;
    let stream = old.stream();
    redis.run(&[b"XADD", stream.as_bytes(), b"*", b"\xff", b"\xff", b"job", b"\xff"]).await.unwrap();
    let location = accepted(&dam, "a", &[], PLAIN).await;
    eventually("it is in the stream", async || old.length().await == 2).await;
    // A process whose name is no text reads it too.
    let read = [&b"XREADGROUP"[..], b"GROUP", b"workers", b"\xff", b"COUNT", b"1", b"STREAMS"];
    redis.run(&[&read[..], &[stream.as_bytes(), b">"]].concat()).await.unwrap();
    drop(old);
    let new = Hand::join(&redis, "w2", "v-2", 4).await;
    let mut taken = new.take().await;
    new.answer(&mut taken, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    assert!(location.ends_with(&taken.job));
}
