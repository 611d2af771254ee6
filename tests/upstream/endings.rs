//! However a request ends, connection and permit are free at once, and the client gets the cause.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt;
use tower::Service;
use traffic_dam::refusal::Reason;
use traffic_dam::request::{Caller, Ending, Kind, RequestCost, RouteTimeouts};
use traffic_dam::shed::{GateEntry, PermitRequest};
use traffic_dam::upstream::{UpstreamBody, UpstreamSettings, UpstreamTimeouts};

use crate::rig::{
    Conn, DONE, Dam, HELLO, ROLE, STREAM, Worker, answer, assert_freed, chat, chunk, eventually, flight_of,
    read, text,
};

/// A worker that runs `act` after each request and counts the connections closed after it.
async fn counting<F, Fut>(act: F) -> (Worker, Arc<AtomicUsize>)
where
    F: Fn(Conn) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Conn> + Send,
{
    let closed = Arc::new(AtomicUsize::new(0));
    let (count, act) = (Arc::clone(&closed), Arc::new(act));
    let worker = Worker::new(move |mut conn| {
        let (count, act) = (Arc::clone(&count), Arc::clone(&act));
        async move {
            conn.request().await;
            let mut conn = act(conn).await;
            conn.closed().await;
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    (worker, closed)
}

#[tokio::test]
async fn a_client_that_leaves_before_the_commit_takes_the_request_with_it() {
    let silent = counting(|conn| async move { conn }).await;
    let begun = counting(|mut conn| async move {
        conn.send([STREAM.as_bytes(), &chunk(ROLE)].concat()).await;
        conn
    })
    .await;
    for (what, (worker, closed)) in [("before the headers", silent), ("before the first content", begun)] {
        let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
        let mut request = chat(true, true);
        let record = flight_of(&mut request);
        let mut sending = Box::pin(dam.send("w1", request));
        tokio::select! {
            _ = &mut sending => panic!("there is no content to commit"),
            () = eventually("the worker has the request", || worker.asked().len() == 1) => {}
        }
        assert_eq!(dam.in_flight(), 1, "{what}");
        drop(sending);
        eventually(what, || closed.load(Ordering::SeqCst) == 1).await;
        assert_freed(&dam, &record, Ending::ClientGone).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_during_the_stream_takes_the_request_with_it() {
    let (worker, closed) = counting(|mut conn| async move {
        conn.send([STREAM.as_bytes(), &chunk(HELLO)].concat()).await;
        conn
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    for read in [0, 1] {
        let mut request = chat(true, true);
        let record = flight_of(&mut request);
        let mut response = dam.send("w1", request).await.unwrap();
        for _ in 0..read {
            response.body_mut().frame().await.unwrap().unwrap();
        }
        assert_eq!((dam.in_flight(), closed.load(Ordering::SeqCst)), (1, read));
        drop(response);
        eventually("the connection is closed", || closed.load(Ordering::SeqCst) == read + 1).await;
        assert_freed(&dam, &record, Ending::ClientGone).await;
    }
}

#[tokio::test]
async fn the_end_of_the_answer_frees_the_seat_and_keeps_the_connection() {
    let worker = Worker::saying([STREAM.as_bytes(), &chunk(HELLO), b"0\r\n\r\n"].concat()).await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    for _ in 0..3 {
        let mut request = chat(true, true);
        let record = flight_of(&mut request);
        let mut response = dam.send("w1", request).await.unwrap();
        while response.body_mut().frame().await.is_some() {}
        assert_eq!(dam.in_flight(), 0, "the body still exists, but it is over");
        assert_eq!(record.ending(), Ending::Complete);
        drop(response);
    }
    assert_eq!(worker.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_after_the_commit_ends_with_an_error_event() {
    let (cut, half) = (chunk(HELLO), "data: {\"cho");
    let worker = Worker::new(move |mut conn| {
        let cut = cut.clone();
        async move {
            conn.request().await;
            conn.send([STREAM.as_bytes(), &cut, &chunk(half)].concat()).await;
        }
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let mut request = chat(true, true);
    let record = flight_of(&mut request);
    let said = text(dam.send("w1", request).await.unwrap()).await;
    let event = said.strip_prefix(&format!("{HELLO}{half}\n\ndata: ")).unwrap_or_else(|| panic!("{said:?}"));
    let error: serde_json::Value = serde_json::from_str(event.trim_end()).unwrap();
    assert_eq!(error["error"]["code"], "upstream_broke");
    assert!(
        error["error"]["message"].as_str().unwrap().contains("Worker w1 failed during its answer"),
        "{error}"
    );
    assert!(!said.contains("[DONE]") && said.ends_with("\n\n"));
    assert_eq!(record.reason(), Some(Reason::UpstreamBroke));
    assert_freed(&dam, &record, Ending::WorkerFailed).await;
}

#[tokio::test]
async fn a_stream_that_ends_without_the_end_that_it_announced_is_broken() {
    let announced = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"},\"finish_reason\":null}]}\n\n";
    let finished = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let of_lines = STREAM.replace("text/event-stream", "application/x-ndjson");
    let long = format!("data: {{\"choices\":[{{\"text\":\"{}\"}}]}}\n\n", "a".repeat(70_000));
    for (head, pieces, whole) in [
        (STREAM, vec![announced], false),
        (STREAM, vec![announced, announced, "data: {\"cho"], false),
        (STREAM, vec![announced, finished], true),
        (STREAM, vec![announced, DONE], true),
        // Too long to be read: it may have been the end, unless more follows.
        (STREAM, vec![announced, &long], true),
        (STREAM, vec![announced, &long, announced], false),
        // A worker whose streams say no end at all.
        (STREAM, vec![HELLO, HELLO], true),
        (&of_lines, vec!["{\"done\":false}\n"], false),
        (&of_lines, vec!["{\"done\":false}\n", "{\"done\":true}\n"], true),
        (&of_lines, vec!["{\"text\":\"a\"}\n"], true),
    ] {
        let chunks = pieces.iter().flat_map(chunk).collect::<Vec<u8>>();
        let worker = Worker::saying([head.as_bytes(), &chunks, b"0\r\n\r\n"].concat()).await;
        let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
        let mut request = chat(true, true);
        let record = flight_of(&mut request);
        let (data, _, ended) = read(dam.send("w1", request).await.unwrap()).await;
        let said = String::from_utf8(data).unwrap();
        let told = said.contains("ended its answer before it was complete") || ended.is_err();
        assert!(said.starts_with(&pieces.concat()) && told != whole, "{said:?}");
        assert_freed(&dam, &record, if whole { Ending::Complete } else { Ending::WorkerFailed }).await;
    }
}

#[tokio::test]
async fn each_choice_that_has_begun_must_end() {
    let says = |index: u32, reason: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":{index},\"delta\":{{\"content\":\"a\"}},\"finish_reason\":{reason}}}]}}\n\n"
        )
    };
    let [begun, other, ended, other_ended] = [(0, "null"), (1, "null"), (0, "\"stop\""), (1, "\"stop\"")]
        .map(|(index, reason)| says(index, reason));
    for (what, events, ending) in [
        ("one was cut off", &[&begun, &other, &ended][..], Ending::WorkerFailed),
        ("both have ended", &[&begun, &other, &ended, &other_ended], Ending::Complete),
        ("the worker gives only one", &[&begun, &ended], Ending::Complete),
    ] {
        let chunks = events.iter().flat_map(chunk).collect::<Vec<u8>>();
        let worker = Worker::saying([STREAM.as_bytes(), &chunks, b"0\r\n\r\n"].concat()).await;
        let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
        let mut request = chat(true, true);
        request.extensions_mut().get_mut::<RequestCost>().unwrap().sequences = 2;
        request.extensions_mut().insert(Caller::new("ip:192.0.2.1"));
        let record = flight_of(&mut request);
        let said = text(dam.send("w1", request).await.unwrap()).await;
        assert_eq!(said.contains("upstream_broke"), ending == Ending::WorkerFailed, "{what}: {said}");
        assert_freed(&dam, &record, ending).await;
    }
}

#[tokio::test]
async fn another_answer_that_breaks_after_the_commit_is_reset() {
    let worker = Worker::new(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let mut request = chat(false, true);
    let record = flight_of(&mut request);
    let (data, _, ended) = read(dam.send("w1", request).await.unwrap()).await;
    assert_eq!(data, b"half");
    assert!(ended.unwrap_err().to_string().contains("upstream_broke"));
    assert_freed(&dam, &record, Ending::WorkerFailed).await;
}

fn timeouts(first_token: u64, idle: u64, total: u64) -> UpstreamSettings {
    let [first_token, idle, total] = [first_token, idle, total].map(Duration::from_millis);
    let timeouts = UpstreamTimeouts { first_token, idle, total, ..UpstreamTimeouts::default() };
    UpstreamSettings { timeouts, ..UpstreamSettings::default() }
}

const LONG: u64 = 600_000;

#[tokio::test]
async fn first_token_binds_streams_only() {
    let silent = Worker::silent().await;
    let dam = Dam::new(vec![silent.spec("w1")], timeouts(50, LONG, LONG));
    let refusal = dam.send("w1", chat(true, false)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::UpstreamTimeout);
    assert_eq!(refusal.message, "Worker w1 sent no content within 50ms.");

    let slow = Worker::new(|mut conn| async move {
        conn.request().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        conn.send(answer(200, "late")).await;
    })
    .await;
    let dam = Dam::new(vec![slow.spec("w1")], timeouts(50, LONG, LONG));
    assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, "late");
}

#[tokio::test]
async fn total_binds_everything_and_no_other_worker_is_asked() {
    let (silent, other) = (Worker::silent().await, Worker::saying(answer(200, "ok")).await);
    let dam = Dam::new(vec![silent.spec("w1"), other.spec("w2")], timeouts(LONG, LONG, 60));
    for stream in [false, true] {
        let refusal = dam.send("w1", chat(stream, true)).await.unwrap_err();
        assert_eq!(refusal.message, "Worker w1 did not finish within 60ms.");
        assert_eq!(refusal.reason, Reason::UpstreamTimeout);
    }
    assert_eq!((other.asked().len(), dam.in_flight()), (0, 0));

    // A stream that never pauses is ended too.
    let (endless, closed) = counting(|mut conn| async move {
        conn.send(STREAM).await;
        for _ in 0..200 {
            conn.send(chunk(HELLO)).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        conn
    })
    .await;
    let dam = Dam::new(vec![endless.spec("w1")], timeouts(LONG, LONG, 150));
    let mut request = chat(true, true);
    let record = flight_of(&mut request);
    let said = text(dam.send("w1", request).await.unwrap()).await;
    assert!(said.contains("did not finish within 150ms"), "{said}");
    assert_freed(&dam, &record, Ending::TimedOut).await;
    assert_eq!(closed.load(Ordering::SeqCst), 0, "the worker was still at it");
}

#[tokio::test]
async fn idle_binds_the_pauses_after_the_commit() {
    let pausing = |answer: Vec<u8>| {
        Worker::new(move |mut conn| {
            let answer = answer.clone();
            async move {
                conn.request().await;
                conn.send(answer).await;
                conn.closed().await;
            }
        })
    };
    let stream = pausing([STREAM.as_bytes(), &chunk(HELLO)].concat()).await;
    let dam = Dam::new(vec![stream.spec("w1")], timeouts(LONG, 60, LONG));
    let mut request = chat(true, true);
    let record = flight_of(&mut request);
    let said = text(dam.send("w1", request).await.unwrap()).await;
    assert!(said.contains("upstream_timeout") && said.contains("was silent for 60ms"), "{said}");
    assert_eq!(record.reason(), Some(Reason::UpstreamTimeout));
    assert_freed(&dam, &record, Ending::TimedOut).await;

    let other = pausing(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec()).await;
    let dam = Dam::new(vec![other.spec("w1")], timeouts(LONG, LONG, LONG));
    let mut request = chat(false, true);
    let route = RouteTimeouts { idle: Some(Duration::from_millis(60)), ..RouteTimeouts::default() };
    request.extensions_mut().insert(route);
    let (data, _, ended) = read(dam.send("w1", request).await.unwrap()).await;
    assert_eq!((data.as_slice(), ended.is_err()), (&b"half"[..], true));
}

#[tokio::test]
async fn a_stream_slower_than_no_timeout_is_left_alone() {
    let worker = Worker::new(|mut conn| async move {
        conn.request().await;
        conn.send(STREAM).await;
        for _ in 0..12 {
            conn.send(chunk(HELLO)).await;
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        conn.send("0\r\n\r\n").await;
    })
    .await;
    // 480 ms in all: longer than the limit of a first content, with pauses within their own limit.
    let dam = Dam::new(vec![worker.spec("w1")], timeouts(200, 300, LONG));
    assert_eq!(text(dam.send("w1", chat(true, true)).await.unwrap()).await, HELLO.repeat(12));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_mixture_of_endings_leaves_no_seat_taken() {
    let whole =
        Worker::saying([STREAM.as_bytes(), &chunk(HELLO), &chunk(HELLO), b"0\r\n\r\n"].concat()).await;
    let workers = [
        whole,
        Worker::resetting().await,
        Worker::silent().await,
        Worker::saying(answer(503, "busy")).await,
        Worker::new(|mut conn| async move {
            conn.request().await;
            conn.send([STREAM.as_bytes(), &chunk(HELLO)].concat()).await;
            conn.reset();
        })
        .await,
    ];
    let specs = workers.iter().enumerate().map(|(n, worker)| worker.spec(&format!("w{n}"))).collect();
    let dam = Arc::new(Dam::new(specs, timeouts(80, 80, LONG)));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..400_u64 {
        let dam = Arc::clone(&dam);
        tasks.spawn(async move {
            let patience = Duration::from_micros(n * 997 % 20_000);
            let way = async {
                let Ok(response) = dam.send(&format!("w{}", n % 5), chat(true, n % 3 > 0)).await else {
                    return;
                };
                let mut body = response.into_body();
                while let Some(Ok(_)) = body.frame().await {
                    if n % 7 == 0 {
                        return;
                    }
                }
            };
            if n % 2 == 0 { way.await } else { drop(tokio::time::timeout(patience, way).await) }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(dam.in_flight(), 0);
}

#[tokio::test]
async fn a_whole_answer_that_nobody_waits_for_is_counted_as_long_as_it_may_be_written() {
    let silent = counting(|conn| async move { conn }).await;
    let writing = counting(|mut conn| async move {
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await;
        conn
    })
    .await;
    for (has_begun, (worker, closed)) in [(false, silent), (true, writing)] {
        let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
        let request_cost =
            RequestCost { prompt_tokens: 10, expected_output: 1000, kind: Kind::Chat, ..RequestCost::path() };
        let ask = PermitRequest::of(&Caller::new("ip:192.0.2.1"), &request_cost);
        let Ok(GateEntry::Admitted(permit)) = dam.fleet.route(None).unwrap().gate.ask(ask) else {
            panic!("there is room")
        };
        let mut request = chat(false, true);
        let record = flight_of(&mut request);
        request.extensions_mut().insert(permit);
        let mut sending = Box::pin(dam.upstream.forward(request));
        tokio::select! {
            answer = &mut sending => assert!(answer.is_ok() && has_begun, "half an answer is handed on"),
            () = eventually("the worker has the request", || !has_begun && worker.asked().len() == 1) => {}
        }
        drop(sending);
        eventually("the connection is closed", || closed.load(Ordering::SeqCst) == 1).await;
        if has_begun {
            // Its engine has finished with it.
            assert_freed(&dam, &record, Ending::ClientGone).await;
        } else {
            assert_eq!(dam.in_flight(), 1);
        }
    }
}

/// Reads the rest of an answer while the gateway cuts off the requests in flight.
async fn cut_off(dam: &Dam, body: UpstreamBody) -> String {
    let rest = tokio::spawn(read(Response::new(body)));
    // It is polled meanwhile, and waits for its worker.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    dam.upstream.end_streams();
    let rest = tokio::time::timeout(Duration::from_secs(20), rest).await.unwrap();
    String::from_utf8(rest.unwrap().0).unwrap()
}

#[tokio::test]
async fn what_is_quiet_when_the_gateway_goes_down_is_told_so() {
    let begun = |hold| UpstreamTimeouts { hold, ..UpstreamTimeouts::default() };
    let (at_once, late) = (begun(Duration::ZERO), UpstreamTimeouts::default());
    let ping = ": still here\n\n";
    for (said, timeouts, model) in
        [(HELLO, late, true), (ping, at_once, true), ("data: a feed\n\n", late, false)]
    {
        let first = chunk(said);
        let (worker, _) = counting(move |mut conn| {
            let first = first.clone();
            async move {
                conn.send([STREAM.as_bytes(), &first].concat()).await;
                conn
            }
        })
        .await;
        let settings = UpstreamSettings { timeouts, ..UpstreamSettings::default() };
        let dam = Dam::new(vec![worker.spec("w1")], settings);
        let mut request = chat(true, true);
        if !model {
            request.extensions_mut().insert(RequestCost::path());
        }
        let record = flight_of(&mut request);
        let mut body = dam.send("w1", request).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), said);
        let rest = cut_off(&dam, body).await;
        assert!(rest.contains("\"code\":\"draining\""), "{said}: {rest}");
        assert_eq!((record.ending(), record.reason()), (Ending::Refused, Some(Reason::Draining)), "{said}");
        eventually("the permit is free", || dam.in_flight() == 0).await;
    }
}

#[tokio::test]
async fn what_has_no_answer_when_the_gateway_goes_down_is_refused() {
    let worker = Worker::silent().await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let mut upstream = dam.upstream.clone();
    let mut request = chat(true, true);
    let _flight = flight_of(&mut request);
    let waits = tokio::spawn(async move { upstream.call(request).await.map(|_| ()) });
    eventually("the worker has the request", || worker.asked().len() == 1).await;
    dam.upstream.end_streams();
    let refusal = tokio::time::timeout(Duration::from_secs(20), waits).await.expect("it is woken");
    assert_eq!(refusal.unwrap().unwrap_err().reason, Reason::Draining);
}
