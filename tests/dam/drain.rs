//! The simulated worker behind a queue: a client sees the same as without a queue.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use traffic_dam::redis::consumer::ConsumerIdentity;
use traffic_dam::redis::settings::RedisSettings;
use traffic_dam::sim::worker::{Membership, WorkerOptions, drain};

use super::client::{Conn, PATIENCE, ask, chat, get, request};
use super::hand::{DONE, Hand, SSE, token};
use super::queue::{known, queueing};
use super::redis::{INTERVAL, Redis, throughout};
use super::rig::{Dam, eventually};

/// A worker of four slots, which also serves over HTTP.
pub(crate) struct Drainer {
    addr: SocketAddr,
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Drainer {
    /// Ends as a killed process does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|error| error.is_cancelled()));
    }
}

/// Starts a worker `id` that renews its entries every `interval`.
pub(crate) fn start(redis: &Redis, id: &str, interval: Duration) -> Drainer {
    start_as(redis, id, interval, ("blue", None))
}

/// Starts a worker of this colour and version.
pub(crate) fn start_as(
    redis: &Redis,
    id: &str,
    interval: Duration,
    (colour, version): (&str, Option<&str>),
) -> Drainer {
    let listener = traffic_dam::net::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let addr = listener.local_addr().unwrap();
    let token_time = Duration::from_millis(5);
    let options = WorkerOptions {
        slots: 4,
        prefill_base: token_time,
        token_time,
        kv_tokens: 10_000_000,
        ..WorkerOptions::default()
    };
    let membership = Membership {
        redis: RedisSettings::single(redis.url().into(), "dam".into()),
        place: ConsumerIdentity {
            worker: id.into(),
            pool: "default".into(),
            colour: colour.into(),
            version: version.map(Into::into),
            interval,
        },
        key: None,
        drain: PATIENCE,
    };
    let (end, ended) = oneshot::channel();
    let task = tokio::spawn(async move {
        drain(listener, options, membership, async { ended.await.unwrap_or_default() }).await;
    });
    Drainer { addr, end, task }
}

async fn started() -> (Redis, Dam, Drainer) {
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, ""));
    let drainer = start(&redis, "w1", INTERVAL);
    known(&dam, "default.blue").await;
    (redis, dam, drainer)
}

async fn in_flight(drainer: &Drainer) -> u64 {
    ask(drainer.addr, get("/debug/requests")).await.json()["in_flight"].as_u64().unwrap()
}

#[tokio::test]
async fn the_answer_of_a_job_is_that_of_a_call_byte_for_byte() {
    let (_redis, dam, drainer) = started().await;
    let own = |path: &str, body: &str, id: &str| {
        request(
            &format!("POST {path}"),
            &["content-type: application/json", &format!("x-request-id: {id}")],
            body,
        )
    };
    let chats =
        r#"{"model":"sim","messages":[{"role":"user","content":"hi"}],"max_tokens":20,"ignore_eos":true"#;
    for (path, body) in [
        (
            "/v1/chat/completions",
            format!(r#"{chats},"stream":true,"stream_options":{{"include_usage":true}}}}"#),
        ),
        ("/v1/chat/completions", format!("{chats}}}")),
        ("/v1/chat/completions", format!(r#"{chats},"stream":true,"sim_fault":"chunk:7"}}"#)),
        ("/v1/embeddings", r#"{"model":"sim","input":"hi"}"#.to_owned()),
        ("/v1/chat/completions", format!(r#"{chats},"sim_fault":"status:418"}}"#)),
    ] {
        let call = own(path, &body, "same");
        let (queued, called) = (dam.ask(&call).await, ask(drainer.addr, &call).await);
        assert_eq!((queued.status, queued.text()), (called.status, called.text()), "{body}");
        assert_eq!(queued.header("content-type"), called.header("content-type"), "{body}");
        assert!(queued.whole && called.whole);
    }
    dam.idle().await;
}

#[tokio::test]
async fn a_run_that_fails_is_run_again_and_in_the_end_a_dead_letter() {
    let (redis, dam, drainer) = started().await;
    for (fault, count, status) in
        [("die-after-headers", 1, 200), ("die", 2, 200), ("die-after-headers", 3, 502)]
    {
        let order = format!("{{\"fault\":\"{fault}\",\"count\":{count}}}");
        assert_eq!(ask(drainer.addr, request("POST /debug/fault", &[], order)).await.status, 200);
        let answer = dam.ask(chat("a", true, 8, &[])).await;
        assert_eq!(answer.status, status, "{fault}: {}", answer.text());
        assert!(answer.whole);
    }
    let dead = redis.run(&[b"XLEN", b"dam:dead:{default}"]).await;
    assert_eq!(dead, Some(redis::Value::Int(1)));
    dam.idle().await;
}

#[tokio::test]
async fn who_hangs_up_frees_the_slot() {
    let (_redis, dam, drainer) = started().await;
    let mut conns = Vec::new();
    for number in 0..4 {
        let mut conn = Conn::open(dam.addr).await;
        conn.send(chat(&number.to_string(), true, 10_000, &[])).await.unwrap();
        conn.see("water").await.unwrap();
        conns.push(conn);
    }
    assert_eq!(in_flight(&drainer).await, 4);
    drop(conns);
    eventually("free slots", async || in_flight(&drainer).await == 0).await;
    dam.idle().await;
}

#[tokio::test]
async fn told_to_end_it_finishes_what_it_has() {
    let (_redis, dam, drainer) = started().await;
    let mut conn = Conn::open(dam.addr).await;
    conn.send(chat("a", true, 100, &[])).await.unwrap();
    conn.see("water").await.unwrap();
    drainer.end.send(()).unwrap();
    conn.see("[DONE]").await.unwrap();
    tokio::time::timeout(PATIENCE, drainer.task).await.expect("it ends").unwrap();
    dam.idle().await;
}

#[tokio::test]
async fn after_an_outage_nobody_claims_what_could_not_be_renewed() {
    let redis = Redis::start().await;
    let dam = Dam::start(&queueing(&redis, ""));
    let hand = Hand::join(&redis, "w1", "blue", 1).await;
    known(&dam, "default.blue").await;
    let mut conn = Conn::open(dam.addr).await;
    conn.send(chat("a", true, 8, &[])).await.unwrap();
    let mut taken = hand.take().await;
    hand.emit(&mut taken, &[("head", SSE), ("data", &token("one"))]).await;
    conn.see("one").await.unwrap();
    let interval = Duration::from_millis(500);
    let _idle = start(&redis, "w2", interval);
    // Renewed often enough meanwhile, and long enough for the other one to claim abandoned entries.
    throughout(interval * 4, async || assert!(hand.keeps(&taken.entry).await)).await;
    redis.pause();
    throughout(interval * 7, async || ()).await;
    redis.resume().await;
    // It renews after the other worker has tried to claim, and within its three intervals.
    throughout(interval * 2, async || ()).await;
    assert!(hand.keeps(&taken.entry).await, "it is still this worker's");
    hand.answer(&mut taken, &[("data", DONE), ("end", "")]).await;
    assert!(conn.see("[DONE]").await.is_ok());
    dam.idle().await;
}

/// Returns chats without a stream that use all slots of the worker.
async fn whole_answers(dam: &Dam, drainer: &Drainer, tokens: u32) -> Vec<Conn> {
    let mut conns = Vec::new();
    for id in ["a", "b", "c", "d"] {
        let mut conn = Conn::open(dam.addr).await;
        conn.send(chat(id, false, tokens, &[])).await.unwrap();
        conns.push(conn);
    }
    eventually("all slots are in use", async || in_flight(drainer).await == 4).await;
    conns
}

#[tokio::test]
async fn runs_that_redis_has_lost_free_their_slots() {
    let (redis, dam, drainer) = started().await;
    // Two minutes: far longer than this test waits.
    let conns = whole_answers(&dam, &drainer, 24_000).await;
    redis.run(&[b"FLUSHALL"]).await.unwrap();
    eventually("the runs are given up", async || in_flight(&drainer).await == 0).await;
    for mut conn in conns {
        assert_eq!(conn.answer().await.unwrap().reason(), "upstream_broke");
    }
    let answer = dam.ask(chat("e", true, 8, &[])).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    dam.idle().await;
}

#[tokio::test]
async fn runs_whose_stream_alone_is_lost_are_finished() {
    let (redis, dam, drainer) = started().await;
    let conns = whole_answers(&dam, &drainer, 400).await;
    redis.run(&[b"DEL", b"dam:jobs:{default}:blue"]).await.unwrap();
    for mut conn in conns {
        let answer = conn.answer().await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(dam.ask(chat("e", true, 8, &[])).await.status, 200);
    dam.idle().await;
}
