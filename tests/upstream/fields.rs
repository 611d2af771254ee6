//! Which header fields and trailers are forwarded.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Request};
use smallvec::smallvec;
use traffic_dam::clock::Nanos;
use traffic_dam::request::{Forwarding, Payload, RequestCost, RequestRecord, Trace};
use traffic_dam::upstream::UpstreamSettings;

use crate::rig::{Asked, Dam, Worker, answer, chat, read, spec};

fn from(trusted_proxy: bool) -> Forwarding {
    let address = "192.0.2.7".parse().unwrap();
    Forwarding { strip: smallvec![], peer_ip: address, client_ip: address, tls: true, trusted_proxy }
}

/// Returns the request that a worker gets for these fields.
async fn seen(dam: &Dam, worker: &Worker, fields: &[(&'static str, &'static str)], way: Forwarding) -> Asked {
    let mut request = chat(false, true);
    for (name, value) in fields {
        request.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    request.extensions_mut().insert(way);
    assert_eq!(dam.send("w1", request).await.unwrap().status(), 200);
    worker.asked().pop().unwrap()
}

#[tokio::test]
async fn fields_of_the_connection_stay_behind_and_others_pass() {
    let worker = Worker::saying(answer(200, "ok")).await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let fields = [
        ("host", "api.example"),
        ("connection", "close, X-Secret , te"),
        ("x-secret", "s"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic x"),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip, trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("expect", "100-continue"),
        ("content-length", "999"),
        ("accept-encoding", "gzip"),
        ("x-traffic-dam-class", "critical"),
        ("x-traffic-dam-anything", "1"),
        ("x-unknown", "one"),
        ("x-unknown", "two"),
        ("cookie", "a=b"),
        ("authorization", "Bearer theirs"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-request-id", "forged id"),
    ];
    let asked = seen(&dam, &worker, &fields, from(false)).await;
    assert!(asked.head.starts_with("POST /v1/chat/completions?a=b HTTP/1.1\r\n"), "{}", asked.head);
    for gone in [
        "x-secret",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "expect",
        "x-traffic-dam-class",
        "x-traffic-dam-anything",
    ] {
        assert!(asked.values(gone).is_empty(), "{gone}: {}", asked.head);
    }
    for (name, values) in [
        ("host", vec![worker.addr.to_string()]),
        ("connection", vec!["te".into()]),
        ("te", vec!["trailers".into()]),
        ("content-length", vec!["13".into()]),
        ("accept-encoding", vec!["identity".into()]),
        ("x-unknown", vec!["one".into(), "two".into()]),
        ("cookie", vec!["a=b".into()]),
        ("authorization", vec!["Bearer theirs".into()]),
        ("traceparent", vec!["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()]),
        ("x-request-id", vec!["r1".into()]),
    ] {
        assert_eq!(asked.values(name), values, "{}", asked.head);
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_may_speak_for_others() {
    let worker = Worker::saying(answer(200, "ok")).await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let fields = [
        ("host", "api.example"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-for", "203.0.113.10"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "public.example"),
        ("x-forwarded-port", "81"),
        ("forwarded", "for=203.0.113.9"),
        ("x-real-ip", "203.0.113.9"),
    ];
    let names = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "forwarded",
        "x-real-ip",
    ];
    let said = |asked: &Asked| names.map(|name| asked.values(name).join("|"));
    let asked = seen(&dam, &worker, &fields, from(false)).await;
    assert_eq!(said(&asked), ["192.0.2.7", "https", "api.example", "", "", ""]);
    let asked = seen(&dam, &worker, &fields, from(true)).await;
    assert_eq!(
        said(&asked),
        [
            "203.0.113.9, 203.0.113.10, 192.0.2.7",
            "http",
            "public.example",
            "81",
            "for=203.0.113.9",
            "203.0.113.9"
        ]
    );
    let asked = seen(&dam, &worker, &[], from(true)).await;
    assert_eq!(said(&asked), ["192.0.2.7", "https", "", "", "", ""]);
}

#[tokio::test]
async fn secrets_of_ours_never_reach_a_worker_and_its_own_are_set() {
    let worker = Worker::saying(answer(200, "ok")).await;
    let fields = [("authorization", "Bearer ours"), ("x-api-key", "theirs"), ("x-user-key", "ours too")];
    let mut way = from(false);
    way.strip = smallvec![HeaderName::from_static("authorization"), HeaderName::from_static("x-user-key")];

    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let asked = seen(&dam, &worker, &fields, way.clone()).await;
    assert_eq!(asked.values("x-api-key"), ["theirs"]);
    assert!(!asked.head.contains("ours"), "{}", asked.head);

    let closed = UpstreamSettings { forward_authorization: false, ..UpstreamSettings::default() };
    let dam = Dam::new(vec![worker.spec("w1")], closed.clone());
    let asked = seen(&dam, &worker, &fields, from(false)).await;
    assert!(
        asked.values("authorization").is_empty() && asked.values("x-api-key").is_empty(),
        "{}",
        asked.head
    );

    let mut own = worker.spec("w1");
    own.headers.insert("authorization", HeaderValue::from_static("Bearer workers"));
    let dam = Dam::new(vec![own], closed);
    let asked = seen(&dam, &worker, &fields, way).await;
    assert_eq!(asked.values("authorization"), ["Bearer workers"]);
}

#[tokio::test]
async fn one_workers_credentials_do_not_reach_another() {
    let (bad, good) = (Worker::resetting().await, Worker::saying(answer(200, "ok")).await);
    let mut first = bad.spec("w1");
    first.headers.insert("authorization", HeaderValue::from_static("Bearer first"));
    let dam = Dam::new(vec![first, good.spec("w2")], UpstreamSettings::default());
    seen(&dam, &good, &[], from(false)).await;
    assert_eq!(bad.asked()[0].values("authorization"), ["Bearer first"]);
    assert!(good.asked()[0].values("authorization").is_empty());
}

#[tokio::test]
async fn the_gateways_trace_is_told_and_paths_keep_their_encoding() {
    let worker = Worker::saying(answer(200, "ok")).await;
    let dam =
        Dam::new(vec![spec("w1", &format!("http://{}/base/", worker.addr))], UpstreamSettings::default());
    let record = RequestRecord::new("r1", Nanos::ZERO).in_trace(Some(Trace::new(10, 11, true)));
    let request = Request::get("/x?y=1").header("accept-encoding", "br");
    let request = request.extension(RequestCost::path()).extension(Arc::new(record));
    dam.send("w1", request.body(Payload::empty()).unwrap()).await.unwrap();
    let asked = worker.asked().pop().unwrap();
    assert!(asked.head.starts_with("GET /base/x?y=1 HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!(asked.values("accept-encoding"), ["br"]);
    assert!(asked.values("content-length").is_empty() && asked.values("x-forwarded-for").is_empty());
    assert_eq!(asked.values("traceparent"), ["00-0000000000000000000000000000000a-000000000000000b-01"]);
}

#[tokio::test]
async fn answers_lose_what_only_the_dam_may_say() {
    let worker = Worker::saying(
        "HTTP/1.1 200 OK\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nproxy-authenticate: Basic\r\n\
         x-traffic-dam-reason: overloaded\r\nx-ratelimit-limit-requests: 5\r\nx-request-id: theirs\r\n\
         x-unknown: one\r\nx-unknown: two\r\nset-cookie: a=b\r\nset-cookie: c=d\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    let response = dam.send("w1", chat(false, true)).await.unwrap();
    let headers = response.headers();
    for gone in [
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-authenticate",
        "x-traffic-dam-reason",
        "x-ratelimit-limit-requests",
    ] {
        assert_eq!(headers.get(gone), None, "{gone}");
    }
    assert_eq!(headers["x-request-id"], "r1");
    assert_eq!(headers.get_all("x-unknown").iter().count(), 2);
    assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
}

#[tokio::test]
async fn trailers_pass() {
    let worker = Worker::saying(
        "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\n\
         x-ratelimit-limit-requests: 5\r\n\r\n",
    )
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], UpstreamSettings::default());
    for _ in 0..2 {
        let response = dam.send("w1", chat(false, true)).await.unwrap();
        assert_eq!(response.headers()["trailer"], "x-sum");
        let (data, trailers, ended) = read(response).await;
        ended.unwrap();
        let trailers = trailers.unwrap();
        assert_eq!(
            (data.as_slice(), &trailers["x-sum"], trailers.len()),
            (&b"ok"[..], &"42".parse().unwrap(), 1)
        );
    }
    assert_eq!(
        worker.connections.load(std::sync::atomic::Ordering::SeqCst),
        1,
        "the connection is of use again"
    );
}
