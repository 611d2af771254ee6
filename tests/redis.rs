//! What several gateways share, on a real Redis (`scripts/need redis` installs it).

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
#[path = "redis/kinds.rs"]
mod kinds;
#[path = "redis/loss.rs"]
mod loss;
#[path = "redis/quotas.rs"]
mod quotas;
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

/// A gateway that counts these rules in `redis`, before `worker`, and gives up on Redis late: this machine may be busy.
fn patient(redis: &Server, worker: &Worker, limits: &str, more: &str) -> String {
    settings(redis, worker, limits, more).replace("timeout: 100ms", "timeout: 5s")
}

/// A gateway that counts these rules in `redis`, before `worker`. It waits ten times as long as by default: what must be
/// seen is that it does not wait on, and this machine may be busy.
fn settings(redis: &Server, worker: &Worker, limits: &str, more: &str) -> String {
    let rest = format!(
        "state: redis\nredis: {{ url: \"{}\", timeout: 100ms }}\nlimits:\n{limits}\nlog: {{ sample: 0 }}\n{more}",
        redis.url()
    );
    before(&[worker.entry("w1", 64)], &rest)
}

/// So many gateways with the same settings, all of them knowing of each other.
async fn dams(count: usize, text: &str) -> Vec<Dam> {
    let dams: Vec<_> = (0..count).map(|_| Dam::start(text)).collect();
    for dam in &dams {
        up(dam, true).await;
        eventually("all gateways are seen", async || dam.app.state()["dams"] == count).await;
    }
    dams
}

/// Waits until a gateway uses Redis, or no longer does.
async fn up(dam: &Dam, up: bool) {
    let wanted = f64::from(u8::from(up));
    eventually("Redis is used or not", async || dam.metric("redis_up", "") == wanted).await;
}

/// The smallest request there is.
async fn call(dam: &Dam) -> Answer {
    dam.ask(get("/v1/models")).await
}

/// A chat whose answer has so many tokens and whose prompt has some more, as the caller `id`.
async fn chat_as(dam: &Dam, id: &str, tokens: u32, stream: bool) -> Answer {
    let body = format!(
        r#"{{"model":"sim","messages":[{{"role":"user","content":"Say something."}}],"stream":{stream},"max_tokens":{tokens},"ignore_eos":true}}"#
    );
    let user = format!("x-user-id: {id}");
    dam.ask(request("POST /v1/chat/completions", &[&user, "content-type: application/json"], body)).await
}
