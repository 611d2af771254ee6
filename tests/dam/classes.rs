//! A critical request takes the permit of a batch request whose answer has not begun.

use std::sync::Arc;

use super::client::chat;
use super::rig::{Dam, Worker, before, eventually};

const CLASSES: &str = "
  retry: { max: 0, budget: 0.1 }
callers: { default_class: critical }
";
const BATCH: &str = "x-traffic-dam-class: batch";

#[tokio::test]
async fn the_batch_request_waits_again_and_is_answered_later() {
    for stream in [true, false] {
        let worker = Worker::start(1);
        let more = format!("{CLASSES}concurrency: {{ queue: {{ length: 4, wait: 20s }} }}");
        let dam = Arc::new(Dam::start(&before(&[worker.entry("w1", 1)], &more)));
        worker.fault("hang", 1).await;
        let slow = Arc::clone(&dam);
        let batch = tokio::spawn(async move { slow.ask(chat("a", stream, 3, &[BATCH])).await });
        worker.busy_with(1).await;

        let critical = dam.ask(chat("b", true, 3, &[])).await;
        assert_eq!((critical.status, critical.whole), (200, true), "{}", critical.text());
        let batch = batch.await.unwrap();
        assert_eq!((batch.status, batch.whole), (200, true), "{}", batch.text());
        assert_eq!(worker.tally("received").await, 3, "the batch request was sent twice");
        worker.busy_with(0).await;
        dam.idle().await;
        assert_eq!(dam.metric("requests_total", "outcome=\"complete\""), 2.0);
    }
}

#[tokio::test]
async fn without_a_place_in_the_queue_it_is_told_why() {
    let worker = Worker::start(1);
    let more = format!(
        "{CLASSES}concurrency: {{ queue: {{ length: 0 }} }}
limits: [{{ name: calls, algorithm: sliding_log, per: all, limit: 5, window: 1h }}]"
    );
    let dam = Arc::new(Dam::start(&before(&[worker.entry("w1", 1)], &more)));
    worker.fault("hang", 1).await;
    let slow = Arc::clone(&dam);
    let batch = tokio::spawn(async move { slow.ask(chat("a", true, 3, &[BATCH])).await });
    worker.busy_with(1).await;

    let critical = dam.ask(chat("b", true, 3, &[])).await;
    assert_eq!((critical.status, critical.whole), (200, true), "{}", critical.text());
    let batch = batch.await.unwrap();
    assert_eq!((batch.status, batch.reason()), (503, "overloaded"));
    assert!(batch.refusal().3.contains("took this request's slot"), "{}", batch.text());
    assert!(batch.number("retry-after") >= 1);
    dam.idle().await;
    // A refused request is not charged: one call of five is used.
    let next = dam.ask(chat("c", true, 3, &[])).await;
    assert_eq!(next.number("x-ratelimit-remaining-requests"), 3);
}

#[tokio::test]
async fn a_client_that_leaves_while_its_request_waits_again_leaves_nothing() {
    let worker = Worker::start(1);
    let more = format!("{CLASSES}concurrency: {{ queue: {{ length: 4, wait: 20s }} }}");
    let dam = Arc::new(Dam::start(&before(&[worker.entry("w1", 1)], &more)));
    worker.fault("hang", 2).await;
    let slow = Arc::clone(&dam);
    let batch = tokio::spawn(async move { slow.ask(chat("a", true, 3, &[BATCH])).await });
    worker.busy_with(1).await;
    let slow = Arc::clone(&dam);
    let critical = tokio::spawn(async move { slow.ask(chat("b", true, 3, &[])).await });
    eventually("one holds the permit, one waits", async || dam.held() == 2).await;

    batch.abort();
    assert!(batch.await.unwrap_err().is_cancelled());
    eventually("the waiter is gone", async || dam.held() == 1).await;
    critical.abort();
    assert!(critical.await.unwrap_err().is_cancelled());
    dam.idle().await;
}
