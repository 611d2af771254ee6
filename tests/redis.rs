//! State that several gateways share, on a real Redis (`scripts/need redis` installs it).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

#[path = "redis/callers.rs"]
mod callers;
#[path = "redis/changes.rs"]
mod changes;
#[path = "dam/client.rs"]
#[expect(dead_code, reason = "shared with the tests of one gateway")]
mod client;
#[path = "redis/differential.rs"]
mod differential;
#[path = "redis/explain.rs"]
mod explain;
#[path = "redis/fairness.rs"]
mod fairness;
#[path = "redis/kinds.rs"]
mod kinds;
#[path = "redis/loss.rs"]
mod loss;
#[path = "redis/quotas.rs"]
mod quotas;
#[path = "redis/registry.rs"]
mod registry;
#[path = "dam/rig.rs"]
#[expect(dead_code, reason = "shared with the tests of one gateway")]
mod rig;
#[path = "redis/scripts.rs"]
mod scripts;
#[path = "redis/server.rs"]
mod server;

use client::{Answer, get, request};
use rig::{Dam, Worker, before, eventually};
use server::Server;
use traffic_dam::server::admin::AdminSource;

/// Settings with rules in `redis`, and a long Redis timeout, because this machine may be busy.
fn patient(redis: &Server, worker: &Worker, limits: &str, more: &str) -> String {
    settings(redis, worker, limits, more).replace("timeout: 100ms", "timeout: 5s")
}

/// Settings with rules in `redis`. Its Redis timeout is ten times the default, because this machine
/// may be busy; the test checks that the gateway does not wait longer.
fn settings(redis: &Server, worker: &Worker, limits: &str, more: &str) -> String {
    let rest = format!(
        "state: redis\nredis: {{ url: \"{}\", timeout: 100ms }}\nlimits:\n{limits}\nlog: {{ sample: 0 }}\n{more}",
        redis.url()
    );
    before(&[worker.entry("w1", 64)], &rest)
}

/// Starts `count` gateways with the same settings, and waits until all know each other.
async fn gateways(count: usize, text: &str) -> Vec<Dam> {
    let gateways: Vec<_> = (0..count).map(|_| Dam::start(text)).collect();
    for dam in &gateways {
        up(dam, true).await;
        eventually("all gateways are seen", async || dam.app.state()["gateways"] == count).await;
    }
    gateways
}

/// Waits until a gateway uses Redis (`up`), or no longer does.
async fn up(dam: &Dam, up: bool) {
    let wanted = f64::from(u8::from(up));
    eventually("Redis is used or not", async || dam.metric("redis_up", "") == wanted).await;
}

/// Sends the smallest request.
async fn call(dam: &Dam) -> Answer {
    dam.ask(get("/v1/models")).await
}

/// Sends a chat with `tokens` answer tokens, and a slightly longer prompt, as the caller `id`.
async fn chat_as(dam: &Dam, id: &str, tokens: u32, stream: bool) -> Answer {
    let body = format!(
        r#"{{"model":"sim","messages":[{{"role":"user","content":"Say something."}}],"stream":{stream},"max_tokens":{tokens},"ignore_eos":true}}"#
    );
    let user = format!("x-user-id: {id}");
    dam.ask(request("POST /v1/chat/completions", &[&user, "content-type: application/json"], body)).await
}
