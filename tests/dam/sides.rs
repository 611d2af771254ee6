//! Which workers of a queue take the jobs: colours, versions, and processes that are neither.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use traffic_dam::fleet::side;
use traffic_dam::server::admin::AdminSource;

use super::client::{Answer, Conn, chat, request};
use super::drain::start_as;
use super::fleet::{serves, shown};
use super::hand::{DONE, Hand, SSE};
use super::queue::{known, queueing};
use super::redis::{Redis, Speaker};
use super::rig::{Dam, eventually};

const INTERVAL: Duration = Duration::from_millis(200);

/// Returns a gateway that lets another version take over after `wait`.
fn waiting(redis: &Redis, wait: &str) -> Dam {
    Dam::start(&queueing(redis, &format!("concurrency: {{ queue: {{ version_wait: {wait} }} }}")))
}

/// Starts heartbeats with these fields, and returns a worker that takes the jobs of `side`.
async fn worker(redis: &Redis, id: &str, fields: &str, side: &str) -> (Speaker, Hand) {
    let speaker = Speaker::start(redis, id, format!(r#","slots":4{fields}"#));
    (speaker, Hand::silent(redis, id, side).await)
}

async fn asked(dam: &Dam, id: &str) -> Conn {
    let mut conn = Conn::open(dam.addr).await;
    conn.send(chat(id, true, 8, &[])).await.unwrap();
    conn
}

async fn switched(dam: &Dam, body: &str) -> Answer {
    let put = request("PUT /api/v1/pools/default/active", &["content-type: application/json"], body);
    super::client::ask(dam.admin, put).await
}

async fn eligible(dam: &Dam, id: &str, is: bool) {
    eventually(id, async || shown(dam, id).is_some_and(|side| side["eligible"] == is)).await;
}

/// Returns every run that the records of jobs name.
async fn runs(hand: &Hand) -> Vec<String> {
    let mut runs = Vec::new();
    let jobs: Vec<String> = hand.run(&["KEYS", "dam:job:*"]).await;
    for job in jobs {
        let began: Option<String> = hand.run(&["HGET", &job, "runs"]).await;
        runs.extend(began.unwrap_or_default().split_whitespace().map(str::to_owned));
    }
    runs
}

#[tokio::test]
async fn of_two_builds_without_a_colour_only_one_is_given_jobs() {
    let redis = Redis::start().await;
    let dam = waiting(&redis, "10s");
    let of = |version: &str| side::colour_of(None, Some(version)).unwrap();
    let old = start_as(&redis, "old", INTERVAL, (&of("1.0"), Some("1.0")));
    known(&dam, "default.v-1.0").await;
    let new = start_as(&redis, "new", INTERVAL, (&of("1.1"), Some("1.1")));
    eligible(&dam, "default.v-1.1", false).await;
    let clients = (0..4).map(|_| async {
        for _ in 0..25 {
            serves(&dam).await;
        }
    });
    futures_util::future::join_all(clients).await;
    let hand = Hand::silent(&redis, "looks", "none").await;
    let runs = runs(&hand).await;
    assert_eq!(runs.len(), 100);
    assert_eq!(runs.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(["old/v-1.0".to_owned()]));
    // The one that stands by is listed, with its worker.
    let shown = shown(&dam, "new").unwrap();
    assert_eq!((&shown["member_of"], &shown["light"]), (&"default.v-1.1".into(), &"green".into()));
    assert_eq!(dam.metric("worker_light", "worker=\"new\""), 2.0);
    drop((old, new));
}

#[tokio::test]
async fn a_rolling_update_needs_no_switch_and_loses_no_job_that_waits() {
    let redis = Redis::start().await;
    let dam = waiting(&redis, "1s");
    let (old, _) = worker(&redis, "w1", r#","version":"1""#, "v-1").await;
    known(&dam, "default.v-1").await;
    let (_new, hand) = worker(&redis, "w2", r#","version":"2""#, "v-2").await;
    eligible(&dam, "default.v-2", false).await;
    // One job waits for the old version, and one has begun there.
    let stays = Hand::silent(&redis, "w1", "v-1").await;
    let mut begun = asked(&dam, "begun").await;
    let taken = stays.take().await;
    let mut waits = asked(&dam, "waits").await;
    eventually("both are there", async || stays.length().await == 2).await;
    assert!(hand.read().await.is_none(), "nothing is for the new version yet");
    drop(old);
    let mut moved = hand.take().await;
    eligible(&dam, "default.v-2", true).await;
    hand.answer(&mut moved, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    assert!(waits.answer().await.unwrap().whole);
    assert_eq!(hand.field(&moved.job, "runs").await.as_deref(), Some("w2/v-2"));
    assert_eq!(hand.field(&moved.job, "colour").await.as_deref(), Some("v-2"));
    // No other version continues what was begun.
    assert_eq!(begun.answer().await.unwrap().reason(), "upstream_broke");
    assert_eq!(stays.field(&taken.job, "runs").await.as_deref(), Some("w1/v-1"));
    eventually("nothing is left behind", async || stays.length().await == 0).await;
    assert_eq!(dam.metric("queue_side_changes_total", "default"), 1.0);
    // The old version comes back too late: it stands by.
    let (_old, _) = worker(&redis, "w1", r#","version":"1","boot":"b""#, "v-1").await;
    eligible(&dam, "default.v-1", false).await;
    dam.idle().await;
}

#[tokio::test]
async fn of_several_gateways_one_chooses_and_all_follow() {
    let redis = Redis::start().await;
    let gateways = [waiting(&redis, "1s"), waiting(&redis, "1s")];
    let (first, _) = worker(&redis, "w1", r#","version":"1""#, "v-1").await;
    for dam in &gateways {
        known(dam, "default.v-1").await;
    }
    let (_second, _) = worker(&redis, "w2", r#","version":"2""#, "v-2").await;
    for dam in &gateways {
        eligible(dam, "default.v-2", false).await;
    }
    drop(first);
    for dam in &gateways {
        eligible(dam, "default.v-2", true).await;
        eligible(dam, "default.v-1", false).await;
    }
    // It is counted once the unstarted jobs have moved, which may be after all follow.
    let changes =
        || gateways.iter().map(|dam| dam.metric("queue_side_changes_total", "default")).sum::<f64>();
    eventually("the change is counted", async || changes() >= 1.0).await;
    assert_eq!(changes(), 1.0);
}

#[tokio::test]
async fn a_switch_may_name_one_version_of_a_colour() {
    let redis = Redis::start().await;
    let dam = waiting(&redis, "1s");
    let (_one, first) = worker(&redis, "w1", r#","colour":"blue","version":"1""#, "blue").await;
    let (_two, second) = worker(&redis, "w2", r#","colour":"blue","version":"2""#, "blue@2").await;
    known(&dam, "default.blue").await;
    eventually("both versions are known", async || dam.metric("versions", "blue") == 2.0).await;
    assert_eq!(switched(&dam, r#"{"colour":"blue","version":"3"}"#).await.status, 409);
    let done = switched(&dam, r#"{"colour":"blue","version":"2"}"#).await;
    assert_eq!((done.status, &done.json()["version"]), (200, &"2".into()), "{}", done.text());
    let mut conn = asked(&dam, "a").await;
    let mut taken = second.take().await;
    assert!(first.read().await.is_none());
    second.answer(&mut taken, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    assert!(conn.answer().await.unwrap().whole);
    assert_eq!(shown(&dam, "w2").unwrap()["member_of"], "default.blue@2");
    // Back to the whole colour.
    assert_eq!(switched(&dam, r#"{"colour":"blue"}"#).await.status, 200);
    let mut conn = asked(&dam, "b").await;
    let mut taken = first.take().await;
    first.answer(&mut taken, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    assert!(conn.answer().await.unwrap().whole);
    dam.idle().await;
}

#[tokio::test]
async fn a_job_is_refused_to_workers_of_another_colour() {
    let redis = Redis::start().await;
    let dam = waiting(&redis, "10s");
    let (_speaker, hand) = worker(&redis, "w1", r#","colour":"blue""#, "blue").await;
    known(&dam, "default.blue").await;
    let _conn = asked(&dam, "a").await;
    let mut found = None;
    eventually("a job", async || {
        found = hand.read().await;
        found.is_some()
    })
    .await;
    let (entry, job) = found.unwrap();
    let wrong = Hand::silent(&redis, "w1", "green").await;
    assert_eq!(wrong.begin_given(&(entry.clone(), job.clone(), 1)).await, ["OTHER", "blue"]);
    assert_eq!(hand.field(&job, "runs").await, None);
    // Claiming compares the entry's colour: here one of the wrong colour reads the right stream.
    assert!(hand.hand_back(&entry).await);
    let script = include_str!("../../crates/worker/lua/claim.lua");
    let stream = hand.stream();
    let claim = ["EVAL", script, "1", &stream, "w9", "0", "9", "green"];
    assert_eq!(hand.run::<Vec<String>>(&claim).await, Vec::<String>::new());
    assert_eq!(hand.claim().await, Some((entry, job)));
}

#[tokio::test]
async fn strangers_are_named() {
    let redis = Redis::start().await;
    let dam = waiting(&redis, "10s");
    let (_speaker, hand) = worker(&redis, "w1", r#","colour":"blue""#, "blue").await;
    known(&dam, "default.blue").await;
    // One that answers as a worker of another colour.
    let mut conn = asked(&dam, "a").await;
    let mut taken = hand.take().await;
    let head = SSE.replace(r#""worker":"w1""#, r#""worker":"w7","colour":"green","version":"9""#);
    hand.answer(&mut taken, &[("head", &head), ("data", DONE), ("end", "")]).await;
    assert!(conn.answer().await.unwrap().whole);
    eventually("it is counted", async || dam.metric("queue_strangers", "default") == 1.0).await;
    // One that reads and sends no heartbeats.
    let ghost = Hand::silent(&redis, "ghost", "blue").await;
    let _stolen = asked(&dam, "b").await;
    eventually("it takes a job", async || ghost.read().await.is_some()).await;
    let names = || {
        let state = dam.app.state();
        let strangers = state["pools"][0]["strangers"].as_array().unwrap().clone();
        strangers.iter().map(|one: &Value| one["worker"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    eventually("it is named", async || names() == ["ghost", "w7"]).await;
    assert_eq!(dam.metric("queue_strangers", "default"), 2.0);
}

#[tokio::test]
async fn an_answer_names_the_worker_and_not_its_side() {
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, "answer_headers: { worker: true }"));
    let hand = Hand::join(&redis, "w1", "blue", 4).await;
    known(&dam, "default.blue").await;
    let mut conn = asked(&dam, "a").await;
    let mut taken = hand.take().await;
    hand.answer(&mut taken, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    let answer = conn.answer().await.unwrap();
    assert_eq!((answer.status, answer.header("x-traffic-dam-worker")), (200, Some("w1")));
}
