//! When a stream is complete, when it begins, and what may be read of it, in every worker's form.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt;
use traffic_dam::clock::Nanos;
use traffic_dam::refusal::Reason;
use traffic_dam::request::{Blame, Ending, Kind, Payload, RequestCost, SloOutcome, UsageInjected};
use traffic_dam::upstream::UpstreamSettings;

use crate::rig::{
    DONE, Dam, HELLO, ROLE, STREAM, Worker, assert_freed, chat, chunk, eventually, flight_of, read, text,
};

/// A worker that sends these chunks of a body under this head, and then waits for the close.
async fn holding(head: &str, chunks: &[&str]) -> Worker {
    let said =
        [head.as_bytes().to_vec()].into_iter().chain(chunks.iter().map(chunk)).collect::<Vec<_>>().concat();
    Worker::new(move |mut conn| {
        let said = said.clone();
        async move {
            conn.request().await;
            conn.send(said).await;
            conn.closed().await;
        }
    })
    .await
}

fn head(kind: &str, more: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{more}transfer-encoding: chunked\r\n\r\n")
}

const FINISHED: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";

/// Reads a stream up to `last` and leaves; returns how it ended.
async fn left_after(stream: &[&str], last: &str, filtered: bool) -> Ending {
    let worker = holding(STREAM, stream).await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let mut request = chat(true, true);
    if filtered {
        request.extensions_mut().insert(UsageInjected);
    }
    let record = flight_of(&mut request);
    let mut body = dam.send("w1", request).await.unwrap().into_body();
    let mut got = Vec::new();
    while !got.ends_with(last.as_bytes()) {
        got.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    drop(body);
    eventually("the permit is free", || dam.in_flight() == 0).await;
    record.ending()
}

#[tokio::test]
async fn a_stream_is_whole_when_its_last_word_is_on_its_way_in_every_kind() {
    let word = |kind: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\"}}\n\n");
    let delta = "data: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n";
    let block =
        "data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n";
    let (completed, incomplete) = (word("response.completed"), word("response.incomplete"));
    let (failed, stop) = (word("response.failed"), word("message_stop"));
    let text = "data: {\"choices\":[{\"text\":\"Hi\"}]}\n\n";
    let unended = "data: [DONE]\n";
    for (what, stream, ending) in [
        ("chat", &[ROLE, HELLO, FINISHED, DONE][..], Ending::Complete),
        ("chat, all of whose choices have ended", &[HELLO, FINISHED], Ending::Complete),
        ("a completion", &[text, DONE], Ending::Complete),
        ("the last line without the empty one", &[HELLO, unended], Ending::Complete),
        ("a response", &[delta, &completed], Ending::Complete),
        ("a response that was cut short", &[delta, &incomplete], Ending::Complete),
        ("a response that failed", &[delta, &failed], Ending::WorkerFailed),
        ("a message", &[block, &stop], Ending::Complete),
        ("chat before its end", &[ROLE, HELLO], Ending::ClientGone),
        (
            "sound without words",
            &["data: {\"type\":\"transcript.text.done\",\"text\":\"\"}\n\n"],
            Ending::Complete,
        ),
        ("a message before its end", &[block], Ending::ClientGone),
    ] {
        for filtered in [false, true] {
            assert_eq!(
                left_after(stream, stream.last().unwrap(), filtered).await,
                ending,
                "{what}, {filtered}"
            );
        }
    }
}

#[tokio::test]
async fn what_breaks_after_the_last_word_breaks_nothing() {
    // The end of each choice is a last word, too.
    for last in [DONE, FINISHED] {
        let worker = Worker::new(move |mut conn| async move {
            conn.request().await;
            conn.send([STREAM.as_bytes(), &chunk(HELLO), &chunk(last)].concat()).await;
        })
        .await;
        let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
        let mut request = chat(true, true);
        let record = flight_of(&mut request);
        assert_eq!(text(dam.send("w1", request).await.unwrap()).await, [HELLO, last].concat());
        assert_eq!(record.reason(), None);
        assert_freed(&dam, &record, Ending::Complete).await;
    }
}

#[tokio::test]
async fn a_stream_that_tells_an_error_is_no_good_one_unless_the_client_is_to_blame() {
    let failed = "data: {\"error\":{\"message\":\"out of memory\",\"code\":500}}\n\n";
    let asked = "data: {\"error\":{\"message\":\"too long\",\"code\":400}}\n\n";
    for (events, ending, blame, promise) in [
        ([HELLO, failed, DONE].concat(), Ending::WorkerFailed, Blame::Worker, Some(SloOutcome::Failed)),
        ([ROLE, failed].concat(), Ending::WorkerFailed, Blame::Worker, Some(SloOutcome::Failed)),
        ([ROLE, asked, DONE].concat(), Ending::Complete, Blame::Client, None),
    ] {
        let worker = Worker::saying([STREAM.as_bytes(), &chunk(&events), b"0\r\n\r\n"].concat()).await;
        let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
        let mut request = chat(true, true);
        let record = flight_of(&mut request);
        assert_eq!(text(dam.send("w1", request).await.unwrap()).await, events);
        assert_eq!(record.error(), Some(blame));
        assert_eq!(record.reason(), (blame == Blame::Worker).then_some(Reason::UpstreamBroke));
        assert_freed(&dam, &record, ending).await;
        let became = SloOutcome::of(&record, 200, Duration::from_secs(60), Nanos::from_secs(1));
        assert_eq!(became, promise, "{events}");
    }
}

#[tokio::test]
async fn an_answer_with_trailers_is_complete_with_them_and_keeps_its_connection() {
    for (kind, said) in [("text/event-stream", [HELLO, DONE].concat()), ("application/json", "{}".to_owned())]
    {
        let answer =
            [head(kind, "trailer: x-sum\r\n").as_bytes(), &chunk(&said), b"0\r\nx-sum: 7\r\n\r\n"].concat();
        let worker = Worker::saying(answer).await;
        let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
        for _ in 0..3 {
            let mut request = chat(kind.starts_with("text"), true);
            let record = flight_of(&mut request);
            let mut body = dam.send("w1", request).await.unwrap().into_body();
            // Nothing is read after trailers.
            let trailers = loop {
                if let Ok(trailers) = body.frame().await.unwrap().unwrap().into_trailers() {
                    break trailers;
                }
            };
            assert_eq!(trailers["x-sum"], "7");
            drop(body);
            assert_freed(&dam, &record, Ending::Complete).await;
        }
        assert_eq!(worker.connections.load(Ordering::SeqCst), 1, "{kind}");
    }
}

#[tokio::test]
async fn a_stream_in_another_form_begins_with_its_first_byte_and_passes_unread() {
    let line = "{\"message\":{\"content\":\"Hi\"},\"done\":false}\n";
    for (kind, more, asked, streamed) in [
        ("application/x-ndjson", "", true, true),
        ("application/jsonl", "", false, true),
        ("text/plain; charset=utf-8", "", true, true),
        ("text/event-stream", "content-encoding: gzip\r\n", true, true),
        ("text/event-stream", "content-encoding: br\r\n", false, true),
        ("text/plain", "", false, false),
        ("application/json", "", true, false),
    ] {
        let worker = holding(&head(kind, more), &[line]).await;
        let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
        let mut request = chat(asked, true);
        request.extensions_mut().insert(UsageInjected);
        let record = flight_of(&mut request);
        let mut body = dam.send("w1", request).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), line, "{kind}");
        let begun = (record.is_streamed(), record.first_token().is_some(), record.is_counted());
        assert_eq!(begun, (streamed, streamed, false), "{kind} {asked}");
        drop(body);
        assert_freed(&dam, &record, Ending::ClientGone).await;
    }
}

#[tokio::test]
async fn json_lines_are_whole_once_they_say_that_they_are_done() {
    let said = [
        "{\"text\":\"\\\"done\\\":true\",\"done\":false}\n{\"done\":tr",
        "ue,\"usage\":{\"completion_tokens\":7}}\n",
    ];
    for (pieces, ending, tokens) in
        [(&said[..1], Ending::ClientGone, None), (&said[..], Ending::Complete, Some(7))]
    {
        let worker = holding(&head("application/x-ndjson", ""), pieces).await;
        let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
        let mut request = chat(true, true);
        let record = flight_of(&mut request);
        let mut body = dam.send("w1", request).await.unwrap().into_body();
        let (mut passed, all) = (Vec::new(), pieces.concat());
        while passed.len() < all.len() {
            // Pieces that come together are passed together.
            passed.extend(body.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(passed, all.as_bytes());
        drop(body);
        assert_freed(&dam, &record, ending).await;
        assert_eq!(record.usage().map(|(_, output)| output), tokens);
    }
}

#[tokio::test]
async fn a_feed_on_a_path_is_handed_over_with_its_head_and_promises_nothing() {
    for (kind, more) in [
        ("text/event-stream", ""),
        ("text/event-stream", "content-encoding: gzip\r\n"),
        ("application/x-ndjson", ""),
    ] {
        let worker = holding(&head(kind, more), &[]).await;
        let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
        let mut request =
            Request::builder().method(Method::GET).uri("/events").body(Payload::empty()).unwrap();
        request.extensions_mut().insert(RequestCost { kind: Kind::Path, ..RequestCost::path() });
        let record = flight_of(&mut request);
        let response = dam.send("w1", request).await.unwrap();
        assert_eq!(response.status(), 200);
        drop(response);
        assert!(!record.is_streamed() && record.first_token().is_none(), "{kind}");
        assert_freed(&dam, &record, Ending::ClientGone).await;
    }
}

#[tokio::test]
async fn what_no_event_can_be_put_into_is_reset_when_it_breaks() {
    for (kind, more) in [("application/x-ndjson", ""), ("text/event-stream", "content-encoding: gzip\r\n")] {
        let said = [head(kind, more).as_bytes(), &chunk("half")].concat();
        let worker = Worker::new(move |mut conn| {
            let said = said.clone();
            async move {
                conn.request().await;
                conn.send(said).await;
            }
        })
        .await;
        let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
        let mut request = chat(true, true);
        let record = flight_of(&mut request);
        let (data, _, ended) = read(dam.send("w1", request).await.unwrap()).await;
        assert_eq!((data.as_slice(), ended.is_err()), (&b"half"[..], true), "{kind}");
        assert_freed(&dam, &record, Ending::WorkerFailed).await;
    }
}
