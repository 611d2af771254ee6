//! Answers of every kind, cut at every byte: they pass as they are, and their usage is charged.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client::{Answer, Conn, ask, chat, request};
use super::messages::message;
use super::rig::{Dam, Worker, before};

/// An answer of a kind: its request, content type, body, and the tokens that it reports.
struct Sample {
    name: &'static str,
    asked: Vec<u8>,
    content_type: String,
    body: Vec<u8>,
    tokens: u64,
}

/// Requests of all kinds, with few tokens, so that every byte can be a boundary.
fn asked() -> Vec<(&'static str, Vec<u8>)> {
    let post = |path: &str, body: &str| request(&format!("POST {path}"), &["x-request-id: same"], body);
    let mut all = vec![
        ("embedding", post("/v1/embeddings", r#"{"input":["One","Two"]}"#)),
        ("rerank", post("/v1/rerank", r#"{"query":"four","documents":["one","two"]}"#)),
        ("speech", post("/v1/audio/speech", r#"{"input":"Hi","voice":"alloy"}"#)),
        ("images", post("/v1/images/generations", r#"{"prompt":"a cat"}"#)),
    ];
    for stream in [true, false] {
        let more = format!(r#""stream":{stream},"max_tokens":3,"ignore_eos":true}}"#);
        let usage = format!(r#"{{"messages":[],"stream_options":{{"include_usage":true}},{more}"#);
        let tool = r#","thinking":{"type":"enabled"},"tools":[{"name":"now"}],"tool_choice":{"type":"any"}"#;
        all.extend([
            ("chat", chat("same", stream, 3, &[])),
            ("chat that asks for usage", post("/v1/chat/completions", &usage)),
            ("completion", post("/v1/completions", &format!(r#"{{"prompt":"One",{more}"#))),
            ("response", post("/v1/responses", &format!(r#"{{"input":"Hi","store":false,{more}"#))),
            ("message", message("same", stream, 3, "", &[])),
            ("message that calls a tool", message("same", stream, 6, tool, &[])),
        ]);
    }
    all
}

/// A worker that says what it is told, in the pieces that the request names (`x-cuts`).
async fn replay(answers: Arc<HashMap<String, (String, Vec<u8>)>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(replay_on(connection, Arc::clone(&answers)));
        }
    });
    addr
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

async fn replay_on(mut connection: TcpStream, answers: Arc<HashMap<String, (String, Vec<u8>)>>) {
    connection.set_nodelay(true).unwrap();
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if connection.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8(read[..end].to_vec()).unwrap();
        let length: usize = field(&head, "content-length").unwrap().parse().unwrap();
        while read.len() < end + length {
            assert!(connection.read_buf(&mut read).await.unwrap() > 0);
        }
        read.drain(..end + length);
        let (content_type, body) = &answers[field(&head, "x-answer").unwrap()];
        let begin =
            format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n");
        let mut out = vec![begin.into_bytes()];
        let cuts = field(&head, "x-cuts").unwrap().split(',').map(|cut| cut.parse().unwrap());
        let mut from = 0;
        for cut in cuts.chain([body.len()]) {
            if cut > from {
                out.push([format!("{:x}\r\n", cut - from).as_bytes(), &body[from..cut], b"\r\n"].concat());
                from = cut;
            }
        }
        out.push(b"0\r\n\r\n".to_vec());
        for piece in out {
            // Pieces that the gateway reads together it passes on together.
            tokio::task::yield_now().await;
            if connection.write_all(&piece).await.is_err() {
                return;
            }
        }
    }
}

/// Adds fields to the head of a request.
fn with_fields(asked: &[u8], fields: &str) -> Vec<u8> {
    let line = asked.windows(2).position(|window| window == b"\r\n").unwrap() + 2;
    [&asked[..line], fields.as_bytes(), &asked[line..]].concat()
}

/// The tokens that an answer reports.
fn tokens_of(name: &str, answer: &Answer) -> u64 {
    let documents: Vec<serde_json::Value> = match answer.header("content-type").unwrap() {
        "audio/mpeg" => return 0,
        kind if kind.starts_with("text/event-stream") => answer
            .text()
            .lines()
            .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
            .collect(),
        _ => vec![answer.json()],
    };
    let usages = documents.iter().flat_map(|document| {
        [&document["usage"], &document["message"]["usage"], &document["response"]["usage"]]
    });
    let mut sums = [0_u64; 2];
    for usage in usages.filter(|usage| usage.is_object()) {
        let number = |key: &str| usage[key].as_u64().unwrap_or(0);
        let input = number("prompt_tokens") + number("input_tokens") + number("cache_read_input_tokens");
        let output = number("completion_tokens") + number("output_tokens");
        let input = if input + output == 0 { number("total_tokens") } else { input };
        sums = [sums[0].max(input), sums[1].max(output)];
    }
    assert!(sums[0] + sums[1] > 0, "{name}: {}", answer.text());
    // The prompt of pictures is not reported, so the estimate is charged.
    if sums[0] == 0 { 0 } else { sums[0] + sums[1] }
}

async fn samples() -> Vec<Sample> {
    let sim = Worker::start(64);
    let mut samples = Vec::new();
    for (name, asked) in asked() {
        let asks_for_usage = !matches!(name, "chat" | "completion");
        let answer = ask(sim.addr, &asked).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let content_type = answer.header("content-type").unwrap().to_owned();
        let reports = asks_for_usage || !content_type.starts_with("text/event-stream");
        // What is not reported is estimated; that is not the subject here.
        let tokens = if reports { tokens_of(name, &answer) } else { 0 };
        samples.push(Sample { name, asked, content_type, body: answer.body, tokens });
    }
    samples
}

#[tokio::test]
async fn answers_of_every_kind_pass_byte_for_byte_wherever_they_are_cut() {
    let samples = samples().await;
    let answers = samples
        .iter()
        .enumerate()
        .map(|(index, sample)| (index.to_string(), (sample.content_type.clone(), sample.body.clone())));
    let worker = replay(Arc::new(answers.collect())).await;
    let entry = format!("{{ id: w1, url: \"http://{worker}\", slots: 8 }}");
    let dam = Dam::start(&before(&[entry], "kinds: [messages, rerank, audio, images]"));
    let mut conn = Conn::open(dam.addr).await;
    let (mut charged, mut random) = (0, TestRunner::new(Config::default()));
    for (index, sample) in samples.iter().enumerate() {
        let length = sample.body.len();
        let mut cuts: Vec<Vec<usize>> = (0..length).map(|at| vec![at]).collect();
        cuts.extend([1, 2, 3, 7].map(|piece| (0..length).step_by(piece).collect::<Vec<_>>()));
        for _ in 0..64 {
            let random_cuts =
                prop::collection::btree_set(0..length, 1..20).new_tree(&mut random).unwrap().current();
            cuts.push(random_cuts.into_iter().collect());
        }
        for cuts in cuts {
            let list: Vec<_> = cuts.iter().map(ToString::to_string).collect();
            let fields = format!("x-answer: {index}\r\nx-cuts: {}\r\n", list.join(","));
            let answer = conn.ask(with_fields(&sample.asked, &fields)).await.unwrap();
            assert_eq!((answer.status, answer.whole), (200, true), "{} cut at {cuts:?}", sample.name);
            assert!(
                answer.body == sample.body,
                "{} cut at {cuts:?}: {}",
                sample.name,
                String::from_utf8_lossy(&answer.body)
            );
            charged += sample.tokens;
        }
        dam.idle().await;
        if sample.tokens > 0 {
            assert_eq!(dam.metric("tokens_total", ""), charged as f64, "{}", sample.name);
        } else {
            charged = dam.metric("tokens_total", "") as u64;
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_has_used_its_prompt_and_what_had_come() {
    let worker = Worker::start(8);
    let rule = "limits: [{ name: hour, algorithm: sliding_window, per: caller, unit: tokens, limit: 100000, window: 1h }]";
    for (name, asked) in asked() {
        let asked = with_fields(&asked, "x-sim-fault: stall:2\r\n");
        if !String::from_utf8_lossy(&asked).contains(r#""stream":true"#) {
            continue;
        }
        let dam = Dam::start(&before(&[worker.entry("w1", 8)], rule));
        let mut leaves = Conn::open(dam.addr).await;
        leaves.send(asked).await.unwrap();
        assert_eq!(leaves.head().await.unwrap().status, 200);
        // The words of the simulated worker, each a token.
        leaves.see("The").await.unwrap();
        leaves.see(" water").await.unwrap();
        drop(leaves);
        dam.idle().await;
        worker.busy_with(0).await;
        let used = dam.metric("tokens_total", "");
        // At most 16 tokens of prompt, and two of the answer, of up to six.
        assert!((2.0..=18.0).contains(&used), "{name}: {used}");
        let next = dam.ask(request("POST /v1/embeddings", &[], r#"{"input":"x"}"#)).await;
        let left = next.number("x-ratelimit-remaining-tokens") as f64;
        assert!((100_000.0 - used - 8.0..=100_000.0 - used).contains(&left), "{name}: {left}");
    }
}
