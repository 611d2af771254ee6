//! Blue and green: which colour gets requests, at one gateway and at several that share a Redis.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::client::{Answer, ask, chat, request};
use super::fleet::{discovering, serves};
use super::redis::Redis;
use super::rig::{Dam, Worker, eventually};

fn sides(blue: &Worker, green: &Worker) -> String {
    let side = |worker: &Worker, id: &str, colour: &str| {
        worker.entry(id, 8).replace(" }", &format!(", colour: {colour} }}"))
    };
    format!("static: [{}, {}], active_colour: blue", side(blue, "b1", "blue"), side(green, "g1", "green"))
}

async fn switch(dam: &Dam, colour: &str) -> Answer {
    let body = format!("{{\"colour\":\"{colour}\"}}");
    let fields = ["content-type: application/json"];
    ask(dam.admin, request("PUT /api/v1/pools/default/active", &fields, body)).await
}

/// Sends short streams to both gateways, half of them in sessions, until `stop` is set; counts
/// those that were not served.
async fn load(gateways: Arc<[Dam; 2]>, stop: Arc<AtomicBool>, failed: Arc<AtomicU64>) {
    let mut which = 0;
    while !stop.load(Ordering::Relaxed) {
        which += 1;
        let session = format!("x-session-id: s{}", which % 20);
        let fields: &[&str] = if which % 4 < 2 { &[&session] } else { &[] };
        let answer = gateways[which % 2].ask(chat("a", true, 2, fields)).await;
        if (answer.status, answer.whole) != (200, true) {
            failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn one_gateway_switches_by_itself_and_old_streams_finish() {
    let workers = [Worker::start(8), Worker::start(8)];
    let dam = Dam::start(&format!("workers: {{ {} }}\n", sides(&workers[0], &workers[1])));
    serves(&dam).await;
    assert_eq!((workers[0].tally("received").await, workers[1].tally("received").await), (1, 0));
    let mut held = super::client::Conn::open(dam.addr).await;
    held.send(chat("held", true, 100, &[])).await.unwrap();
    workers[0].busy_with(1).await;
    let done = switch(&dam, "green").await;
    assert_eq!((done.status, done.json()["epoch"].as_u64()), (200, Some(1)));
    for _ in 0..10 {
        serves(&dam).await;
    }
    assert_eq!((workers[0].tally("received").await, workers[1].tally("received").await), (2, 10));
    let answer = held.answer().await.unwrap();
    assert_eq!((answer.status, answer.whole), (200, true));
    assert_eq!(switch(&dam, "red").await.status, 409);
}

#[tokio::test]
async fn a_request_that_still_connects_when_the_pool_is_switched_goes_to_the_new_colour() {
    let green = Worker::start(8);
    // A listener with a full queue delays a connection to the kernel's next try, 1 s later.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let blue = socket.listen(1).unwrap();
    let at = blue.local_addr().unwrap();
    let mut full = Vec::new();
    while let Ok(Ok(socket)) = timeout(Duration::from_millis(100), TcpStream::connect(at)).await {
        full.push(socket);
    }
    let entry = format!("{{ id: b1, url: \"http://{at}\", slots: 8, colour: blue }}");
    let other = green.entry("g1", 8).replace(" }", ", colour: green }");
    let text = format!(
        "workers: {{ static: [{entry}, {other}], active_colour: blue, timeouts: {{ connect: 20s }} }}\n"
    );
    let dam = Arc::new(Dam::start(&text));
    let asking = Arc::clone(&dam);
    let asked = tokio::spawn(async move { asking.ask(chat("a", true, 2, &[])).await });
    eventually("it has its permit", async || dam.held() == 1).await;
    assert_eq!(switch(&dam, "green").await.status, 200);
    let accepted = tokio::spawn(async move {
        let mut heard = Vec::new();
        for filler in 0.. {
            let (mut socket, _) = blue.accept().await.unwrap();
            if filler >= full.len() {
                socket.read_to_end(&mut heard).await.unwrap();
                return heard;
            }
        }
        heard
    });
    let answer = asked.await.unwrap();
    assert_eq!((answer.status, answer.whole), (200, true), "{}", answer.text());
    assert_eq!(green.tally("finished").await, 1);
    assert!(accepted.await.unwrap().is_empty(), "nothing was sent to the old colour");
    dam.idle().await;
}

#[tokio::test]
async fn two_gateways_switch_together_under_load() {
    const SWITCHES: u64 = 20;
    let redis = Redis::start().await;
    let workers = [Worker::start(64), Worker::start(64)];
    // One worker of each colour refuses some requests, so that they are retried across the switch.
    let moody = [Worker::start(64), Worker::start(64)];
    let more =
        ["b2", "g2"].iter().zip(["blue", "green"]).zip(&moody).map(|((id, colour), worker)| {
            worker.entry(id, 64).replace(" }", &format!(", colour: {colour} }}"))
        });
    let more = more.collect::<Vec<_>>().join(", ");
    let text = discovering(&redis, &format!(", {}", sides(&workers[0], &workers[1])));
    let text = text.replace("redis: { url", "redis: { hmac_key: k, url").replace("slots: 8", "slots: 64");
    let text = text.replace("], active", &format!(", {more}], retry: {{ max: 3, budget: 1.0 }}, active"));
    let gateways = Arc::new([Dam::start(&text), Dam::start(&text)]);
    for dam in gateways.iter() {
        eventually("the feed", async || dam.metric("redis_up", "") == 1.0).await;
    }
    let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| tokio::spawn(load(Arc::clone(&gateways), Arc::clone(&stop), Arc::clone(&failed))))
        .collect();
    for turn in 0..SWITCHES {
        let colour = if turn % 2 == 0 { "green" } else { "blue" };
        let [new, old] = if turn % 2 == 0 { [1, 0] } else { [0, 1] };
        let done = switch(&gateways[usize::from(turn % 3 == 0)], colour).await;
        assert_eq!(done.status, 200, "{}", done.text());
        let received =
            async |side: usize| [workers[side].tally("received").await, moody[side].tally("received").await];
        let (wrong, right) = (received(old).await, workers[new].tally("received").await);
        eventually("requests", async || workers[new].tally("received").await > right + 20).await;
        assert_eq!(received(old).await, wrong, "after switch {turn} to {colour}");
        moody[new].fault("status:503", 10).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(failed.load(Ordering::Relaxed), 0);

    // A gateway that starts later serves no requests before it knows the active colour.
    assert_eq!(switch(&gateways[0], "green").await.status, 200);
    let before = workers[0].tally("received").await;
    let late = Dam::start(&text);
    for _ in 0..5 {
        serves(&late).await;
    }
    assert_eq!(workers[0].tally("received").await, before);
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_told_which_colour_is_active() {
    let mut redis = Redis::start().await;
    let workers = [Worker::start(8), Worker::start(8)];
    let text = discovering(&redis, &format!(", {}", sides(&workers[0], &workers[1])));
    let dam = Dam::start(&text);
    eventually("the feed", async || dam.metric("redis_up", "") == 1.0).await;
    assert_eq!(switch(&dam, "green").await.status, 200);
    redis.kill();
    assert_eq!(switch(&dam, "blue").await.status, 503);
    serves(&dam).await;
    redis.restart().await;
    let kept = async || redis.run(&[b"HGET", b"dam:pool:default:active", b"epoch"]).await;
    let one = Some(::redis::Value::BulkString(b"1".to_vec()));
    eventually("what is followed is kept", async || kept().await == one).await;
    let before = workers[0].tally("received").await;
    let late = Dam::start(&text);
    for dam in [&dam, &late] {
        serves(dam).await;
    }
    assert_eq!(workers[0].tally("received").await, before);
}

#[tokio::test]
async fn a_switch_that_redis_has_lost_is_stored_again_without_a_new_connection() {
    let redis = Redis::start().await;
    let workers = [Worker::start(8), Worker::start(8)];
    let dam = Dam::start(&discovering(&redis, &format!(", {}", sides(&workers[0], &workers[1]))));
    eventually("the feed", async || dam.metric("redis_up", "") == 1.0).await;
    let kept = async || redis.run(&[b"HGET", b"dam:pool:default:active", b"epoch"]).await;
    for (number, colour) in [b"1", b"2"].into_iter().zip(["green", "blue"]) {
        assert_eq!(switch(&dam, colour).await.status, 200);
        redis.run(&[b"FLUSHALL"]).await.expect("Redis answers");
        let same = Some(::redis::Value::BulkString(number.to_vec()));
        eventually("it is stored again", async || kept().await == same).await;
    }
    let key: &[u8] = b"dam:pool:default:active";
    redis.run(&[b"DEL", key]).await.expect("Redis answers");
    eventually("also if only its key is lost", async || {
        kept().await.is_some_and(|at| at != ::redis::Value::Nil)
    })
    .await;
}
