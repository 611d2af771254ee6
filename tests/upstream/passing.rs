//! Bytes are forwarded unchanged, however the network splits them.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body::Body as _;
use http_body_util::BodyExt;
use proptest::prelude::*;
use traffic_dam::request::{Ending, Kind, Payload, RequestCost, UsageInjected};
use traffic_dam::upstream::UpstreamSettings;

use crate::rig::{
    DONE, Dam, HELLO, ROLE, STREAM, Worker, answer, assert_freed, chat, chunk, flight_of, read, refusing,
    streaming, text,
};

/// A stream split into chunks at `cuts`, with each chunk sent separately.
async fn streamed(cuts: Vec<usize>, whole: Bytes) -> Worker {
    Worker::new(move |mut conn| {
        let (cuts, whole) = (cuts.clone(), whole.clone());
        async move {
            while conn.request().await.is_some() {
                conn.send(STREAM).await;
                let mut from = 0;
                for to in cuts.iter().copied().chain([whole.len()]).filter(|to| *to > 0) {
                    if to > from {
                        conn.send(chunk(&whole[from..to])).await;
                        from = to;
                    }
                }
                conn.send("0\r\n\r\n").await;
            }
        }
    })
    .await
}

async fn assert_passes(cuts: Vec<usize>, whole: Bytes) {
    let worker = streamed(cuts, whole.clone()).await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let (data, _, ended) = read(dam.send("w1", chat(true, true)).await.unwrap()).await;
    ended.unwrap();
    assert!(data == whole, "{} bytes became {}", whole.len(), data.len());
}

#[tokio::test]
async fn a_stream_cut_anywhere_comes_out_whole() {
    let whole = Bytes::from([": hi\n\n", ROLE, HELLO, "data: caf\u{e9}\r\n\r\n", HELLO, DONE].concat());
    for at in 1..whole.len() {
        assert_passes(vec![at], whole.clone()).await;
    }
    assert_passes((1..whole.len()).collect(), whole).await;
}

#[tokio::test]
async fn large_chunks_come_out_whole() {
    let event = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(1000));
    let whole = Bytes::from(event.repeat(600));
    assert_passes((1..9).map(|n| n * 64 * 1024).collect(), whole).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn any_bytes_cut_anyhow_come_out_whole(
        whole in prop::collection::vec(any::<u8>(), 0..3000),
        mut cuts in prop::collection::vec(0usize..3000, 0..40),
    ) {
        cuts.sort_unstable();
        cuts.retain(|cut| *cut < whole.len());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Without any content it would be no answer.
        let whole = [HELLO.as_bytes(), &whole].concat();
        runtime.block_on(assert_passes(cuts, whole.into()));
    }
}

#[tokio::test]
async fn the_response_is_committed_at_the_first_content() {
    let worker = Worker::new(|mut conn| async move {
        conn.request().await;
        conn.send([STREAM.as_bytes(), &chunk(ROLE), &chunk(HELLO)].concat()).await;
        conn.request().await;
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let mut request = chat(true, true);
    let record = flight_of(&mut request);
    let mut body = dam.send("w1", request).await.unwrap().into_body();
    assert_eq!(record.worker().map(|id| &**id), Some("w1"));
    assert!(record.is_streamed() && record.first_token().is_some() && record.output_tokens() == 1);
    let mut held = Vec::new();
    while held.len() < ROLE.len() + HELLO.len() {
        held.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    assert_eq!(held, [ROLE, HELLO].concat().as_bytes());
    drop(body);
    assert_freed(&dam, &record, Ending::ClientGone).await;
}

#[tokio::test]
async fn what_comes_before_the_content_is_held_within_bounds() {
    let comments = ": nothing yet\n\n".repeat(80);
    let worker = Worker::new(move |mut conn| {
        let comments = comments.clone();
        async move {
            conn.request().await;
            conn.send(STREAM).await;
            for _ in 0..80 {
                conn.send(chunk(&comments)).await;
            }
            conn.request().await;
        }
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let response = tokio::time::timeout(Duration::from_secs(20), dam.send("w1", chat(true, true))).await;
    assert_eq!(response.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn small_answers_know_their_length_and_their_end() {
    let worker =
        Worker::saying(answer(200, "{\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}")).await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let mut request = chat(false, true);
    let record = flight_of(&mut request);
    let response = dam.send("w1", request).await.unwrap();
    assert_eq!(response.headers()["content-length"], "51");
    assert_eq!(response.body().size_hint().exact(), Some(51));
    assert!(!response.body().is_end_stream());
    assert_eq!(text(response).await.len(), 51);
    assert_eq!(record.usage(), Some((7, 3)));
    assert!(!record.is_streamed());
    assert_freed(&dam, &record, Ending::Complete).await;
}

#[tokio::test]
async fn answers_without_a_body_are_complete_at_once() {
    let trailers = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-sum: 1\r\n\r\n";
    for (said, ends) in [("HTTP/1.1 204 No Content\r\n\r\n", true), (trailers, false)] {
        let worker = Worker::saying(said).await;
        let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
        for _ in 0..3 {
            let request = Request::post("/x").extension(RequestCost::path());
            let mut request = request.body(Payload::empty()).unwrap();
            let record = flight_of(&mut request);
            let response = dam.send("w1", request).await.unwrap();
            assert_eq!(
                (response.body().is_end_stream(), response.body().size_hint().exact()),
                (ends, ends.then_some(0))
            );
            // Nobody polls the trailers of a client that takes none.
            assert_freed(&dam, &record, Ending::Complete).await;
        }
        assert_eq!(worker.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn what_holds_no_seat_goes_to_any_worker_that_answers() {
    let worker = Worker::saying("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n").await;
    let (dead, _port) = refusing("w2");
    let dam = Dam::new(vec![worker.spec("w1"), dead], UpstreamSettings::default());
    for _ in 0..10 {
        let request = Request::builder().method(Method::HEAD).uri("/v1/models");
        let mut request = request.body(Payload::empty()).unwrap();
        let record = flight_of(&mut request);
        let response = dam.upstream.forward(request).await.unwrap();
        assert_eq!(response.headers()["content-length"], "12");
        assert_eq!(text(response).await, "");
        assert_eq!(record.ending(), Ending::Complete);
    }
}

#[tokio::test]
async fn interim_answers_are_swallowed() {
    let both = format!("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{}", answer(200, "ok"));
    let worker = Worker::saying(both).await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let response = dam.send("w1", chat(false, false)).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("link")), (200, None));
    assert_eq!(text(response).await, "ok");
}

#[tokio::test]
async fn the_usage_we_asked_for_is_taken_out_and_kept() {
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1}}\n\n";
    let worker = streamed(Vec::new(), Bytes::from([ROLE, HELLO, usage, DONE].concat())).await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let mut request = chat(true, true);
    request.extensions_mut().insert(UsageInjected);
    let record = flight_of(&mut request);
    assert_eq!(text(dam.send("w1", request).await.unwrap()).await, [ROLE, HELLO, DONE].concat());
    assert_eq!(record.usage(), Some((5, 1)));

    let other = text(dam.send("w1", chat(true, true)).await.unwrap()).await;
    assert!(other.contains("usage"), "nobody asked to take it out");
}

#[tokio::test]
async fn a_body_that_is_not_kept_passes_as_it_comes() {
    let worker = Worker::saying(answer(200, "ok")).await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let mut request = Request::post("/upload").body(streaming(vec![Ok("one "), Ok("two")])).unwrap();
    request.extensions_mut().insert(RequestCost { kind: Kind::Path, ..RequestCost::path() });
    assert_eq!(text(dam.send("w1", request).await.unwrap()).await, "ok");
    let asked = worker.asked();
    assert_eq!(asked[0].values("transfer-encoding"), ["chunked"]);
    assert_eq!(asked[0].body, b"4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n");
}
