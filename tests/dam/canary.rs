//! Switches that guard themselves: a share first, then a verdict, at one gateway and at several.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use traffic_dam::server::admin::AdminSource;
use traffic_dam::shed::{CanaryCounts, SideCounts};

use super::client::{Answer, ask, chat, get, request};
use super::fleet::{discovering, serves, shown as side};
use super::hand::{Hand, JSON};
use super::queue::{known, queueing};
use super::redis::Redis;
use super::rig::{Dam, Worker, eventually};

/// Half of the sessions, so that there are soon enough answers.
const CANARY: &str = r#"{"colour":"green","canary":"50%","judge":1}"#;
/// A trial that lasts.
const LONG: &str = r#"{"colour":"green","canary":"50%","judge":3600}"#;

fn sides(blue: &Worker, green: &Worker) -> String {
    let side = |worker: &Worker, id: &str, colour: &str| {
        worker.entry(id, 64).replace(" }", &format!(", colour: {colour} }}"))
    };
    format!(
        "static: [{}, {}], active_colour: blue, retry: {{ max: 3, budget: 1.0 }}",
        side(blue, "b1", "blue"),
        side(green, "g1", "green")
    )
}

async fn put(dam: &Dam, path: &str, body: &str) -> Answer {
    let start = format!("PUT /api/v1/pools/default/{path}");
    ask(dam.admin, request(&start, &["content-type: application/json"], body)).await
}

async fn canary(dam: &Dam) -> Value {
    ask(dam.admin, get("/api/v1/pools/default/canary")).await.json()
}

async fn cancel(dam: &Dam) -> Answer {
    ask(dam.admin, request("DELETE /api/v1/pools/default/canary", &[], "")).await
}

/// Returns what a gateway shows of the pool.
fn shown(dam: &Dam, what: &str) -> Value {
    dam.app.state()["pools"][0][what].clone()
}

/// Clients that send streams in sessions until it is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Load {
    fn start(gateways: &[&Dam]) -> Self {
        Self::of(4, gateways)
    }

    /// Starts the load of this many clients.
    fn of(clients: usize, gateways: &[&Dam]) -> Self {
        let load = Self { stop: Arc::default(), sent: Arc::default(), failed: Arc::default() };
        for (number, dam) in gateways.iter().cycle().take(clients).enumerate() {
            let (stop, sent, failed) =
                (Arc::clone(&load.stop), Arc::clone(&load.sent), Arc::clone(&load.failed));
            let addr = dam.addr;
            tokio::spawn(async move {
                for turn in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let session = format!("x-session-id: s{}", (turn * clients as u64 + number as u64) % 400);
                    let answer = ask(addr, chat("a", true, 5, &[&session])).await;
                    if (answer.status, answer.whole) != (200, true) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        load
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits until `count` more requests have ended.
    async fn more(&self, count: u64) {
        let before = self.sent.load(Ordering::Relaxed);
        eventually("requests", async || self.sent.load(Ordering::Relaxed) >= before + count).await;
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_sound_side_gets_its_share_and_then_everything() {
    let [blue, green] = [Worker::start(64), Worker::start(64)];
    let dam = Dam::start(&format!("workers: {{ {} }}\n", sides(&blue, &green)));
    serves(&dam).await;
    let load = Load::start(&[&dam]);
    let begun = put(&dam, "active", CANARY).await;
    assert_eq!((begun.status, begun.json()["state"].as_str()), (202, Some("under_way")), "{}", begun.text());
    assert_eq!(shown(&dam, "active"), "blue");
    assert!((dam.metric("canary_share", "green") - 0.5).abs() < 1e-9);
    for (colour, code) in
        [("green", "canary_under_way"), ("blue", "canary_under_way"), ("red", "no_such_colour")]
    {
        let refused = put(&dam, "active", &format!("{{\"colour\":\"{colour}\"}}")).await;
        assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (409, Some(code)), "{colour}");
    }
    // On a busy machine a sound side can be the slower one, and goes back; then it is tried again.
    eventually("a promotion", async || {
        let ended = canary(&dam).await;
        if ended["state"] == "reverted" {
            put(&dam, "active", CANARY).await;
        }
        ended["state"] == "promoted"
    })
    .await;
    let ended = canary(&dam).await;
    for side in ["usual", "canary"] {
        // On a busy machine the longest trial, of five times `judge`, ends before there are enough answers.
        let [answers, offered] = ["answers", "offered"].map(|count| ended[side][count].as_u64().unwrap());
        let is_longest = ended["elapsed_ms"].as_u64().unwrap() >= 5000;
        assert!(answers >= 200 || (is_longest && offered >= 100), "{ended}");
    }
    assert_eq!(shown(&dam, "active"), "green");
    assert_eq!(dam.metric("canary_ends_total", "promoted"), 1.0);
    eventually("blue gets nothing more", async || {
        let before = blue.tally("received").await;
        load.more(50).await;
        blue.tally("received").await == before
    })
    .await;
    assert_eq!(load.failed(), 0);
    let again = put(&dam, "active", CANARY).await;
    assert_eq!((again.status, again.json()["error"]["code"].as_str()), (409, Some("no_other_colour")));
    assert_eq!(cancel(&dam).await.status, 404);
}

#[tokio::test]
async fn a_side_that_fails_is_left_before_its_time_and_harms_nobody() {
    let [blue, green] = [Worker::start(64), Worker::start(64)];
    let dam = Dam::start(&format!("workers: {{ {} }}\n", sides(&blue, &green)));
    serves(&dam).await;
    let load = Load::start(&[&dam]);
    green.fault("status:500", 1_000_000).await;
    assert_eq!(put(&dam, "active", LONG).await.status, 202);
    eventually("its verdict", async || canary(&dam).await["state"] != "under_way").await;
    let ended = canary(&dam).await;
    assert_eq!(ended["state"], "reverted", "{ended}");
    assert!(ended["why"].as_str().unwrap().contains("of its requests"), "{ended}");
    assert_eq!(shown(&dam, "active"), "blue");
    let before = green.tally("received").await;
    load.more(50).await;
    assert!(green.tally("received").await <= before + 4);
}

#[tokio::test]
async fn gateways_share_a_canary_and_any_of_them_ends_it() {
    let redis = Redis::start().await;
    let [blue, green] = [Worker::start(64), Worker::start(64)];
    let text = discovering(&redis, &format!(", {}", sides(&blue, &green)));
    let text = text.replace("redis: { url", "redis: { hmac_key: k, url");
    let [one, other] = [Dam::start(&text), Dam::start(&text)];
    for dam in [&one, &other] {
        eventually("the feed", async || dam.metric("redis_up", "") == 1.0).await;
    }
    // Counts of somebody without the key.
    redis.run(&[b"SADD", b"dam:followers", b"evil"]).await;
    let side = SideCounts { served: 9, good: 9, ..SideCounts::default() };
    let forged = CanaryCounts { usual: side, canary: side, ..CanaryCounts::default() };
    let forged = serde_json::json!({ "v": 1, "epoch": 1, "counts": forged }).to_string();
    redis.run(&[b"SET", b"dam:pool:default:canary:evil", forged.as_bytes()]).await;
    redis.run(&[b"SET", b"dam:follows:evil", b"{\"default\":99}"]).await;

    let load = Load::start(&[&one, &other]);
    assert_eq!(put(&one, "active", LONG).await.status, 202);
    eventually("the other's counts", async || {
        let view = canary(&one).await;
        assert!(view["gateways"].as_u64().unwrap() <= 2, "{view}");
        view["gateways"] == 2 && view["canary"]["answers"].as_u64().unwrap() > 50
    })
    .await;
    let there = canary(&other).await;
    assert_eq!((there["judged_here"].as_bool(), there["share"].as_f64()), (Some(false), Some(0.5)));
    for body in [CANARY, r#"{"colour":"green"}"#] {
        assert_eq!(put(&other, "active", body).await.status, 409);
    }
    assert_eq!(cancel(&other).await.status, 200);
    eventually("the end", async || canary(&one).await["state"] == "reverted").await;
    let epoch = async || redis.run(&[b"HGET", b"dam:pool:default:active", b"epoch"]).await;
    assert_eq!(epoch().await, Some(::redis::Value::BulkString(b"2".to_vec())));
    for dam in [&one, &other] {
        eventually("no share", async || dam.metric("canary_share", "") == 0.0).await;
        assert_eq!(shown(dam, "active"), "blue");
    }

    // Going back by force ends a canary everywhere.
    assert_eq!(put(&one, "active", LONG).await.status, 202);
    assert_eq!(put(&other, "active", r#"{"colour":"blue","force":true}"#).await.status, 200);
    eventually("the end", async || {
        canary(&one).await["why"].as_str().is_some_and(|why| why.contains("at another gateway"))
    })
    .await;
    assert_eq!(load.failed(), 0);
}

#[tokio::test]
async fn every_gateway_goes_back_when_the_judge_is_gone() {
    let redis = Redis::start().await;
    let [blue, green] = [Worker::start(64), Worker::start(64)];
    let text = discovering(&redis, &format!(", {}", sides(&blue, &green)));
    let [one, other] = [Dam::start(&text), Dam::start(&text)];
    for dam in [&one, &other] {
        eventually("the feed", async || dam.metric("redis_up", "") == 1.0).await;
    }
    assert_eq!(put(&one, "active", LONG).await.status, 202);
    eventually("its share", async || other.metric("canary_share", "green") > 0.0).await;
    drop(one);
    eventually("back", async || other.metric("canary_share", "") == 0.0).await;
    assert_eq!(shown(&other, "active"), "blue");
    assert_eq!(other.metric("canary_ends_total", "reverted"), 1.0);
}

#[tokio::test]
async fn without_redis_the_share_stays_and_nobody_is_promoted() {
    let mut redis = Redis::start().await;
    let [blue, green] = [Worker::start(64), Worker::start(64)];
    let dam = Dam::start(&discovering(&redis, &format!(", {}", sides(&blue, &green))));
    eventually("the feed", async || dam.metric("redis_up", "") == 1.0).await;
    let load = Load::start(&[&dam]);
    // Nothing is decided without Redis, so the trial waits for it however long that takes.
    assert_eq!(put(&dam, "active", CANARY).await.status, 202);
    redis.kill();
    eventually("the loss", async || dam.metric("redis_up", "") == 0.0).await;
    load.more(1000).await;
    assert_eq!(canary(&dam).await["state"], "under_way");
    let before = [blue.tally("received").await, green.tally("received").await];
    load.more(200).await;
    assert!(blue.tally("received").await > before[0] && green.tally("received").await > before[1]);
    assert_eq!(cancel(&dam).await.status, 503);
    redis.restart().await;
    eventually("its verdict", async || canary(&dam).await["state"] == "promoted").await;
    assert_eq!(load.failed(), 0);
}

fn command(dam: &Dam, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_traffic-dam"))
        .args(["switch", "default", "green", "--admin", &dam.admin.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the command; returns its exit code and what it printed.
async fn ended(child: Child) -> (Option<i32>, String) {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn the_exit_code_of_the_command_says_how_it_ended() {
    let [blue, green] = [Worker::start(64), Worker::start(64)];
    let dam = Dam::start(&format!("workers: {{ {} }}\n", sides(&blue, &green)));
    serves(&dam).await;
    let canary = ["--canary", "50%", "--judge", "1s"];
    let (code, text) = ended(command(&dam, &canary)).await;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("green gets 50 % beside blue") && text.contains("at least 100 each"), "{text}");
    assert_eq!(shown(&dam, "active"), "blue");

    let load = Load::start(&[&dam]);
    green.fault("status:500", 1_000_000).await;
    let (code, text) = ended(command(&dam, &canary)).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("back to blue: "), "{text}");
    green.fault("status:500", 0).await;
    // On a busy machine a sound side can be the slower one; then it goes back, as it should.
    let mut text = String::new();
    eventually("a promotion", async || {
        let (code, said) = ended(command(&dam, &canary)).await;
        text = said;
        code == Some(0)
    })
    .await;
    assert!(text.contains("green is active in default"), "{text}");
    drop(load);

    let (code, text) = ended(command(&dam, &["--version", "7"])).await;
    assert_eq!(code, Some(3), "{text}");
    let (code, text) = ended(command(&dam, &["--force"])).await;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = ended(command(&dam, &["--force", "--canary", "5%"])).await;
    assert_eq!(code, Some(2), "misuse: {text}");
}

#[tokio::test]
async fn a_killed_command_leaves_every_gateway_on_the_old_side() {
    let redis = Redis::start().await;
    let [blue, green] = [Worker::start(64), Worker::start(64)];
    let text = discovering(&redis, &format!(", {}", sides(&blue, &green)));
    let gateways = [Dam::start(&text), Dam::start(&text)];
    for dam in &gateways {
        eventually("the feed", async || dam.metric("redis_up", "") == 1.0).await;
    }
    let load = Load::start(&[&gateways[0], &gateways[1]]);
    let mut child = command(&gateways[0], &["--canary", "20%", "--judge", "1h"]);
    for dam in &gateways {
        eventually("its share", async || dam.metric("canary_share", "green") > 0.0).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for dam in &gateways {
        eventually("back", async || dam.metric("canary_share", "") == 0.0).await;
        assert_eq!(shown(dam, "active"), "blue");
    }
    assert!(canary(&gateways[0]).await["why"].as_str().unwrap().contains("client is gone"));
    assert_eq!(load.failed(), 0);
}

/// Answers every job of a side with its name.
async fn answer_all(hand: &Hand, side: &str) {
    let body = format!("{{\"side\":\"{side}\"}}");
    loop {
        let mut taken = hand.take().await;
        hand.answer(&mut taken, &[("head", JSON), ("data", &body), ("end", "")]).await;
    }
}

#[tokio::test]
async fn a_queue_gives_the_share_too_and_a_session_stays_on_its_side() {
    let redis = Redis::start().await;
    let text = queueing(&redis, "").replace("mode: queue", "mode: queue, active_colour: blue");
    let dam = Dam::start(&text);
    let blue = Hand::join(&redis, "w1", "blue", 8).await;
    let green = Hand::join(&redis, "w2", "green", 8).await;
    known(&dam, "default.blue").await;
    eventually("green stands by", async || side(&dam, "default.green").is_some()).await;
    assert_eq!(put(&dam, "active", LONG).await.status, 202);
    let ask = async |session: u32| {
        let session = format!("x-session-id: s{session}");
        let answer = dam.ask(chat("a", false, 2, &[&session])).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text().to_owned()
    };
    let talk = async {
        let mut sides = Vec::new();
        for session in 0..24 {
            sides.push(ask(session).await);
        }
        for colour in ["blue", "green"] {
            assert!(sides.iter().any(|side| side.contains(colour)), "{sides:?}");
        }
        for (session, side) in sides.iter().enumerate() {
            assert_eq!(ask(session as u32).await, *side, "session {session}");
        }
        let answers = async || {
            let view = canary(&dam).await;
            view["canary"]["answers"].as_u64().unwrap() + view["usual"]["answers"].as_u64().unwrap()
        };
        eventually("all are counted", async || answers().await == 48).await;
        assert_eq!(cancel(&dam).await.status, 200);
        for session in 0..24 {
            assert!(ask(session).await.contains("blue"));
        }
    };
    tokio::select! {
        () = talk => {}
        () = answer_all(&blue, "blue") => {}
        () = answer_all(&green, "green") => {}
    }
}

/// Makes a worker fail about every tenth request, until it is dropped.
async fn fail_a_tenth(worker: &Worker) {
    let mut next = 0;
    loop {
        let received = worker.tally("received").await;
        if received >= next {
            worker.fault("status:500", 1).await;
            next = received + 10;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes; prints how often the verdict is wrong over real sockets"]
async fn five_real_canaries_of_each_kind() {
    for (kind, factor, fails, right) in [
        ("sound", 1.0, false, "promoted"),
        ("slower by half", 1.5, false, "reverted"),
        ("fails a tenth", 1.0, true, "reverted"),
    ] {
        let mut wrong = 0;
        for _ in 0..5 {
            let [blue, green] = [Worker::paced(64, 1.0), Worker::paced(64, factor)];
            let dam = Dam::start(&format!("workers: {{ {} }}\n", sides(&blue, &green)));
            serves(&dam).await;
            let load = Load::of(16, &[&dam]);
            let body = r#"{"colour":"green","canary":"20%","judge":5}"#;
            assert_eq!(put(&dam, "active", body).await.status, 202);
            let verdict = eventually("its verdict", async || canary(&dam).await["state"] != "under_way");
            let failing = async {
                if fails {
                    fail_a_tenth(&green).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = verdict => {}
                () = failing => {}
            }
            let ended = canary(&dam).await;
            wrong += usize::from(ended["state"] != right);
            println!("{kind}: {} after {} ms: {}", ended["state"], ended["elapsed_ms"], ended["why"]);
            assert_eq!(load.failed(), 0);
        }
        println!("{kind}: {wrong} of 5 verdicts were wrong");
        assert_eq!(wrong, 0, "{kind}");
    }
}
