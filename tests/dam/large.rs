//! Large bodies: their beginning is held, the rest passes as it arrives.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use traffic_dam::server::admin::AdminSource;

use super::client::{Conn, PATIENCE, request};
use super::rig::{Dam, Worker, before};

const HELD: &str = "bounds: { held: 4KiB, body: 1MiB, buffered: 1MiB }";

/// Returns a chat of about `length` bytes; `first` and `last` are members before and after its messages.
fn chat(first: &str, length: usize, last: &str) -> String {
    let text = "words ".repeat(length / 6);
    format!(r#"{{{first}"messages":[{{"role":"user","content":"{text}"}}]{last}}}"#)
}

fn post(path: &str, body: &str) -> Vec<u8> {
    request(&format!("POST {path}"), &["content-type: application/json"], body)
}

/// A worker whose every byte the test reads and writes.
struct RawWorker(TcpListener);

impl RawWorker {
    async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (Self(listener), addr)
    }

    async fn accept(&self) -> TcpStream {
        timeout(PATIENCE, self.0.accept()).await.expect("a connection").unwrap().0
    }
}

/// Reads until `what` holds for all that came.
async fn read_until(socket: &mut TcpStream, read: &mut Vec<u8>, what: impl Fn(&[u8]) -> bool) {
    while !what(read) {
        let count = timeout(PATIENCE, socket.read_buf(read)).await.expect("more bytes").unwrap();
        assert!(count > 0, "the gateway closed the connection");
    }
}

const ANSWER: &str = r#"{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"}}],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}"#;

#[tokio::test]
async fn the_worker_has_the_beginning_before_the_client_sends_the_end() {
    let (worker, addr) = RawWorker::start().await;
    let dam = Dam::start(&before(&[format!("{{ id: w1, url: \"http://{addr}\", slots: 8 }}")], HELD));
    let body = chat(r#""model":"sim","#, 900_000, r#","stream":false"#);
    let sent = post("/v1/chat/completions", &body);
    let (first, last) = sent.split_at(600_000);
    let mut client = Conn::open(dam.addr).await;
    client.send(first).await.unwrap();

    let mut at_worker = worker.accept().await;
    let mut read = Vec::new();
    read_until(&mut at_worker, &mut read, |read| read.len() > 500_000).await;
    let buffered = dam.app.state()["buffered_bytes"].as_u64().unwrap();
    assert!((4096..200_000).contains(&buffered), "no more is held than the beginning: {buffered}");
    client.send(last).await.unwrap();
    read_until(&mut at_worker, &mut read, |read| read.ends_with(b"\"stream\":false}")).await;
    let head = read.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(&read[head..], body.as_bytes());
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    at_worker.write_all(answer.as_bytes()).await.unwrap();
    assert_eq!(client.answer().await.unwrap().text(), ANSWER);
    dam.idle().await;
}

#[tokio::test]
async fn two_large_bodies_fit_where_one_would_fill_all_memory() {
    let worker = Worker::start(8);
    let dam =
        Dam::start(&before(&[worker.entry("w1", 8)], "bounds: { held: 4KiB, body: 64KiB, buffered: 64KiB }"));
    for (path, more) in [("/v1/chat/completions", ""), ("/v1/messages", r#","max_tokens":4"#)] {
        let body = chat(r#""model":"sim","#, 50_000, more);
        let sent = post(path, &body);
        let mut clients = [Conn::open(dam.addr).await, Conn::open(dam.addr).await];
        for client in &mut clients {
            client.send(&sent[..45_000]).await.unwrap();
        }
        for client in &mut clients {
            client.send(&sent[45_000..]).await.unwrap();
            let answer = client.answer().await.unwrap();
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        }
        assert_eq!(worker.last().await["body"].as_str().unwrap(), body);
    }
    // The model comes last, so all is read; two of the same caller do not fit at once.
    let body = chat("", 50_000, r#","model":"sim""#);
    let answer = dam.ask(post("/v1/chat/completions", &body)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(worker.last().await["body"].as_str().unwrap(), body);
    let mut first = Conn::open(dam.addr).await;
    first.send(&post("/v1/chat/completions", &body)[..45_000]).await.unwrap();
    super::rig::eventually("most of the first body", async || {
        dam.app.state()["buffered_bytes"].as_u64().unwrap() > 40_000
    })
    .await;
    let second = dam.ask(post("/v1/chat/completions", &body)).await;
    assert_eq!((second.status, second.reason()), (503, "overloaded"), "{}", second.text());
    drop(first);
    dam.idle().await;
}

#[tokio::test]
async fn what_the_rest_may_not_say_cuts_it() {
    let worker = Worker::start(8);
    let dam =
        Dam::start(&before(&[worker.entry("w1", 8)], &format!("{HELD}\nmedia: {{ urls: [example.org] }}")));
    let picture = r#","messages2":[],"n":1"#;
    let allowed = chat(r#""model":"sim","#, 100_000, picture);
    assert_eq!(dam.ask(post("/v1/chat/completions", &allowed)).await.status, 200);
    for (last, message) in [
        (r#","model":"other""#, "'model' is given more than once."),
        (r#","n":2"#, "'n' must come before the messages in a body of more than `bounds.held`."),
        (r#","system":[{"image_url":"https://evil.test/a.png"}]"#, "media.urls"),
    ] {
        let mut client = Conn::open(dam.addr).await;
        let body = chat(r#""model":"sim","#, 300_000, last);
        let answer = client.ask(post("/v1/chat/completions", &body)).await.unwrap();
        assert_eq!((answer.status, answer.reason()), (400, "bad_request"), "{last}: {}", answer.text());
        assert!(answer.refusal().3.contains(message), "{}", answer.text());
    }
    dam.idle().await;
}

#[tokio::test]
async fn as_long_as_nothing_was_sent_another_worker_or_model_takes_it() {
    let (dead, addr) = RawWorker::start().await;
    drop(dead);
    let worker = Worker::serving("small", 8);
    let entries = [
        format!("{{ id: dead, url: \"http://{addr}\", slots: 8, pool: large, model: large }}"),
        format!("{{ id: w1, url: \"http://{}\", slots: 8, pool: small, model: small }}", worker.addr),
    ];
    let more =
        format!("{HELD}\nmodels: [{{ model: assistant, serve: large, fallback: [{{ model: small }}] }}]");
    let dam = Dam::start(&before(&entries, &more));
    let body = |model: &str| chat(&format!(r#""model":"{model}","#), 50_000, r#","max_tokens":2"#);
    let answer = dam.ask(post("/v1/messages", &body("assistant"))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(worker.last().await["body"].as_str().unwrap(), body("small"));
    assert_eq!(dam.metric("fallback_total", "reason=\"failed\""), 1.0);

    // Once it was sent, it cannot be sent again.
    worker.fault("status:503", 1).await;
    let answer = dam.ask(post("/v1/messages", &body("small"))).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    dam.idle().await;
}

#[tokio::test]
async fn a_rule_in_tokens_reserves_what_is_in_the_body() {
    let worker = Worker::start(8);
    let rule = "limits: [{ name: hour, algorithm: sliding_window, per: caller, unit: tokens, limit: 10000, window: 1h }]";
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], &format!("{HELD}\n{rule}")));
    // A picture is no text, wherever the body is cut.
    let data = "A".repeat(400_000);
    let picture = format!(
        r#"{{"model":"sim","max_tokens":4,"messages":[{{"role":"user","content":[{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{data}"}}}},{{"type":"text","text":"What is it?"}}]}}]}}"#
    );
    let answer = dam.ask(post("/v1/messages", &picture)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = dam.ask(post("/v1/messages", &chat(r#""model":"sim","max_tokens":4,"#, 100_000, ""))).await;
    assert_eq!((text.status, text.reason()), (400, "request_too_large"));
    dam.idle().await;
}

#[tokio::test]
async fn each_kind_has_a_bound_of_its_own() {
    let worker = Worker::start(8);
    let bounds = "kinds: [messages, count, audio]
bounds: { body: 16KiB, bodies: { messages: 8KiB, audio: 32KiB, count: 2KiB } }";
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], bounds));
    for (path, length, setting) in [
        ("/v1/messages", 9_000, "`bounds.bodies.messages`"),
        ("/v1/chat/completions", 17_000, "`bounds.body`"),
        ("/v1/audio/speech", 33_000, "`bounds.bodies.audio`"),
        ("/tokenize", 3_000, "`bounds.bodies.count`"),
    ] {
        let refused = dam.ask(post(path, &chat(r#""model":"sim","#, length, ""))).await;
        assert_eq!((refused.status, refused.reason()), (413, "body_too_large"), "{path}");
        assert!(refused.json()["error"]["message"].as_str().unwrap().contains(setting), "{}", refused.text());
        let served = dam.ask(post(path, &chat(r#""model":"sim","max_tokens":2,"#, length / 2, ""))).await;
        assert_eq!(served.status, 200, "{path}: {}", served.text());
    }
    dam.idle().await;
}
