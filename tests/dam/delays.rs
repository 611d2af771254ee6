//! The limits for jobs that an operator sets, jobs that start later, and the backlog that they make.

use std::time::Duration;

use traffic_dam::clock::unix_millis;

use super::hand::{DONE, Hand, SSE};
use super::later::{CHAT, KEYS, LATER, accepted, post, shown};
use super::queue::{known, queueing};
use super::redis::{Redis, throughout};
use super::rig::{Dam, eventually};

async fn stage(more: &str) -> (Redis, Dam, Hand) {
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, &format!("{KEYS}{more}")));
    let hand = Hand::join(&redis, "w1", "blue", 4).await;
    known(&dam, "default.blue").await;
    (redis, dam, hand)
}

/// Returns the header for a start in `ms` from now.
fn starting_in(ms: i64) -> String {
    let at = unix_millis().checked_add_signed(ms).unwrap();
    let time = time::UtcDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000).unwrap();
    let (date, clock) = (time.date(), time.time());
    format!(
        "x-traffic-dam-not-before: {}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        clock.millisecond()
    )
}

#[tokio::test]
async fn a_job_starts_when_it_may_and_not_before() {
    let (_redis, dam, hand) = stage("").await;
    let location = accepted(&dam, "a", &[&starting_in(3000)], CHAT).await;
    eventually("it waits", async || dam.metric("jobs_waiting", "default") == 1.0).await;
    assert_eq!(dam.metric("demand_waiting", "default"), 0.0, "no worker is needed for it yet");
    throughout(Duration::from_millis(500), async || assert!(hand.read().await.is_none())).await;
    let mut taken = hand.take().await;
    let left = taken.left_ms;
    assert!(left <= 3_600_000);
    hand.answer(&mut taken, &[("head", SSE), ("data", DONE), ("end", "")]).await;
    eventually("it is done", async || shown(&dam, &location, "a").await["status"] == "done").await;
    // The hash of counts is as empty as before.
    let counts: u64 = hand.run(&["EXISTS", "dam:pending:{default}:callers"]).await;
    assert_eq!(counts, 0);

    for (fields, problem) in [
        (vec![LATER.to_owned(), starting_in(-120_000)], "in the past"),
        (vec![LATER.to_owned(), starting_in(7_200_000)], "further ahead than 3600 s"),
        (vec![starting_in(1000)], "respond-async"),
        (vec![LATER.to_owned(), "x-traffic-dam-not-before: soon".to_owned()], "RFC 3339"),
    ] {
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let answer = dam.ask(post("a", &fields, CHAT)).await;
        assert_eq!((answer.status, answer.reason()), (400, "bad_request"), "{fields:?}");
        assert!(answer.text().contains(problem), "{}", answer.text());
    }
    // A minute is forgiven.
    accepted(&dam, "a", &[&starting_in(-30_000)], CHAT).await;
    hand.take().await;
}

#[tokio::test]
async fn the_limits_for_jobs_are_those_of_the_settings() {
    let more = "jobs: { attempts: 1, waiting: 4, per_caller: 3, ttl: 10s, keep: 1m, answers: 5s }\n";
    let (_redis, dam, hand) = stage(more).await;
    // One run is all: the next claim makes it a dead letter, kept for a minute.
    let location = accepted(&dam, "a", &[], CHAT).await;
    let mut taken = hand.take().await;
    assert!(taken.left_ms <= 10_000);
    assert_eq!(hand.emit(&mut taken, &[("fail", "out of memory")]).await, "OK");
    assert!(hand.hand_back(&taken.entry).await);
    let (entry, job) = hand.claim().await.unwrap();
    assert_eq!(hand.begin(&job).await, ["DEAD", "out of memory", "60000"]);
    hand.end_dead(&entry, &job, "out of memory").await;
    let record: i64 = hand.run(&["PTTL", &format!("dam:job:{{{job}}}")]).await;
    assert!((1..=60_000).contains(&record), "{record}");
    let reply: i64 = hand.run(&["PTTL", &format!("dam:reply:{{{job}}}")]).await;
    assert!((1..=5_000).contains(&reply), "{reply}");
    assert_eq!(shown(&dam, &location, "a").await["status"], "dead");

    // Half of what may wait may be delayed, by each caller and in all.
    let far = starting_in(8000);
    accepted(&dam, "a", &[&far], CHAT).await;
    accepted(&dam, "a", &[&far], CHAT).await;
    let refused = dam.ask(post("a", &[LATER, &far], CHAT)).await;
    assert_eq!((refused.status, refused.reason()), (503, "overloaded"));
    assert!(refused.text().contains("delayed"), "{}", refused.text());
    let refused = dam.ask(post("b", &[LATER, &far], CHAT)).await;
    assert_eq!(refused.status, 503, "another caller finds no room either");
}

#[tokio::test]
async fn who_was_refused_for_lack_of_room_is_demand() {
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, KEYS));
    eventually("Redis", async || dam.metric("redis_up", "") == 1.0).await;
    for _ in 0..3 {
        assert_eq!(dam.ask(post("a", &[], CHAT)).await.reason(), "no_worker");
    }
    assert_eq!(dam.metric("demand_waiting", "default"), 1.0, "a caller counts once");
    assert_eq!(dam.ask(post("b", &[], CHAT)).await.reason(), "no_worker");
    assert_eq!(dam.metric("demand_waiting", "default"), 2.0);
}
