//! Spans, as a collector receives them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;

use super::client::chat;
use super::rig::{Dam, Worker, before};

/// The batches a collector received, each with its headers.
type Batches = Arc<Mutex<Vec<(HeaderMap, ExportTraceServiceRequest)>>>;

/// Starts a collector that keeps what it decodes.
async fn collector() -> (std::net::SocketAddr, Batches) {
    let batches = Batches::default();
    let kept = Arc::clone(&batches);
    let take = post(async move |headers: HeaderMap, body: Bytes| {
        kept.lock().push((headers, ExportTraceServiceRequest::decode(body).unwrap()));
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, Router::new().route("/v1/traces", take)).into_future());
    (addr, batches)
}

fn attributes(span: &Span) -> HashMap<String, String> {
    let text = |value: Any| match value {
        Any::StringValue(text) => text,
        Any::IntValue(number) => number.to_string(),
        Any::BoolValue(is) => is.to_string(),
        other => panic!("{other:?}"),
    };
    let pairs = span.attributes.iter();
    pairs.map(|pair| (pair.key.clone(), text(pair.value.clone().unwrap().value.unwrap()))).collect()
}

#[tokio::test]
async fn each_request_is_a_span_between_its_clients_and_its_workers() {
    let (addr, batches) = collector().await;
    let worker = Worker::start(8);
    let tracing = format!(
        "limits: [{{ name: few, algorithm: token_bucket, per: all, unit: requests, rate: 1/h, burst: 2 }}]\n\
         tracing: {{ otlp: \"http://{addr}\", service: dam-7, headers: {{ x-token: secret }} }}\n\
         drain: {{ delay: 0s, timeout: 5s }}\n"
    );
    let mut dam = Dam::start(&before(&[worker.entry("w1", 8)], &tracing));
    let parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(dam.ask(chat("followed", true, 3, &[parent])).await.status, 200);
    let seen = worker.last().await["headers"]["traceparent"][0].as_str().unwrap().to_owned();
    let unwanted = "traceparent: 00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    assert_eq!(dam.ask(chat("unwanted", true, 3, &[unwanted])).await.status, 200);
    assert_eq!(dam.ask(chat("refused", true, 3, &[])).await.status, 429);
    dam.idle().await;
    // The rest is exported during shutdown.
    dam.app.drain().await;
    dam.ended().await;

    let batches = batches.lock();
    assert!(batches.iter().all(|(headers, _)| headers["x-token"] == "secret"));
    let resources: Vec<_> = batches.iter().flat_map(|(_, batch)| &batch.resource_spans).collect();
    let resource = format!("{:?}", resources[0].resource);
    assert!(resource.contains("service.name") && resource.contains("dam-7"), "{resource}");
    let spans = resources.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans);
    let spans: HashMap<_, _> =
        spans.map(|span| (attributes(span)["traffic_dam.request_id"].clone(), span)).collect();
    let mut names: Vec<_> = spans.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["followed", "refused"], "the client of the other wanted none");

    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let followed = spans["followed"];
    assert_eq!(hex(&followed.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&followed.parent_span_id), "b7ad6b7169203331");
    assert_eq!(seen, format!("00-{}-{}-01", hex(&followed.trace_id), hex(&followed.span_id)));
    assert_eq!(followed.name, "chat sim");
    let told = attributes(followed);
    for (key, value) in [
        ("http.request.method", "POST"),
        ("url.path", "/v1/chat/completions"),
        ("url.scheme", "http"),
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.request.model", "sim"),
        ("gen_ai.request.max_tokens", "3"),
        ("gen_ai.request.stream", "true"),
        ("gen_ai.usage.output_tokens", "3"),
        ("http.route", "/v1/chat/completions"),
        ("http.response.status_code", "200"),
        ("traffic_dam.outcome", "complete"),
        ("traffic_dam.worker", "w1"),
    ] {
        assert_eq!(told.get(key).map(String::as_str), Some(value), "{key}");
    }
    let events: Vec<_> =
        followed.events.iter().map(|event| (event.name.as_str(), event.time_unix_nano)).collect();
    assert_eq!(
        events.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["received", "dispatched", "first_token"]
    );
    let times: Vec<_> = [followed.start_time_unix_nano]
        .into_iter()
        .chain(events.iter().map(|(_, at)| *at))
        .chain([followed.end_time_unix_nano])
        .collect();
    assert!(
        times.is_sorted() && times[4] - times[0] < Duration::from_secs(30).as_nanos() as u64,
        "{times:?}"
    );

    let told = attributes(spans["refused"]);
    assert_eq!((&*told["error.type"], &*told["http.response.status_code"]), ("rate_limited", "429"));
    assert!(spans["refused"].parent_span_id.is_empty());
    assert!(!format!("{batches:?}").contains("Say something"), "a prompt was told");
}

#[tokio::test]
async fn a_method_that_anybody_may_make_up_names_no_span() {
    let (addr, batches) = collector().await;
    let worker = Worker::start(8);
    let tracing = format!("tracing: {{ otlp: \"http://{addr}\" }}\ndrain: {{ delay: 0s, timeout: 5s }}\n");
    let mut dam = Dam::start(&before(&[worker.entry("w1", 8)], &tracing));
    let strange = "BREW /nowhere?secret=1 HTTP/1.1\r\nhost: dam\r\nconnection: close\r\n\r\n";
    assert_eq!(dam.ask(strange).await.status, 404);
    dam.idle().await;
    dam.app.drain().await;
    dam.ended().await;

    let batches = batches.lock();
    let resources = batches.iter().flat_map(|(_, batch)| &batch.resource_spans);
    let spans: Vec<_> = resources.flat_map(|one| &one.scope_spans).flat_map(|scope| &scope.spans).collect();
    let [span] = spans[..] else { panic!("{spans:?}") };
    let told = attributes(span);
    assert!(!span.name.contains("BREW"), "{}", span.name);
    assert_eq!((&*told["http.request.method"], &*told["http.request.method_original"]), ("_OTHER", "BREW"));
    assert_eq!(told["url.path"], "/nowhere");
    assert!(!told.contains_key("gen_ai.provider.name"), "{told:?}");
}

#[tokio::test]
async fn a_collector_that_is_gone_costs_requests_nothing() {
    let worker = Worker::start(8);
    // Port 1 is closed.
    let tracing = "tracing: { otlp: \"http://127.0.0.1:1\" }\ndrain: { delay: 0s, timeout: 5s }\n";
    let mut dam = Dam::start(&before(&[worker.entry("w1", 8)], tracing));
    for _ in 0..20 {
        assert_eq!(dam.ask(chat("a", true, 2, &[])).await.status, 200);
    }
    dam.app.drain().await;
    dam.ended().await;
}
