//! Reused connections that end while the next request is written on them.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use traffic_dam::refusal::Reason;
use traffic_dam::request::{Ending, Payload, RequestCost};
use traffic_dam::upstream::{RetrySettings, UpstreamSettings, UpstreamTimeouts};

use crate::rig::{Dam, Worker, answer, assert_freed, chat, flight_of, streaming, text};

/// Settings without retries: a request is sent again only for another reason. A busy machine has
/// enough time to end a connection.
fn without_retries() -> UpstreamSettings {
    let defaults = UpstreamSettings::default();
    let timeouts = UpstreamTimeouts { connect: Duration::from_secs(600), ..defaults.timeouts };
    UpstreamSettings { retry: RetrySettings { max: 0, budget: 0.0 }, timeouts, ..defaults }
}

/// A worker that answers the first request on each connection. After the second it sends `last`,
/// and ends the connection: by a reset, or properly.
async fn ending(reset: bool, last: &'static str) -> Worker {
    Worker::new(move |mut conn| async move {
        conn.request().await;
        conn.send(answer(200, "ok")).await;
        if conn.request().await.is_some() {
            conn.send(last).await;
            if reset {
                conn.reset();
            }
        }
    })
    .await
}

/// Returns an upstream for that worker, with a connection that was used once.
async fn with_a_kept_connection(worker: &Worker) -> Dam {
    let dam = Dam::new(vec![worker.spec("w1")], without_retries());
    assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, "ok");
    dam
}

fn path(method: Method, body: Payload) -> Request<Payload> {
    Request::builder().method(method).uri("/x").extension(RequestCost::path()).body(body).unwrap()
}

#[tokio::test]
async fn what_went_out_on_a_dying_connection_goes_out_again_on_a_new_one() {
    for reset in [true, false] {
        let worker = ending(reset, "").await;
        let nothing = Empty::<Bytes>::new().map_err(|never: Infallible| match never {}).boxed_unsync();
        for mut request in [
            chat(false, true),
            path(Method::PUT, Payload::from(Bytes::from_static(b"whole"))),
            path(Method::GET, Payload::streaming(Default::default(), nothing)),
        ] {
            let dam = with_a_kept_connection(&worker).await;
            let (before, record) = (worker.asked().len(), flight_of(&mut request));
            assert_eq!(text(dam.send("w1", request).await.unwrap()).await, "ok");
            assert_freed(&dam, &record, Ending::Complete).await;
            let asked = worker.asked();
            assert_eq!(asked.len(), before + 2);
            assert_eq!(asked[before].head, asked[before + 1].head);
            assert_eq!(asked[before].body, asked[before + 1].body);
        }
    }
}

#[tokio::test]
async fn what_may_not_run_twice_is_not_sent_again() {
    let worker = ending(true, "").await;
    for request in [
        chat(false, false),
        path(Method::PUT, streaming(vec![Ok("a"), Ok("b")])),
        path(Method::PATCH, Payload::from(Bytes::from_static(b"b"))),
    ] {
        let dam = with_a_kept_connection(&worker).await;
        let before = worker.asked().len();
        let refusal = dam.send("w1", request).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::UpstreamBroke);
        assert_eq!(
            refusal.message,
            "Worker w1 closed an idle connection just as the request was written on it."
        );
        assert_eq!(worker.asked().len(), before + 1);
    }
}

#[tokio::test]
async fn what_was_answered_in_part_is_not_sent_again() {
    let worker = ending(false, "HTTP/1.1 200 OK\r\ncontent-le").await;
    let dam = with_a_kept_connection(&worker).await;
    let refusal = dam.send("w1", chat(false, true)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::UpstreamBroke);
    assert_eq!(worker.asked().len(), 2);
}

#[tokio::test]
async fn a_request_is_sent_again_once() {
    let worker = Worker::new(|mut conn| async move {
        // Only requests for a path are answered.
        while conn.request().await.is_some_and(|asked| asked.head.starts_with("GET")) {
            conn.send(answer(200, "ok")).await;
        }
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], without_retries());
    let sent = dam.send("w1", path(Method::GET, Payload::empty())).await;
    assert_eq!(text(sent.unwrap()).await, "ok");
    let refusal = dam.send("w1", chat(false, true)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::UpstreamBroke);
    assert_eq!((worker.asked().len(), worker.connections.load(Ordering::SeqCst)), (3, 2));
}

#[tokio::test]
async fn a_connection_that_had_been_idle_says_nothing_of_its_worker() {
    let (worker, other) = (ending(false, "").await, Worker::saying(answer(200, "other")).await);
    for (repeatable, passes) in [(true, true), (false, false)] {
        let dam = Dam::new(vec![worker.spec("w1"), other.spec("w2")], without_retries());
        assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, "ok");
        assert_eq!(dam.send("w1", chat(false, repeatable)).await.is_ok(), passes);
        assert_eq!(&*dam.permit("w1").worker(), "w1", "it is not put aside");
    }
    assert_eq!(other.asked().len(), 0);
}

#[tokio::test]
async fn a_worker_whose_kept_connections_die_gets_a_new_one_each_time() {
    let worker = ending(false, "").await;
    let dam = with_a_kept_connection(&worker).await;
    for _ in 0..4 {
        assert_eq!(text(dam.send("w1", chat(false, true)).await.unwrap()).await, "ok");
    }
    assert_eq!(worker.asked().len(), 1 + 4 * 2);
    for _ in 0..10 {
        // None of these may run twice, and none is lost.
        assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, "ok");
    }
    assert_eq!(worker.asked().len(), 9 + 10);
}
