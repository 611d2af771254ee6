//! When another worker is tried, and when the client gets the error.

use std::time::Duration;

use http::{Method, Request};
use http_body_util::{BodyExt, StreamBody};
use traffic_dam::refusal::Reason;
use traffic_dam::request::{Ending, Payload, PayloadError, RequestCost};
use traffic_dam::upstream::{RetrySettings, UpstreamSettings, UpstreamTimeouts};

use crate::rig::{
    Dam, HELLO, ROLE, STREAM, Worker, answer, assert_freed, chat, chunk, flight_of, refusing, streaming, text,
};

/// Settings that soon give up a silent worker.
fn impatient() -> UpstreamSettings {
    let timeouts =
        UpstreamTimeouts { first_token: Duration::from_millis(100), ..UpstreamTimeouts::default() };
    UpstreamSettings { timeouts, ..UpstreamSettings::default() }
}

const ERROR: &str = "data: {\"error\":{\"message\":\"m\",\"code\":500}}\n\n";

fn typed(kind: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Returns every way in which a worker can fail a stream that it may have begun.
async fn failing() -> Vec<(&'static str, Worker)> {
    vec![
        ("reset", Worker::resetting().await),
        ("closed", Worker::new(|mut conn| async move { drop(conn.request().await) }).await),
        ("no HTTP", Worker::saying("SSH-2.0-OpenSSH_9\r\n\r\n").await),
        (
            "switched",
            Worker::saying("HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await,
        ),
        ("429", Worker::saying(answer(429, "busy")).await),
        ("502", Worker::saying(answer(502, "bad")).await),
        ("503", Worker::saying(answer(503, "busy")).await),
        ("504", Worker::saying(answer(504, "slow")).await),
        ("507", Worker::saying(answer(507, "full")).await),
        ("a page", Worker::saying(typed("text/html", "<p>")).await),
        ("a picture", Worker::saying(typed("image/png", "x")).await),
        ("a login", Worker::saying("HTTP/1.1 302 F\r\nlocation: /l\r\ncontent-length: 0\r\n\r\n").await),
        ("no content", Worker::saying("HTTP/1.1 204 No Content\r\n\r\n").await),
        ("nothing", Worker::saying(answer(200, "")).await),
        ("an empty document", Worker::saying(typed("application/json", "")).await),
        ("an empty object", Worker::saying(typed("application/json", " { }\n")).await),
        ("no object", Worker::saying(typed("application/json", "[\"a\"]")).await),
        (
            "an end alone",
            Worker::saying([STREAM.as_bytes(), &chunk("data: [DONE]\n\n"), b"0\r\n\r\n"].concat()).await,
        ),
        ("an empty stream", Worker::saying([STREAM.as_bytes(), b"0\r\n\r\n"].concat()).await),
        ("a role only", Worker::saying([STREAM.as_bytes(), &chunk(ROLE), b"0\r\n\r\n"].concat()).await),
        // An error of its own, whose status is 200.
        ("200", Worker::saying(typed("application/json", "{\"error\":{\"message\":\"m\"}}")).await),
        ("200", Worker::saying(typed("application/json", "{\"error\":\"m\"}")).await),
        ("200", Worker::saying(typed("application/x-ndjson", "{\"error\":\"m\"}\n")).await),
        ("200", Worker::saying([STREAM.as_bytes(), &chunk(ERROR), b"0\r\n\r\n"].concat()).await),
        ("silent", Worker::silent().await),
        (
            "silent after its role",
            Worker::new(|mut conn| async move {
                conn.request().await;
                conn.send([STREAM.as_bytes(), &chunk(ROLE)].concat()).await;
                conn.closed().await;
            })
            .await,
        ),
        (
            "broken after its role",
            Worker::new(|mut conn| async move {
                conn.request().await;
                conn.send([STREAM.as_bytes(), &chunk(ROLE)].concat()).await;
                conn.reset();
            })
            .await,
        ),
    ]
}

#[tokio::test]
async fn what_may_have_begun_runs_twice_only_where_that_does_no_harm() {
    for (what, bad) in failing().await {
        let good = Worker::saying([STREAM.as_bytes(), &chunk(HELLO), b"0\r\n\r\n"].concat()).await;
        let dam = Dam::new(vec![bad.spec("bad"), good.spec("good")], impatient());

        let mut request = chat(true, false);
        let record = flight_of(&mut request);
        match dam.send("bad", request).await {
            // A worker's own answer is forwarded.
            Ok(response) => assert!(what.parse() == Ok(response.status().as_u16()), "{what}"),
            Err(refusal) => {
                let silent = what.starts_with("silent");
                let reason = if silent { Reason::UpstreamTimeout } else { Reason::UpstreamBroke };
                assert_eq!(refusal.reason, reason, "{what}");
                assert!(refusal.message.contains("Worker bad"), "{what}: {}", refusal.message);
                let address = bad.addr.to_string();
                assert!(!refusal.message.contains(&address), "{what}: {}", refusal.message);
            }
        }
        assert_eq!((bad.asked().len(), good.asked().len()), (1, 0), "{what}: a POST ran twice");
        assert_freed(&dam, &record, record.ending()).await;

        let mut request = chat(true, true);
        let record = flight_of(&mut request);
        assert_eq!(text(dam.send("bad", request).await.unwrap()).await, HELLO, "{what}");
        assert_eq!(record.worker().map(|id| &**id), Some("good"), "{what}");
        assert_eq!((bad.asked().len(), good.asked().len()), (2, 1), "{what}");
        assert_eq!(good.asked()[0].body, bad.asked()[1].body, "{what}");
        assert_eq!(good.asked()[0].values("host"), [good.addr.to_string()], "{what}");
        assert_freed(&dam, &record, Ending::Complete).await;
    }
}

#[tokio::test]
async fn methods_that_may_be_repeated_are() {
    let (bad, good) = (Worker::resetting().await, Worker::saying(answer(200, "ok")).await);
    for (method, passes) in [(Method::GET, true), (Method::PUT, true), (Method::PATCH, false)] {
        // A gateway that has not ejected the bad worker yet.
        let dam = Dam::new(vec![bad.spec("bad"), good.spec("good")], UpstreamSettings::default());
        let request = Request::builder().method(&method).uri("/x").extension(RequestCost::path());
        let sent =
            dam.send("bad", request.body(Payload::from(bytes::Bytes::from_static(b"b"))).unwrap()).await;
        assert_eq!(sent.is_ok(), passes, "{method}");
    }
}

#[tokio::test]
async fn a_worker_that_cannot_be_reached_is_always_replaced() {
    let good = Worker::saying(answer(200, "ok")).await;
    let (dead, _port) = refusing("dead");
    let dam = Dam::new(vec![dead.clone(), good.spec("good")], UpstreamSettings::default());
    // Even a body that can be sent only once: nothing of it was sent.
    let request = Request::post("/x").body(streaming(vec![Ok("a"), Ok("b")])).unwrap();
    assert_eq!(text(dam.send("dead", request).await.unwrap()).await, "ok");

    let dam = Dam::new(vec![dead], UpstreamSettings::default());
    let refusal = dam.send("dead", chat(false, true)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::UpstreamUnreachable);
    assert_eq!(refusal.message, "Worker dead could not be reached: connecting failed: connection refused.");
}

#[tokio::test]
async fn what_the_client_did_wrong_is_told_and_asked_of_nobody_else() {
    let refused = "{\"error\":{\"message\":\"too long\",\"type\":\"invalid_request_error\",\"code\":400}}";
    let streamed = chunk(format!("data: {refused}\n\n"));
    for said in [
        typed("application/json", refused).into_bytes(),
        [STREAM.as_bytes(), &streamed, b"0\r\n\r\n"].concat(),
    ] {
        let (first, second) = (Worker::saying(said).await, Worker::saying(answer(200, "ok")).await);
        let dam = Dam::new(vec![first.spec("w1"), second.spec("w2")], UpstreamSettings::default());
        let mut request = chat(true, true);
        let record = flight_of(&mut request);
        let told = text(dam.send("w1", request).await.unwrap()).await;
        assert!(told.contains("too long"), "{told}");
        assert_eq!(second.asked().len(), 0);
        assert_freed(&dam, &record, Ending::Complete).await;
    }
}

#[tokio::test]
async fn an_error_that_nobody_else_can_better_passes_and_is_the_workers() {
    let said = typed("application/json", "{\"error\":{\"message\":\"m\"}}");
    let dam_of = Worker::saying(said).await;
    let dam = Dam::new(vec![dam_of.spec("w1")], UpstreamSettings::default());
    let mut request = chat(false, true);
    let record = flight_of(&mut request);
    let told = text(dam.send("w1", request).await.unwrap()).await;
    assert_eq!(told, "{\"error\":{\"message\":\"m\"}}");
    assert_freed(&dam, &record, Ending::WorkerFailed).await;
}

#[tokio::test]
async fn an_upload_that_stalls_until_the_total_timeout_blames_nobody() {
    let worker = Worker::silent().await;
    let timeouts = UpstreamTimeouts { total: Duration::from_millis(100), ..UpstreamTimeouts::default() };
    let settings = UpstreamSettings { timeouts, ..UpstreamSettings::default() };
    let dam = Dam::new(vec![worker.spec("w1")], settings);
    let stalled = StreamBody::new(futures_util::stream::pending());
    let payload = Payload::streaming(Default::default(), stalled.boxed_unsync());
    let request = Request::post("/x").extension(RequestCost::path()).body(payload).unwrap();
    let refusal = dam.send("w1", request).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::BodyTimeout, "{}", refusal.message);
}

#[tokio::test]
async fn without_an_alternative_the_workers_own_answer_passes() {
    let busy = "HTTP/1.1 503 Busy\r\nretry-after: 7\r\nx-why: full\r\ncontent-length: 4\r\n\r\nbusy";
    let (one, two) = (Worker::saying(busy).await, Worker::saying(busy).await);
    for specs in [vec![one.spec("one")], vec![one.spec("one"), two.spec("two")]] {
        let dam = Dam::new(specs, UpstreamSettings::default());
        let mut request = chat(false, true);
        let record = flight_of(&mut request);
        let response = dam.send("one", request).await.unwrap();
        assert_eq!(response.status(), 503);
        assert_eq!(
            (&response.headers()["retry-after"], &response.headers()["x-why"]),
            (&"7".parse().unwrap(), &"full".parse().unwrap())
        );
        assert_eq!(text(response).await, "busy");
        assert_freed(&dam, &record, Ending::Complete).await;
    }
    assert_eq!((one.asked().len(), two.asked().len()), (2, 1), "no worker is asked twice");
}

#[tokio::test]
async fn a_refusal_that_stalls_in_its_body_holds_nobody_up() {
    let bad = Worker::new(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.1 503 Busy\r\ncontent-length: 9\r\n\r\n").await;
        conn.closed().await;
    })
    .await;
    let good = Worker::saying(answer(200, "ok")).await;
    let dam = Dam::new(vec![bad.spec("bad"), good.spec("good")], UpstreamSettings::default());
    let sent = tokio::time::timeout(Duration::from_secs(20), dam.send("bad", chat(false, true))).await;
    assert_eq!(text(sent.unwrap().unwrap()).await, "ok");
}

#[tokio::test]
async fn retries_are_bounded_by_count_and_by_budget() {
    let workers = [Worker::resetting().await, Worker::resetting().await, Worker::resetting().await];
    let specs = || workers.iter().enumerate().map(|(n, worker)| worker.spec(&format!("w{n}"))).collect();
    let asked = || workers.iter().map(|worker| worker.asked().len()).sum::<usize>();
    // A request that two workers failed is not sent to a third.
    for (max, expected) in [(0, 1), (1, 2), (2, 2), (9, 2)] {
        let retry = RetrySettings { max, budget: 1.0 };
        let dam = Dam::new(specs(), UpstreamSettings { retry, ..UpstreamSettings::default() });
        let before = asked();
        let refusal = dam.send("w0", chat(false, true)).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::UpstreamBroke);
        assert_eq!(asked() - before, expected, "max {max}");
    }
    // The retry budget's share of requests is zero: only its fixed minimum is left.
    let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy";
    let workers = [Worker::saying(busy).await, Worker::saying(busy).await];
    let asked = || workers.iter().map(|worker| worker.asked().len()).sum::<usize>();
    let retry = RetrySettings { max: 1, budget: 0.0 };
    let specs = workers.iter().enumerate().map(|(n, worker)| worker.spec(&format!("w{n}"))).collect();
    let dam = Dam::new(specs, UpstreamSettings { retry, ..UpstreamSettings::default() });
    for _ in 0..15 {
        let response = dam.send("w0", chat(false, true)).await.unwrap();
        assert_eq!(text(response).await, "busy");
    }
    assert_eq!(asked(), 25, "15 requests and the 10 retries that are always allowed");
}

#[tokio::test]
async fn a_body_that_was_passed_on_is_not_sent_again() {
    let (bad, good) = (Worker::resetting().await, Worker::saying(answer(200, "ok")).await);
    let dam = Dam::new(vec![bad.spec("bad"), good.spec("good")], UpstreamSettings::default());
    let mut request = Request::put("/x").body(streaming(vec![Ok("a"), Ok("b")])).unwrap();
    request.extensions_mut().insert(RequestCost { retryable: true, ..RequestCost::path() });
    let refusal = dam.send("bad", request).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::UpstreamBroke);
    assert_eq!(good.asked().len(), 0);
}

#[tokio::test]
async fn a_fault_of_the_clients_body_is_not_the_workers() {
    let worker = Worker::silent().await;
    let other = Worker::saying(answer(200, "ok")).await;
    let dam = Dam::new(vec![worker.spec("w1"), other.spec("w2")], UpstreamSettings::default());
    let broken = || PayloadError::Broken("cut off".into());
    for (error, reason) in [
        (PayloadError::TooLarge { limit: 9, setting: "bounds.body" }, Reason::BodyTooLarge),
        (PayloadError::TooSlow, Reason::BodyTimeout),
        (broken(), Reason::BadRequest),
    ] {
        let request = Request::put("/x").body(streaming(vec![Ok("a"), Err(error)])).unwrap();
        assert_eq!(dam.send("w1", request).await.unwrap_err().reason, reason);
    }
    assert_eq!(other.asked().len(), 0);
    assert_eq!(dam.in_flight(), 0);
}
