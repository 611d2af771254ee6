//! Workers that fail requests which other workers can serve.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use traffic_dam::server::admin::AdminSource;

use super::client::{chat, request};
use super::rig::{Dam, Worker, before, eventually};

/// Sequential requests per case.
const REQUESTS: u32 = 200;

fn four() -> (Vec<Worker>, String) {
    let workers: Vec<_> = (0..4).map(|_| Worker::start(8)).collect();
    let entries: Vec<_> =
        (0..).zip(&workers).map(|(at, worker)| worker.entry(&format!("w{at}"), 8)).collect();
    let text = before(&entries, "");
    (workers, text)
}

/// Sends requests one after the other; returns how many were not served completely.
async fn failed(dam: &Dam, fields: &[&str]) -> u32 {
    let mut failed = 0;
    for number in 0..REQUESTS {
        let answer = dam.ask(chat(&number.to_string(), true, 5, fields)).await;
        failed += u32::from(answer.status != 200 || !answer.text().contains("data: [DONE]"));
    }
    failed
}

#[tokio::test]
async fn a_worker_that_fails_fast_does_not_draw_the_load() {
    for (fault, hidden) in [
        ("status:500", true),
        ("status:502", true),
        ("status:503", true),
        ("status:429", true),
        ("break:3", false),
    ] {
        let (workers, text) = four();
        let dam = Dam::start(&text);
        workers[0].fault(fault, 10_000).await;
        let failed = failed(&dam, &[]).await;
        let got = workers[0].tally("received").await;
        // An equal share would be 50. A slow machine tries it more often.
        assert!(got < 25, "{fault}: it got {got} of {REQUESTS}");
        assert!(failed == 0 || !hidden && u64::from(failed) <= got, "{fault}: {failed} failed");
        let light = || dam.metric("worker_light", "w0");
        assert_eq!(light(), 0.0, "{fault}");
        let state = dam.app.state();
        assert!(state["pools"][0]["workers"][0]["trouble"].is_string(), "{fault}: {state}");
        workers[0].fault("die", 0).await;
        eventually("it is well again", async || {
            dam.ask(chat("again", true, 2, &[])).await;
            light() == 2.0
        })
        .await;
    }
}

#[tokio::test]
async fn a_request_without_a_permit_avoids_a_worker_in_trouble() {
    for fault in ["status:500", "status:503", "killed"] {
        let (mut workers, text) = four();
        let dam = Dam::start(&text);
        let bad = workers.remove(0);
        let bad = if fault == "killed" {
            bad.kill().await;
            None
        } else {
            bad.fault(fault, 10_000).await;
            Some(bad)
        };
        let mut number = 0;
        eventually("it is red", async || {
            number += 1;
            dam.ask(chat(&number.to_string(), true, 2, &[])).await;
            dam.metric("worker_light", "w0") == 0.0
        })
        .await;
        let received = async || match &bad {
            Some(worker) => worker.tally("received").await,
            None => 0,
        };
        let before = received().await;
        for number in 0..60 {
            let body = format!(r#"{{"model":"sim","prompt":"{number}"}}"#);
            let answer = dam.ask(request("POST /tokenize", &[], body)).await;
            assert_eq!(answer.status, 200, "{fault}: {number}: {}", answer.text());
        }
        assert_eq!(received().await, before, "{fault}");
    }
}

#[tokio::test]
async fn a_worker_in_trouble_serves_requests_without_a_permit_if_it_is_the_only_one() {
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[worker.entry("w0", 8)], ""));
    worker.fault("status:500", 5).await;
    eventually("it is red", async || {
        dam.ask(chat("a", true, 2, &[])).await;
        dam.metric("worker_light", "w0") == 0.0
    })
    .await;
    assert_eq!(dam.ask(request("POST /tokenize", &[], r#"{"model":"sim","prompt":"a"}"#)).await.status, 200);
}

#[tokio::test]
async fn a_prompt_that_fails_anywhere_ejects_nobody() {
    let (_workers, text) = four();
    let dam = Dam::start(&text);
    assert_eq!(failed(&dam, &["x-sim-fault: status:500"]).await, REQUESTS);
    assert_eq!(failed(&dam, &["x-sim-fault: die"]).await, REQUESTS);
    assert_eq!(dam.metric("worker_light", ""), 8.0);
    assert_eq!(dam.ask(chat("a", true, 2, &[])).await.status, 200);
}

#[tokio::test]
async fn a_page_is_no_answer_of_a_model() {
    answers_that_are_none("content-type: text/html\r\ncontent-length: 7\r\n\r\nSign in").await;
}

#[tokio::test]
async fn an_answer_in_a_coding_that_nobody_asked_for_is_none() {
    answers_that_are_none(
        "content-type: application/json\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    )
    .await;
}

async fn answers_that_are_none(rest: &'static str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let portal = tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let page = format!("HTTP/1.1 200 OK\r\n{rest}");
                let mut heard = [0; 4096];
                while connection.read(&mut heard).await.is_ok_and(|count| count > 0) {
                    connection.write_all(page.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let entry = format!("{{ id: portal, url: \"{url}\" }}");
    let alone = Dam::start(&before(std::slice::from_ref(&entry), ""));
    for stream in [true, false] {
        let answer = alone.ask(chat("a", stream, 2, &[])).await;
        assert_eq!((answer.status, answer.reason()), (502, "upstream_broke"), "{}", answer.text());
        assert!(answer.refusal().3.contains("portal"), "{}", answer.text());
    }
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[entry, worker.entry("w1", 8)], ""));
    for number in 0..50 {
        let answer = dam.ask(chat(&number.to_string(), number % 2 == 0, 2, &[])).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(dam.metric("worker_ejected", "portal"), 1.0);
    portal.abort();
}
