//! The list of gateways in Redis: odd values, and a gateway that starts again and again.

use super::{Dam, Server, Worker, call, eventually, patient, up};
use traffic_dam::server::admin::AdminSource;

const LIMITS: &str = "  - { name: each, algorithm: token_bucket, per: caller, rate: 1/h, burst: 2 }";

/// Runs a command whose words are bytes.
async fn run<T: redis::FromRedisValue>(redis: &Server, words: &[&[u8]]) -> T {
    let mut command = redis::Cmd::new();
    command.arg(words);
    command.query_async(&mut redis.connect().await).await.unwrap()
}

async fn sees(dam: &Dam, gateways: u32) {
    eventually(&format!("{gateways} gateways"), async || dam.app.state()["gateways"] == gateways).await;
}

#[tokio::test]
async fn a_name_that_is_none_hides_no_gateway() {
    let (redis, worker) = (Server::start().await, Worker::start(8));
    run::<()>(&redis, &[b"SADD", b"dam:dams", b"\xff\xfe", b"list", b"gone"]).await;
    run::<()>(&redis, &[b"RPUSH", b"dam:dam:list", b"x"]).await;
    let text = patient(&redis, &worker, LIMITS, "");
    let (one, other) = (Dam::start(&text), Dam::start(&text));
    for dam in [&one, &other] {
        up(dam, true).await;
        sees(dam, 2).await;
    }
    let left = async || run::<Vec<Vec<u8>>>(&redis, &[b"SMEMBERS", b"dam:dams"]).await;
    eventually("the set is swept", async || left().await.len() == 2).await;
}

#[tokio::test]
async fn a_list_of_gateways_that_cannot_be_read_is_no_outage() {
    let (redis, worker) = (Server::start().await, Worker::start(8));
    let text = patient(&redis, &worker, LIMITS, "gateways: 3");
    let (one, mut other) = (Dam::start(&text), Dam::start(&text));
    sees(&one, 2).await;
    run::<()>(&redis, &[b"SET", b"dam:dams", b"x"]).await;
    // It starts with the configured number, and the rules count in Redis.
    let late = Dam::start(&text);
    up(&late, true).await;
    for status in [200, 200, 429] {
        assert_eq!(call(&late).await.status, status);
    }
    sees(&late, 3).await;
    // Those that know each other see that one leaves.
    other.app.drain().await;
    other.ended().await;
    sees(&one, 1).await;
    assert_eq!(one.metric("redis_up", ""), 1.0);
    assert_eq!(late.metric("redis_up", ""), 1.0);
}

#[tokio::test]
async fn a_gateway_that_starts_again_and_again_counts_once() {
    let (redis, worker) = (Server::start().await, Worker::start(8));
    for id in ["a", "b", "c"] {
        run::<()>(&redis, &[b"SADD", b"dam:dams", id.as_bytes()]).await;
        let key = format!("dam:dam:{id}");
        run::<()>(&redis, &[b"SET", key.as_bytes(), b"1 host/0.0.0.0:8080", b"PX", b"300000"]).await;
    }
    let dam = Dam::start(&patient(&redis, &worker, LIMITS, ""));
    sees(&dam, 2).await;
    // They are still there when the heartbeat of a dead one would have ended.
    sees(&dam, 4).await;
    let heartbeats: Vec<String> = run(&redis, &[b"KEYS", b"dam:dam:*"]).await;
    let own = heartbeats.iter().find(|key| key.len() > "dam:dam:a".len()).unwrap();
    let said: String = run(&redis, &[b"GET", own.as_bytes()]).await;
    assert!(said.starts_with("1 ") && said.ends_with(&format!("/{}", dam.addr)), "{said}");
}
