//! What is asked of an API server, and what is made of its answers.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::Full;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::Api;
use kube::client::{Body, Client};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::{BoxError, service_fn};

use super::error::ResourceName;
use super::watch::{Selection, Update, Updates, updates};

/// What was asked for.
type Asked = Arc<Mutex<Vec<String>>>;

/// Follows slices at a server that gives these answers, one after the other, and then none.
fn follow(answers: Vec<(u16, String)>) -> (Updates<EndpointSlice>, Asked) {
    let asked = Asked::default();
    let (seen, left) = (Arc::clone(&asked), Arc::new(Mutex::new(VecDeque::from(answers))));
    let client = Client::new(
        service_fn(move |request: Request<Body>| {
            seen.lock().push(request.uri().to_string());
            let answer = left.lock().pop_front();
            async move {
                let Some((status, text)) = answer else { return std::future::pending().await };
                let body = Full::new(Bytes::from(text));
                Ok::<_, BoxError>(Response::builder().status(status).body(body)?)
            }
        }),
        "default",
    );
    let resource = ResourceName {
        plural: "endpointslices".into(),
        group: "discovery.k8s.io".into(),
        namespace: "llm".into(),
    };
    let selection = Selection { labels: Some("app=vllm".into()), name: None };
    (updates(Api::namespaced(client, "llm"), resource, selection), asked)
}

fn slice(name: &str, version: u32) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [],
        "metadata": { "name": name, "namespace": "llm", "resourceVersion": version.to_string() },
    })
}

fn list(items: &[Value], version: u32, more: &str) -> (u16, String) {
    let metadata = json!({ "resourceVersion": version.to_string(), "continue": more });
    let list = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "metadata": metadata, "items": items,
    });
    (200, list.to_string())
}

fn events(events: &[(&str, Value)]) -> (u16, String) {
    let line = |(kind, object): &(&str, Value)| format!("{}\n", json!({ "type": kind, "object": object }));
    (200, events.iter().map(line).collect())
}

fn refusal(code: u16) -> (u16, String) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "no", "reason": "No",
    });
    (code, status.to_string())
}

/// What the next news is, in words.
async fn next(updates: &mut Updates<EndpointSlice>) -> String {
    match updates.next().await {
        Some(Ok(Update::All(all))) => {
            let names: Vec<_> = all.iter().map(EndpointSlice::name_any).collect();
            format!("all {}", names.join(" "))
        }
        Some(Ok(Update::Set(slice))) => format!("set {}", slice.name_any()),
        Some(Ok(Update::Gone(slice))) => format!("gone {}", slice.name_any()),
        Some(Ok(Update::Alive)) => "alive".into(),
        Some(Err(error)) => error.to_string(),
        None => "the end".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_where_the_one_before_ended() {
    let mark =
        json!({ "apiVersion": "v1", "kind": "EndpointSlice", "metadata": { "resourceVersion": "20" } });
    let (mut updates, asked) = follow(vec![
        list(&[slice("a", 3)], 10, "next"),
        list(&[slice("b", 4)], 10, ""),
        events(&[("MODIFIED", slice("a", 12)), ("DELETED", slice("b", 13)), ("BOOKMARK", mark)]),
        events(&[("ADDED", slice("c", 21))]),
        refusal(500),
    ]);
    for expected in ["all a b", "set a", "gone b", "alive", "set c"] {
        assert_eq!(next(&mut updates).await, expected);
    }
    assert!(next(&mut updates).await.contains("watch `endpointslices` in namespace `llm`: no (500)"));
    assert_eq!(next(&mut updates).await, "the end");
    let asked = asked.lock();
    for (at, words) in [
        (0, "/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices?&labelSelector=app%3Dvllm"),
        (1, "continue=next"),
        (2, "resourceVersion=10"),
        (3, "resourceVersion=20"),
        (4, "resourceVersion=21"),
    ] {
        assert!(asked[at].contains(words), "{}", asked[at]);
        assert_eq!(asked[at].contains("watch=true"), at > 1);
        assert_eq!(asked[at].contains("timeoutSeconds=5"), at > 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_server_has_forgotten_is_listed_again() {
    let gone = json!({ "kind": "Status", "code": 410, "message": "too old", "reason": "Expired" });
    let (mut updates, _) = follow(vec![
        list(&[slice("a", 3)], 10, ""),
        refusal(410),
        list(&[slice("b", 11)], 12, ""),
        events(&[("ERROR", gone)]),
        list(&[], 30, ""),
        events(&[]),
    ]);
    for expected in ["all b", "all "] {
        assert_eq!(next(&mut updates).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_missing_or_taken_away_is_named() {
    let (mut updates, _) = follow(vec![refusal(403)]);
    assert!(next(&mut updates).await.contains("may not `list` `endpointslices`"));
    // A list without a watch would be out of date at once: it does not count as an answer.
    let (mut updates, _) = follow(vec![list(&[slice("a", 3)], 10, ""), refusal(403)]);
    assert!(next(&mut updates).await.contains("may not `watch` `endpointslices`"));
    let (mut updates, _) = follow(vec![list(&[], 10, ""), events(&[]), refusal(403)]);
    assert_eq!(next(&mut updates).await, "all ");
    assert!(next(&mut updates).await.contains("may not `watch`"));
    assert_eq!(next(&mut updates).await, "the end");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_not_waited_for() {
    let (mut updates, _) = follow(Vec::new());
    assert!(next(&mut updates).await.contains("list `endpointslices`: the API server does not answer"));
    let (mut updates, _) = follow(vec![list(&[], 10, "")]);
    assert!(next(&mut updates).await.contains("watch `endpointslices`: the API server does not answer"));
}
