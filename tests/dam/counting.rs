//! Prompts that are counted by their model's tokenizer.

use std::path::Path;

use traffic_dam::app::App;
use traffic_dam::clock::Clock;

use super::client::request;
use super::rig::{Dam, Worker, before, settings};

/// Each word is a token, however long.
const WORDS: &str =
    r#"{"model":{"type":"WordLevel","vocab":{"?":0},"unk_token":"?"},"pre_tokenizer":{"type":"Whitespace"}}"#;

fn text(worker: &Worker, file: &Path) -> String {
    let rest = format!(
        "models: [{{ model: \"qwen*\", tokenizer: \"{}\" }}]
limits: [{{ name: tokens, algorithm: token_bucket, unit: tokens, per: model, rate: 100/h, burst: 100000 }}]",
        file.display()
    );
    before(&[worker.entry("w1", 8)], &rest)
}

/// What the rule was charged for a prompt of so many words, each sixteen bytes with its space.
async fn charged(dam: &Dam, model: &str, words: usize) -> u64 {
    let body = serde_json::json!({ "model": model, "input": "backpressurised ".repeat(words) }).to_string();
    let answer = dam.ask(request("POST /v1/embeddings", &[], body)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let left = answer.header("ratelimit").unwrap().rsplit_once("r=").unwrap().1;
    100_000 - left.split(';').next().unwrap().parse::<u64>().unwrap()
}

#[tokio::test]
async fn a_rule_is_charged_what_the_models_tokenizer_counts() {
    let (folder, worker) = (tempfile::tempdir().unwrap(), Worker::start(8));
    let file = folder.path().join("tokenizer.json");
    std::fs::write(&file, WORDS).unwrap();
    let dam = Dam::start(&text(&worker, &file));
    // One short, one long enough to be counted on another thread, and another model by its bytes.
    assert_eq!(charged(&dam, "qwen-short", 20).await, 20);
    assert_eq!(charged(&dam, "qwen-long", 2000).await, 2000);
    assert_eq!(charged(&dam, "llama", 20).await, 80);

    // A file that is none changes nothing, and nothing starts with it.
    std::fs::write(&file, "{}").unwrap();
    let fault = dam.app.reload(settings(&text(&worker, &file))).unwrap_err().to_string();
    assert!(fault.starts_with("models[0].tokenizer: ") && fault.contains("is no tokenizer"), "{fault}");
    assert_eq!(charged(&dam, "qwen-again", 20).await, 20);
    assert!(App::new(settings(&text(&worker, &file)), Clock::system()).is_err());
}
