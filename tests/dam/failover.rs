//! A worker that fails before the first content is replaced; after it, the client gets an error.

use std::sync::Arc;

use super::client::{Conn, ask, chat, request};
use super::rig::{Dam, Worker, before, eventually};

const TWO: &str = "
  timeouts: { first_token: 500ms, idle: 500ms }
  retry: { max: 1, budget: 1.0 }
  ejection: { mode: off }";

#[tokio::test]
async fn before_the_first_content_another_worker_answers() {
    let workers = [Worker::start(8), Worker::start(8)];
    let entries = [workers[0].entry("w1", 8), workers[1].entry("w2", 8)];
    let dam = Dam::start(&before(&entries, TWO));
    let own = ask(workers[1].addr, chat("same", true, 5, &[])).await;
    for (bad, good) in [(0, 1), (1, 0)] {
        for fault in
            ["die", "die-after-headers", "hang", "hang-after-headers", "status:503", "status:429", "break:0"]
        {
            workers[bad].fault(fault, 100).await;
            let before = workers[bad].tally("received").await;
            // The first worker is drawn at random: repeat until it was the bad one.
            while workers[bad].tally("received").await == before {
                let answer = dam.ask(chat("same", true, 5, &[])).await;
                assert_eq!((answer.status, answer.whole), (200, true), "{fault}: {}", answer.text());
                assert_eq!(answer.body.len(), own.body.len(), "nothing of the failed attempt is left");
                assert!(answer.text().ends_with("data: [DONE]\n\n"));
                if matches!(fault, "die" | "status:503" | "status:429") {
                    let whole = dam.ask(chat("same", false, 5, &[])).await;
                    assert_eq!(whole.status, 200, "{fault}: {}", whole.text());
                }
            }
            workers[bad].fault("die", 0).await;
            assert!(workers[good].tally("finished").await > 0);
            dam.idle().await;
        }
    }
}

#[tokio::test]
async fn a_worker_that_is_gone_costs_nobody_anything() {
    let workers = [Worker::start(8), Worker::start(8)];
    let dam = Dam::start(&before(&[workers[0].entry("w1", 8), workers[1].entry("w2", 8)], TWO));
    let [gone, stays] = workers;
    for _ in 0..6 {
        assert_eq!(dam.ask(chat("a", true, 2, &[])).await.status, 200);
    }
    gone.kill().await;
    for _ in 0..30 {
        let answer = dam.ask(chat("a", true, 2, &[])).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert!(stays.tally("finished").await >= 30);
    dam.idle().await;
}

#[tokio::test]
async fn without_an_alternative_the_workers_own_answer_passes() {
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], TWO));
    for status in [429, 503, 500] {
        let answer = dam.ask(chat("a", true, 2, &[&format!("x-sim-fault: status:{status}")])).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.json()["error"]["message"], "a simulated fault");
    }
    for (fault, status, reason) in [
        ("die", 502, "upstream_broke"),
        ("die-after-headers", 502, "upstream_broke"),
        ("hang", 504, "upstream_timeout"),
        ("hang-after-headers", 504, "upstream_timeout"),
    ] {
        let answer = dam.ask(chat("a", true, 2, &[&format!("x-sim-fault: {fault}")])).await;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{fault}");
        assert!(answer.refusal().3.contains("w1"), "{}", answer.text());
    }
    worker.kill().await;
    let answer = dam.ask(chat("a", true, 2, &[])).await;
    assert_eq!((answer.status, answer.reason()), (502, "upstream_unreachable"));
    dam.idle().await;
}

#[tokio::test]
async fn after_the_first_content_a_stream_ends_with_an_error_event() {
    let workers = [Worker::start(8), Worker::start(8)];
    let entries = [workers[0].entry("w1", 8), workers[1].entry("w2", 8)];
    let rule =
        "\nlimits: [{ name: t, algorithm: token_bucket, per: all, unit: tokens, rate: 1/s, burst: 100000 }]";
    for more in ["", rule] {
        let dam = Dam::start(&before(&entries, &format!("{TWO}{more}")));
        for (fault, code) in [
            ("break:3", "upstream_broke"),
            ("stall:3", "upstream_timeout"),
            ("chunk:9,break:3", "upstream_broke"),
        ] {
            let received = workers[0].tally("received").await + workers[1].tally("received").await;
            let answer = dam.ask(chat("a", true, 9, &[&format!("x-sim-fault: {fault}")])).await;
            assert_eq!((answer.status, answer.whole), (200, true), "{fault}");
            let text = answer.text();
            assert!(text.contains("\"content\":\"The\"") && !text.contains("[DONE]"), "{text}");
            let last = text.trim_end().rsplit("\n\n").next().unwrap();
            let error: serde_json::Value =
                serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(error["error"]["code"], code, "{fault}");
            assert!(error["error"]["message"].as_str().unwrap().contains("Worker w"));
            let now = workers[0].tally("received").await + workers[1].tally("received").await;
            assert_eq!(now, received + 1, "it was not run twice");
        }
        // The gateway does not change the worker's own error event.
        let asked = chat("a", true, 9, &["x-sim-fault: error-event:2"]);
        let own = ask(workers[0].addr, &asked).await;
        assert_eq!(dam.ask(&asked).await.text(), own.text());
        dam.idle().await;
    }
}

#[tokio::test]
async fn a_call_that_leaves_something_behind_is_not_run_twice() {
    let workers = [Worker::start(8), Worker::start(8)];
    for (store, attempts) in [("", 1), (",\"store\":true", 1), (",\"store\":false", 2)] {
        // A new gateway, which remembers none of the failures.
        let dam = Dam::start(&before(&[workers[0].entry("w1", 8), workers[1].entry("w2", 8)], TWO));
        let body = format!("{{\"input\":\"Hi\"{store}}}");
        let asked = request("POST /v1/responses", &["x-sim-fault: die"], body);
        let received = workers[0].tally("received").await + workers[1].tally("received").await;
        let answer = dam.ask(asked).await;
        assert_eq!((answer.status, answer.reason()), (502, "upstream_broke"));
        assert_eq!(
            workers[0].tally("received").await + workers[1].tally("received").await,
            received + attempts
        );
        dam.idle().await;
    }
}

#[tokio::test]
async fn a_request_that_lost_its_worker_waits_for_another_that_is_full() {
    let workers = [Worker::start(1), Worker::start(1)];
    let more = "
  retry: { max: 1, budget: 1.0 }
concurrency: { fleet_factor: 1.0, queue: { wait: 20s } }";
    let dam = Arc::new(Dam::start(&before(&[workers[0].entry("w1", 1), workers[1].entry("w2", 1)], more)));
    workers[0].fault("hang", 1).await;
    let asked = ["a", "b"].map(|body| {
        let dam = Arc::clone(&dam);
        tokio::spawn(async move { dam.ask(chat(body, true, 1500, &[])).await })
    });
    workers[0].busy_with(1).await;
    workers[1].busy_with(1).await;
    let [dies, stays] = workers;
    dies.kill().await;
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.whole), (200, true), "{}", answer.text());
    }
    assert_eq!(stays.tally("finished").await, 2);
    dam.idle().await;
}

#[tokio::test]
async fn a_worker_that_is_silent_on_all_its_streams_gets_nothing_new_until_it_speaks_again() {
    let workers = [Worker::start(8), Worker::start(8)];
    let more = "\n  retry: { max: 1, budget: 1.0 }";
    let dam = Arc::new(Dam::start(&before(&[workers[0].entry("w1", 8), workers[1].entry("w2", 8)], more)));
    workers[0].fault("stall:3", 1000).await;
    let mut hung = Vec::new();
    while workers[0].tally("in_flight").await < 2 {
        let mut client = Conn::open(dam.addr).await;
        client.send(chat("a", true, 4, &[])).await.unwrap();
        client.see("\"content\":\"The\"").await.unwrap();
        hung.push(client);
    }
    // Half-dead: its health check succeeds, and it accepts requests.
    eventually("it is noticed", async || dam.metric("worker_light", "worker=\"w1\"") == 0.0).await;
    let received = workers[0].tally("received").await;
    for _ in 0..10 {
        assert_eq!(dam.ask(chat("a", true, 2, &[])).await.status, 200);
    }
    assert_eq!(workers[0].tally("received").await, received);
    workers[0].fault("stall:3", 0).await;
    // Hung requests count as load: the worker is tried again when they are gone.
    drop(hung);
    eventually("it is tried again", async || {
        assert_eq!(dam.ask(chat("a", true, 2, &[])).await.status, 200);
        workers[0].tally("received").await > received
    })
    .await;
    eventually("it is well", async || dam.metric("worker_light", "worker=\"w1\"") == 2.0).await;
    dam.idle().await;
}
