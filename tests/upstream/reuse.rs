//! Kept connections that end as the next request is written on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request};
use traffic_dam::refusal::Reason;
use traffic_dam::request::{Demand, Ending, Payload};
use traffic_dam::upstream::{RetrySettings, UpstreamSettings};

use crate::rig::{Dam, Worker, answer, assert_freed, chat, eventually, flight_of, streaming, text};

/// No retry: what goes out again does so for another reason.
fn without_retries() -> UpstreamSettings {
    UpstreamSettings { retry: RetrySettings { max: 0, budget: 0.0 }, ..UpstreamSettings::default() }
}

/// A worker that answers the first request on each connection, and ends the connection with the second: by a reset or
/// in order, after it has said `last`.
async fn ending(reset: bool, last: &'static str) -> Worker {
    Worker::new(move |mut conn| async move {
        if conn.request().await.is_none() {
            return;
        }
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

fn put(body: Payload) -> Request<Payload> {
    Request::put("/x").extension(Demand::path()).body(body).unwrap()
}

#[tokio::test]
async fn what_goes_out_on_a_dying_connection_goes_out_again_on_a_new_one() {
    for reset in [true, false] {
        let worker = ending(reset, "").await;
        let dam = Dam::new(vec![worker.spec("w1")], without_retries());
        for again in [
            || chat(false, true),
            || put(Payload::from(Bytes::from_static(b"whole"))),
            || Request::get("/x").extension(Demand::path()).body(streaming(vec![])).unwrap(),
        ] {
            assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, "ok");
            let before = worker.asked().len();
            let mut request = again();
            let flight = flight_of(&mut request);
            assert_eq!(text(dam.send("w1", request).await.unwrap()).await, "ok");
            assert_freed(&dam, &flight, Ending::Complete).await;
            let asked = worker.asked();
            let [first, second] = &asked[before..] else { panic!("asked {} times", asked.len() - before) };
            assert_eq!((&first.head, &first.body), (&second.head, &second.body));
            // The answer's connection dies with the next request: that is of the next turn.
            let refusal = dam.send("w1", chat(false, false)).await.unwrap_err();
            assert_eq!(refusal.reason, Reason::UpstreamBroke);
            let said = "Worker w1 closed an idle connection just as the request was written on it.";
            assert_eq!(refusal.message, said);
            if again().method() == Method::PUT {
                // Else it would be taken for one of which most connections die.
                for _ in 0..8 {
                    let fresh = Dam::new(vec![worker.spec("w1")], without_retries());
                    assert_eq!(text(fresh.send("w1", chat(false, false)).await.unwrap()).await, "ok");
                }
                return;
            }
        }
    }
}
