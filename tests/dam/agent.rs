//! The agent of a worker, with a real Redis.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use traffic_dam::agent::{self, AgentOptions};
use traffic_dam::fleet::heartbeat::SigningKey;
use traffic_dam::redis::publisher::HeartbeatPublisher;
use traffic_dam::redis::settings::RedisSettings;

use super::client::chat;
use super::fleet::{discovering, serves, shown};
use super::redis::{INTERVAL, Redis};
use super::rig::{Dam, Worker, eventually};

/// An agent in a task of this process.
struct Agent {
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn start(redis: &Redis, worker: &Worker, change: impl FnOnce(&mut AgentOptions)) -> Agent {
    let url: http::Uri = format!("http://{}", worker.addr).parse().unwrap();
    let mut options = AgentOptions {
        worker: url.clone(),
        advertise: url,
        id: "w1".into(),
        pool: Some("chat".into()),
        model: Some("sim".into()),
        colour: None,
        version: Some("7".into()),
        slots: Some(8),
        kv_tokens: None,
        interval: INTERVAL,
        health: "/health".to_owned(),
        metrics: "/metrics".to_owned(),
        renames: Vec::new(),
        max_load: None,
        drain: Duration::from_secs(60),
    };
    change(&mut options);
    let settings = RedisSettings::single(redis.url().into(), "dam".into());
    let publisher = HeartbeatPublisher::new(settings, Some(SigningKey::new("k")));
    let (end, ended) = oneshot::channel();
    let task = tokio::spawn(agent::run(options, publisher, async { ended.await.unwrap_or_default() }));
    Agent { end, task }
}

fn signed(redis: &Redis) -> String {
    discovering(redis, "").replace("redis: { url", "redis: { hmac_key: k, url")
}

async fn says(dam: &Dam, field: &str, value: impl Into<serde_json::Value>) {
    let value = value.into();
    eventually(field, async || shown(dam, "w1").is_some_and(|worker| worker["said"][field] == value)).await;
}

#[tokio::test]
async fn a_worker_that_knows_nothing_of_heartbeats_is_found_and_followed() {
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let dam = Dam::start(&signed(&redis));
    let agent = start(&redis, &worker, |_| {});
    says(&dam, "state", "ready").await;
    says(&dam, "running", 0).await;
    assert_eq!(shown(&dam, "w1").unwrap()["said"]["version"], "7");
    eventually("latencies", async || {
        serves(&dam).await;
        let said = &shown(&dam, "w1").unwrap()["said"];
        said["ttft_p90_ms"].as_f64().is_some_and(|ttft| ttft > 0.0) && said["itl_p90_ms"].is_number()
    })
    .await;
    // The worker dies, and another process takes its place.
    let addr = worker.addr;
    worker.kill().await;
    says(&dam, "state", "failed").await;
    eventually("nothing is sent", async || dam.ask(chat("a", true, 2, &[])).await.reason() == "no_worker")
        .await;
    let worker = Worker::start_at(addr, 8);
    says(&dam, "state", "ready").await;
    eventually("it serves again", async || dam.ask(chat("a", true, 2, &[])).await.status == 200).await;

    agent.end.send(()).unwrap();
    says(&dam, "state", "draining").await;
    assert!(!agent.task.is_finished(), "it drains while the worker lives");
    worker.kill().await;
    tokio::time::timeout(Duration::from_secs(30), agent.task).await.unwrap().unwrap();
    assert_eq!(redis.run(&[b"EXISTS", b"dam:worker:w1", b"dam:workers"]).await, Some(::redis::Value::Int(0)));
}

#[tokio::test]
async fn a_worker_whose_metrics_are_not_understood_is_doubtful_and_serves() {
    let (redis, worker) = (Redis::start().await, Worker::start(8));
    let dam = Dam::start(&signed(&redis));
    let agent = start(&redis, &worker, |options| {
        options.metrics = "/nothing".to_owned();
        options.max_load = Some(1e9);
        options.drain = Duration::ZERO;
    });
    says(&dam, "state", "ready").await;
    let worker = shown(&dam, "w1").unwrap();
    assert_eq!(worker["light"], "yellow");
    let checks: Vec<_> =
        worker["said"]["checks"].as_array().unwrap().iter().map(|check| &check["name"]).collect();
    assert_eq!(checks, ["metrics", "load"]);
    serves(&dam).await;
    agent.end.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(30), agent.task).await.unwrap().unwrap();
}

/// Answers as llama.cpp does, on one connection after another.
async fn llama_cpp(listener: TcpListener) {
    while let Ok((mut socket, _)) = listener.accept().await {
        let mut head = vec![0; 4096];
        let read = socket.read(&mut head).await.unwrap_or(0);
        let path = String::from_utf8_lossy(&head[..read]).split(' ').nth(1).unwrap_or_default().to_owned();
        let body = match &*path {
            "/health" => r#"{"status":"ok"}"#,
            "/metrics" => "llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n",
            "/props" => r#"{"total_slots":6}"#,
            _ => "",
        };
        let length = body.len();
        let answer =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        socket.write_all(answer.as_bytes()).await.unwrap_or_default();
    }
}

#[tokio::test]
async fn the_slots_of_llama_cpp_need_not_be_told() {
    let redis = Redis::start().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url: http::Uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let engine = tokio::spawn(llama_cpp(listener));
    let (dam, unused) = (Dam::start(&signed(&redis)), Worker::start(8));
    let agent = start(&redis, &unused, |options| {
        (options.worker, options.advertise, options.slots) = (url.clone(), url, None);
        options.drain = Duration::ZERO;
    });
    says(&dam, "slots", 6).await;
    says(&dam, "running", 1).await;
    agent.end.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(30), agent.task).await.unwrap().unwrap();
    engine.abort();
}
