//! Prompts that are counted with their model's tokenizer.

use std::path::Path;

use traffic_dam::app::App;
use traffic_dam::clock::Clock;

use super::client::request;
use super::rig::{Dam, Worker, before, settings};

/// Each word is one token, however long it is.
const WORDS: &str =
    r#"{"model":{"type":"WordLevel","vocab":{"?":0},"unk_token":"?"},"pre_tokenizer":{"type":"Whitespace"}}"#;

fn text(worker: &Worker, file: &Path) -> String {
    let rest = format!(
        "models: [{{ model: \"qwen*\", tokenizer: \"{}\" }}]
callers: {{ from: [{{ header: x-user }}], trusted_proxies: [127.0.0.1/32] }}
limits: [{{ name: tokens, algorithm: token_bucket, unit: tokens, per: caller, rate: 100/h, burst: 100000 }}]",
        file.display()
    );
    before(&[worker.entry("w1", 8)], &rest)
}

/// Returns the charge for `words` words, 16 bytes each with the space. Each model has a caller.
async fn charged(dam: &Dam, model: &str, words: usize) -> u64 {
    let body = serde_json::json!({ "model": model, "input": "backpressurised ".repeat(words) }).to_string();
    let answer = dam.ask(request("POST /v1/embeddings", &[&format!("x-user: {model}")], body)).await;
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
    // A short prompt, one long enough for another thread, and a model counted by bytes.
    assert_eq!(charged(&dam, "qwen-short", 20).await, 20);
    assert_eq!(charged(&dam, "qwen-long", 2000).await, 2000);
    assert_eq!(charged(&dam, "llama", 20).await, 80);

    // A file that is not a tokenizer changes nothing on a reload, and prevents a start.
    std::fs::write(&file, "{}").unwrap();
    let fault = dam.app.reload(settings(&text(&worker, &file))).unwrap_err().to_string();
    assert!(
        fault.starts_with("models[0].tokenizer: ") && fault.contains("is not a tokenizer file"),
        "{fault}"
    );
    assert_eq!(charged(&dam, "qwen-again", 20).await, 20);
    assert!(App::new(settings(&text(&worker, &file)), Clock::system()).is_err());
}

/// Returns the statuses of calls for these models; an empty name leaves the model out.
async fn asked(dam: &Dam, models: &[&str]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for model in models {
        let body = format!(r#"{{"model":"{model}","messages":[],"max_tokens":1}}"#);
        let body = if model.is_empty() { r#"{"messages":[],"max_tokens":1}"#.to_owned() } else { body };
        statuses.push(dam.ask(request("POST /v1/chat/completions", &[], body)).await.status);
    }
    statuses
}

#[tokio::test]
async fn names_that_callers_invent_open_no_quota_and_none_leads_past_a_rule() {
    let (big, any) = (Worker::start(8), Worker::start(8));
    let entry = |worker: &Worker, id: &str, model: &str| {
        worker.entry(id, 8).replace(" }", &format!(", pool: {id}, model: \"{model}\" }}"))
    };
    let rule = |more: &str| {
        format!("limits: [{{ name: few, algorithm: token_bucket, per: caller, rate: 1/h, burst: 1{more} }}]")
    };
    let each = rule("").replace("per: caller", "per: [caller, model]");
    let dam = Dam::start(&before(&[entry(&any, "w1", "*"), entry(&big, "w2", "big")], &each));
    assert_eq!(asked(&dam, &["a", "b", "c", "", "big", "big"]).await, [200, 429, 429, 429, 200, 429]);

    let dam = Dam::start(&before(&[entry(&big, "w1", "big*")], &rule(", match: { model: \"big-70b\" }")));
    assert_eq!(asked(&dam, &["big-8b", "big-8b", "big-70b", "", "big-70b"]).await, [200, 200, 200, 429, 429]);
    let dam = Dam::start(&before(&[entry(&any, "w1", "small")], &rule(", match: { model: \"big*\" }")));
    assert_eq!(asked(&dam, &["", "", "small"]).await, [200; 3]);
}

#[tokio::test]
async fn tokens_are_summed_up_when_nobody_reports_them_and_a_question_expects_an_answer() {
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], ""));
    assert_eq!(dam.ask(super::client::chat("plain", true, 7, &[])).await.status, 200);
    dam.idle().await;
    assert_eq!(dam.metric("tokens_total", "output"), 7.0);
    assert!(dam.metric("tokens_total", "prompt") > 0.0);

    let rule =
        "limits: [{ name: t, algorithm: token_bucket, per: caller, unit: tokens, rate: 1/h, burst: 300 }]";
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], rule));
    let explained = async |more: &str| {
        let question = format!("/api/v1/explain?caller=key:a&prompt_tokens=50{more}");
        let answer = super::client::ask(dam.admin, super::client::get(&question)).await.json();
        answer["rules"][0]["amount"].as_u64().unwrap()
    };
    assert_eq!(explained("").await, 300, "256 are expected, and no more than it holds are charged");
    assert_eq!(explained("&max_tokens=20").await, 70);
    assert_eq!(explained("&output_tokens=9").await, 59);
    assert_eq!(explained("&path=/v1/embeddings").await, 50);
}

#[tokio::test]
async fn a_question_is_matched_to_a_path_as_the_request_is() {
    let worker = Worker::start(8);
    let rules = "paths: [\"/files/*\"]
routes: [{ path: \"/bots/*\", kind: chat }]
limits: [{ name: few, algorithm: token_bucket, per: [caller, route], rate: 1/h, burst: 3 }]";
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], rules));
    let left = async |path: &str| {
        let question = format!("/api/v1/explain?caller=ip:127.0.0.1&path={path}");
        let answer = super::client::ask(dam.admin, super::client::get(&question)).await.json();
        answer["rules"][0]["remaining"].as_u64().unwrap()
    };
    let body = r#"{"messages":[],"max_tokens":1}"#;
    for (path, others) in [("POST /bots/a", "/bots/b"), ("POST /files/a", "/files/b%20c")] {
        assert_eq!(left(others).await, 3);
        dam.ask(request(path, &[], body)).await;
        assert_eq!(left(others).await, 2, "{others} counts where {path} does");
    }
    assert_eq!(left("/nowhere").await, 3);
}
