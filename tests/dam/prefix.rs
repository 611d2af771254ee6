//! Conversations go where their beginnings are cached.

use serde_json::{Value, json};
use traffic_dam::server::admin::AdminSource;

use super::client::request;
use super::rig::{Dam, Worker, before};

const WORKERS: usize = 3;
const CONVERSATIONS: usize = 8;
const TURNS: usize = 4;

/// Returns a gateway before three workers with prefix caches.
fn three(more: &str) -> (Vec<Worker>, Dam) {
    let workers: Vec<_> = (0..WORKERS).map(|_| Worker::caching(8)).collect();
    let entries: Vec<_> =
        (0..).zip(&workers).map(|(at, worker)| worker.entry(&format!("w{at}"), 8)).collect();
    let dam = Dam::start(&before(&entries, more));
    (workers, dam)
}

/// Takes a turn of a conversation; returns the answer's usage.
async fn turn(dam: &Dam, messages: &[Value]) -> Value {
    let body = json!({
        "model": "sim", "messages": messages, "max_tokens": 4, "stream": true,
        "stream_options": { "include_usage": true },
    });
    let answer = dam.ask(request("POST /v1/chat/completions", &[], body.to_string())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text().to_owned();
    let usage = text.lines().rfind(|line| line.contains("\"usage\":{")).unwrap();
    serde_json::from_str::<Value>(usage.strip_prefix("data: ").unwrap()).unwrap()["usage"].take()
}

async fn received(workers: &[Worker]) -> Vec<u64> {
    let mut counts = Vec::new();
    for worker in workers {
        counts.push(worker.tally("received").await);
    }
    counts
}

/// Holds conversations of several turns; returns the number of workers that served each of them,
/// and the cached tokens of all later turns.
async fn converse(workers: &[Worker], dam: &Dam) -> (Vec<usize>, u64) {
    let (mut served_by, mut cached) = (Vec::new(), 0);
    for conversation in 0..CONVERSATIONS {
        let before = received(workers).await;
        let mut messages: Vec<Value> = Vec::new();
        for number in 0..TURNS {
            let text = format!("{conversation} {number} ").repeat(400);
            messages.push(json!({ "role": "user", "content": text }));
            let usage = turn(dam, &messages).await;
            if number > 0 {
                cached += usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
            }
            messages.push(json!({ "role": "assistant", "content": "I see." }));
        }
        let after = received(workers).await;
        served_by.push(before.iter().zip(&after).filter(|(before, after)| before < after).count());
    }
    (served_by, cached)
}

#[tokio::test]
async fn each_conversation_stays_at_the_worker_that_has_read_it() {
    let (workers, dam) = three("");
    let (served_by, cached) = converse(&workers, &dam).await;
    assert_eq!(served_by, [1; CONVERSATIONS]);
    // A turn has about 400 tokens more than the one before.
    let all = CONVERSATIONS * 400 * (1 + 2 + 3);
    assert!(cached > all as u64 * 8 / 10, "{cached} of {all}");
    for source in ["estimated", "reported"] {
        let ratio = dam.metric("prefix_hit_ratio", source);
        assert!((0.4..0.7).contains(&ratio), "{source}: {ratio}");
    }
    dam.idle().await;
}

#[tokio::test]
async fn switched_off_a_conversation_goes_anywhere() {
    let (workers, dam) = three("concurrency: { prefix: off }");
    let (served_by, _) = converse(&workers, &dam).await;
    assert!(served_by.iter().any(|workers| *workers > 1), "{served_by:?}");
    assert!(!dam.app.metrics().contains("prefix_hit_ratio{"));
}
