//! A stream that begins before its content, because a proxy before the gateway would time out.

use std::time::Duration;

use http_body_util::BodyExt;
use traffic_dam::refusal::Reason;
use traffic_dam::request::Ending;
use traffic_dam::upstream::{UpstreamBody, UpstreamSettings, UpstreamTimeouts};

use crate::rig::{
    Conn, DONE, Dam, HELLO, ROLE, STREAM, Worker, answer, assert_freed, chat, chunk, flight_of, read, text,
};

const PING: &str = ": still here\n\n";

/// Settings that begin a stream at once, and allow this long for its content.
fn at_once(first_token: Duration) -> UpstreamSettings {
    let timeouts = UpstreamTimeouts { hold: Duration::ZERO, first_token, ..UpstreamTimeouts::default() };
    UpstreamSettings { timeouts, ..UpstreamSettings::default() }
}

const LONG: Duration = Duration::from_secs(600);

/// Starts a worker that begins a stream without content, and then runs `act`.
async fn quiet<Fut>(act: impl Fn(Conn) -> Fut + Clone + Send + Sync + 'static) -> Worker
where
    Fut: Future<Output = ()> + Send + 'static,
{
    Worker::new(move |mut conn| {
        let act = act.clone();
        async move {
            conn.request().await;
            conn.send([STREAM.as_bytes(), &chunk(PING), &chunk(ROLE), &chunk(PING)].concat()).await;
            act(conn).await;
        }
    })
    .await
}

async fn frames(body: &mut UpstreamBody, length: usize) -> String {
    let mut got = Vec::new();
    while got.len() < length {
        got.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    String::from_utf8(got).unwrap()
}

#[tokio::test]
async fn what_keeps_a_stream_alive_passes_before_what_it_says() {
    let (go, gone) = tokio::sync::watch::channel(false);
    let worker = quiet(move |mut conn| {
        let mut gone = gone.clone();
        async move {
            gone.wait_for(|gone| *gone).await.unwrap();
            conn.send([chunk(PING), chunk(HELLO), chunk(DONE), b"0\r\n\r\n".to_vec()].concat()).await;
        }
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], at_once(LONG));
    let mut request = chat(true, true);
    let record = flight_of(&mut request);
    let response = dam.send("w1", request).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-request-id"]),
        (200, &"r1".parse().unwrap())
    );
    let mut body = response.into_body();
    assert_eq!(frames(&mut body, 2 * PING.len()).await, PING.repeat(2));
    assert_eq!((record.worker(), record.first_token()), (None, None), "nobody is committed to it");
    go.send(true).unwrap();
    let rest = body.collect().await.unwrap().to_bytes();
    // The last comment came with the content, or before it.
    let rest = String::from_utf8(rest.to_vec()).unwrap();
    assert!(
        [format!("{PING}{ROLE}{HELLO}{DONE}"), format!("{ROLE}{PING}{HELLO}{DONE}")].contains(&rest),
        "{rest}"
    );
    assert_eq!(record.worker().map(|worker| &**worker), Some("w1"));
    assert_freed(&dam, &record, Ending::Complete).await;
}

#[tokio::test]
async fn another_worker_takes_over_what_has_begun_and_said_nothing() {
    let (go, gone) = tokio::sync::watch::channel(false);
    let breaking = quiet(move |conn| {
        let mut gone = gone.clone();
        async move {
            gone.wait_for(|gone| *gone).await.unwrap();
            conn.reset();
        }
    })
    .await;
    let whole = Worker::saying([STREAM.as_bytes(), &chunk(ROLE), &chunk(HELLO), b"0\r\n\r\n"].concat()).await;
    let dam = Dam::new(vec![breaking.spec("w1"), whole.spec("w2")], at_once(LONG));
    let mut request = chat(true, true);
    let record = flight_of(&mut request);
    let mut body = dam.send("w1", request).await.unwrap().into_body();
    assert_eq!(frames(&mut body, 2 * PING.len()).await, PING.repeat(2));
    go.send(true).unwrap();
    assert_eq!(body.collect().await.unwrap().to_bytes(), [ROLE, HELLO].concat());
    assert_eq!(record.worker().map(|worker| &**worker), Some("w2"));
    assert_freed(&dam, &record, Ending::Complete).await;
}

/// A silence that ends a wait, long enough for a worker on a busy machine to send all it has.
const SILENCE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn what_has_begun_and_fails_says_so_in_an_event() {
    let silent = quiet(|mut conn| async move { conn.closed().await }).await;
    let dam = Dam::new(vec![silent.spec("w1")], at_once(SILENCE));
    let mut request = chat(true, true);
    let record = flight_of(&mut request);
    let said = text(dam.send("w1", request).await.unwrap()).await;
    let error = said.strip_prefix(&*PING.repeat(2)).unwrap_or_else(|| panic!("{said}"));
    assert!(error.starts_with("\n\n") && error.contains("\"code\":\"upstream_timeout\""), "{said}");
    assert_eq!(record.reason(), Some(Reason::UpstreamTimeout));
    assert_freed(&dam, &record, Ending::TimedOut).await;

    // A non-streamed answer cannot follow the head of a stream.
    let other = Worker::saying(answer(500, "no")).await;
    let dam = Dam::new(vec![silent.spec("w1"), other.spec("w2")], at_once(SILENCE));
    let mut request = chat(true, true);
    let record = flight_of(&mut request);
    let said = text(dam.send("w1", request).await.unwrap()).await;
    assert!(said.contains("Worker w2 answered with status 500, not with an event stream."), "{said}");
    assert_freed(&dam, &record, Ending::WorkerFailed).await;

    // A caller other than a client gets the error itself.
    let dam = Dam::new(vec![silent.spec("w1")], at_once(SILENCE));
    let answer = dam.send("w1", chat(true, true)).await.unwrap().map(UpstreamBody::for_gateway);
    let (data, _, ended) = read(answer).await;
    assert_eq!((data, ended.is_err()), (PING.repeat(2).into_bytes(), true));
}

#[tokio::test]
async fn what_keeps_a_stream_alive_comes_before_the_failure_that_follows_at_once() {
    let (go, gone) = tokio::sync::watch::channel(false);
    let worker = quiet(move |mut conn| {
        let mut gone = gone.clone();
        async move {
            gone.wait_for(|gone| *gone).await.unwrap();
            conn.send(chunk(PING)).await;
        }
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], at_once(LONG));
    let answer = dam.send("w1", chat(true, true)).await.unwrap().map(UpstreamBody::for_gateway);
    let mut body = answer.into_body();
    frames(&mut body, 2 * PING.len()).await;
    go.send(true).unwrap();
    // On most machines both are there by then.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (data, _, ended) = read(http::Response::new(body)).await;
    assert_eq!((String::from_utf8(data).unwrap(), ended.is_err()), (PING.to_owned(), true));
}

#[tokio::test]
async fn who_leaves_what_has_begun_frees_its_seat() {
    let silent = quiet(|mut conn| async move { conn.closed().await }).await;
    let dam = Dam::new(vec![silent.spec("w1")], at_once(LONG));
    let mut request = chat(true, true);
    let record = flight_of(&mut request);
    let mut body = dam.send("w1", request).await.unwrap().into_body();
    frames(&mut body, PING.len()).await;
    assert_eq!(dam.in_flight(), 1);
    drop(body);
    assert_freed(&dam, &record, Ending::ClientGone).await;
}
