//! Sessions in a queue: turns one after the other, at the worker that had the one before.

use std::time::Duration;

use super::client::{Answer, Conn, chat};
use super::drain::start_as;
use super::hand::{DONE, Hand, SSE, Taken};
use super::queue::{known, queueing};
use super::redis::Redis;
use super::rig::{Dam, eventually};

const INTERVAL: Duration = Duration::from_millis(200);

async fn stage(queue: &str) -> (Redis, Dam, [Hand; 2]) {
    stage_of(queue, [4, 4]).await
}

async fn stage_of(queue: &str, slots: [u32; 2]) -> (Redis, Dam, [Hand; 2]) {
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, &format!("concurrency: {{ queue: {{ {queue} }} }}")));
    let hands =
        [Hand::join(&redis, "w1", "blue", slots[0]).await, Hand::join(&redis, "w2", "blue", slots[1]).await];
    eventually("both workers", async || dam.metric("worker_light", "worker=\"w") == 4.0).await;
    known(&dam, "default.blue").await;
    (redis, dam, hands)
}

async fn asked(dam: &Dam, session: &str) -> Conn {
    let mut conn = Conn::open(dam.addr).await;
    conn.send(chat("a", true, 8, &[&format!("x-session-id: {session}")])).await.unwrap();
    conn
}

/// Answers as this worker, and returns what the client got.
async fn answered(hand: &Hand, taken: &mut Taken, worker: &str, mut conn: Conn) -> Answer {
    let head = SSE.replace(r#""worker":"w1""#, &format!(r#""worker":"{worker}","colour":"blue""#));
    hand.answer(taken, &[("head", &head), ("data", DONE), ("end", "")]).await;
    conn.answer().await.unwrap()
}

#[tokio::test]
async fn the_next_turn_goes_to_the_worker_of_the_one_before_if_it_is_free_in_time() {
    let (redis, dam, [one, two]) = stage("sticky_wait: 2s").await;
    let own = Hand::silent(&redis, "w2", "blue:w2").await;
    let conn = asked(&dam, "s").await;
    let mut taken = two.take().await;
    assert!(answered(&two, &mut taken, "w2", conn).await.whole);
    let conn = asked(&dam, "s").await;
    let mut taken = own.take().await;
    assert!(one.read().await.is_none());
    assert!(answered(&own, &mut taken, "w2", conn).await.whole);
    assert_eq!(own.field(&taken.job, "runs").await.as_deref(), Some("w2/blue:w2"));
    eventually("it stayed", async || dam.metric("session_turns_total", "no") == 1.0).await;
    // Now it is busy: after a while any worker takes the turn.
    let conn = asked(&dam, "s").await;
    eventually("it waits for its worker", async || own.length().await == 1).await;
    let mut taken = one.take().await;
    assert_eq!(own.length().await, 0);
    assert!(answered(&one, &mut taken, "w1", conn).await.whole);
    assert_eq!(dam.metric("session_turns_total", "yes"), 1.0);
    dam.idle().await;
}

#[tokio::test]
async fn as_many_turns_as_a_worker_runs_may_wait_for_it() {
    const SLOTS: u32 = 2;
    let (redis, dam, [one, two]) = stage_of("wait: 5s, sticky_wait: 1m", [8, SLOTS]).await;
    let own = Hand::silent(&redis, "w2", "blue:w2").await;
    for session in 0..=2 * SLOTS {
        let conn = asked(&dam, &format!("s{session}")).await;
        let mut taken = two.take().await;
        assert!(answered(&two, &mut taken, "w2", conn).await.whole);
    }
    let mut conns = Vec::new();
    for session in 0..2 * SLOTS {
        conns.push(asked(&dam, &format!("s{session}")).await);
        eventually("it is in the worker's stream", async || own.length().await == u64::from(session) + 1)
            .await;
    }
    assert!(one.read().await.is_none(), "nobody else gets one of them");
    let conn = asked(&dam, &format!("s{}", 2 * SLOTS)).await;
    let mut taken = one.take().await;
    assert!(answered(&one, &mut taken, "w1", conn).await.whole, "one more finds no room there");
    for conn in conns {
        let mut taken = own.take().await;
        assert!(answered(&own, &mut taken, "w2", conn).await.whole);
    }
    dam.idle().await;
}

#[tokio::test]
async fn turns_of_a_session_never_run_at_once_and_those_of_two_do() {
    let (redis, dam, [one, _]) = stage("wait: 2s").await;
    let first = asked(&dam, "s").await;
    let mut taken = one.take().await;
    let second = asked(&dam, "s").await;
    let other = asked(&dam, "t").await;
    let mut others = one.take().await;
    assert!(answered(&one, &mut others, "w1", other).await.whole);
    assert!(one.read().await.is_none(), "the second turn waits for the first");
    assert!(answered(&one, &mut taken, "w1", first).await.whole);
    // It was the turn of the worker that names its side, so its own stream has the second.
    let own = Hand::silent(&redis, "w1", "blue:w1").await;
    let mut taken = own.take().await;
    // A third one does not wait for ever.
    let late = dam.ask(chat("a", true, 8, &["x-session-id: s"])).await;
    assert_eq!((late.status, late.reason()), (503, "queue_timeout"));
    assert!(answered(&own, &mut taken, "w1", second).await.whole);
    // Who leaves makes room for the next.
    let conn = asked(&dam, "s").await;
    let gone = own.take().await;
    drop(conn);
    eventually("it is told", async || own.field(&gone.job, "state").await.as_deref() == Some("cancelled"))
        .await;
    own.end(&gone).await;
    let conn = asked(&dam, "s").await;
    let mut taken = own.take().await;
    assert!(answered(&own, &mut taken, "w1", conn).await.whole);
    dam.idle().await;
}

#[tokio::test]
async fn conversations_stay_at_their_worker_and_move_when_it_is_killed() {
    const SESSIONS: usize = 12;
    const TURNS: usize = 10;
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, "concurrency: { queue: { wait: 5s, sticky_wait: 1s } }"));
    let mut workers: Vec<_> =
        (0..4).map(|number| start_as(&redis, &format!("w{number}"), INTERVAL, ("blue", Some("1")))).collect();
    eventually("all workers", async || dam.metric("worker_light", "worker=\"w") == 8.0).await;
    known(&dam, "default.blue").await;
    let turns = async |from: usize| {
        let talks = (0..SESSIONS).map(|session| {
            let dam = &dam;
            async move {
                for turn in from..from + TURNS {
                    let fields = format!("x-session-id: s{session}");
                    let answer = dam.ask(chat(&format!("{session}-{turn}"), true, 4, &[&fields])).await;
                    assert_eq!((answer.status, answer.whole), (200, true), "{}", answer.text());
                }
            }
        });
        futures_util::future::join_all(talks).await;
    };
    turns(0).await;
    let stayed = dam.metric("session_turns_total", "no");
    assert_eq!(dam.metric("session_turns_total", "yes"), 0.0, "{stayed} stayed");
    assert_eq!(stayed, (SESSIONS * (TURNS - 1)) as f64);
    // One dies: its sessions move once, and then stay.
    workers.remove(0).kill().await;
    turns(TURNS).await;
    let moved = dam.metric("session_turns_total", "yes");
    assert!(moved <= SESSIONS as f64, "{moved} moved");
    dam.idle().await;
}
