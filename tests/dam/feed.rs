//! The connection of the heartbeat feed: one that is silent, and odd values in Redis.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::redis::{FromRedisValue, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::fleet::{discovering, feed, serves};
use super::gateway::Gateway;
use super::redis::{Redis, Speaker, at};
use super::rig::{Dam, Worker, eventually};

/// A proxy whose connections can fall silent: they stay open, and nothing comes through.
struct Proxy {
    url: String,
    made: Arc<AtomicUsize>,
    /// The number of connections, of the first ones, that are silent.
    silent: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start(redis: &Redis) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let to = redis.url().replace("redis://", "");
        let (made, silent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let proxy = Self { url, made: Arc::clone(&made), silent: Arc::clone(&silent) };
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(&to).await.unwrap();
                let number = made.fetch_add(1, Ordering::Relaxed);
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(pass(from_client, to_server, number, Arc::clone(&silent)));
                tokio::spawn(pass(from_server, to_client, number, Arc::clone(&silent)));
            }
        });
        proxy
    }

    /// Makes all present connections silent. Returns their number.
    fn fall_silent(&self) -> usize {
        let made = self.made.load(Ordering::Relaxed);
        self.silent.store(made, Ordering::Relaxed);
        made
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, number: usize, silent: Arc<AtomicUsize>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if number >= silent.load(Ordering::Relaxed) && to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_silent_connection_is_replaced_by_a_gateway_that_is_late_now_and_then() {
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let proxy = Proxy::start(&redis).await;
    let text = discovering(&redis, "").replace(&redis.url(), &proxy.url);
    let gateway = Gateway::start(&text, Stdio::null()).await;
    let _speaker = Speaker::start(&redis, "w1", at(&worker));
    gateway.hears_redis().await;
    let pauses = async {
        loop {
            gateway.pause(Duration::from_millis(80)).await;
            tokio::time::sleep(Duration::from_millis(620)).await;
        }
    };
    let replaced = async {
        let before = proxy.fall_silent();
        eventually("a new connection", async || proxy.made.load(Ordering::Relaxed) > before).await;
        gateway.hears_redis().await;
        eventually("it hears the worker", async || gateway.metric("worker_light", "w1").await == 2.0).await;
    };
    tokio::select! {
        () = pauses => {}
        () = replaced => {}
    }
}

/// Returns how many connections Redis has had.
async fn connections(redis: &Redis) -> u64 {
    let info = String::from_redis_value(redis.run(&[b"INFO", b"stats"]).await.unwrap()).unwrap();
    let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    count.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn odd_values_of_other_keys_stop_no_heartbeat() {
    for spoil in [
        &[&b"SADD"[..], b"dam:switched", b"\xff\xfe", b"default"][..],
        &[b"SET", b"dam:switched", b"x"],
        &[b"SET", b"dam:pool:default:active", b"x"],
        &[b"SADD", b"dam:followers", b"\xff\xfe"],
        &[b"SET", b"dam:followers", b"x"],
    ] {
        let (redis, worker) = (Redis::start().await, Worker::start(8));
        redis.run(&[b"SADD", b"dam:switched", b"default"]).await.unwrap();
        redis.run(&[b"DEL", spoil[1]]).await.unwrap();
        assert!(matches!(redis.run(spoil).await, Some(Value::Int(_) | Value::Okay)), "{spoil:?}");
        let dam = Dam::start(&discovering(&redis, ""));
        let _speaker = Speaker::start(&redis, "w1", at(&worker));
        feed(&dam, 1.0).await;
        eventually("it serves", async || super::fleet::shown(&dam, "w1").is_some()).await;
        serves(&dam).await;
        let before = connections(&redis).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(connections(&redis).await, before + 1, "the gateway stays connected: {spoil:?}");
        feed(&dam, 1.0).await;
    }
}
