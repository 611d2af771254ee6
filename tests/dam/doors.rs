//! Callers without a key: what they announce, send or ask for costs other callers nothing.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::client::{Conn, PATIENCE, chat, get, request};
use super::rig::{Dam, Worker, before};

const CLOSED: &str = "callers: { anonymous: refuse, keys: [{ id: a, sha256: ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb }] }\n";

/// Reads a connection up to these bytes; `None` if it ends before.
async fn read_to(socket: &mut TcpStream, end: &str) -> Option<String> {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        read.push(socket.read_u8().await.ok()?);
    }
    Some(String::from_utf8(read).unwrap().to_ascii_lowercase())
}

/// A worker that answers every connection with `answer`, and returns what it read, up to `end`.
async fn telling(answer: &'static str, end: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (told, hears) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let Some(read) = read_to(&mut socket, end).await else { return };
                told.send(read).unwrap();
                socket.write_all(answer.as_bytes()).await.unwrap();
            });
        }
    });
    (addr, hears)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

fn at(worker: SocketAddr, more: &str) -> String {
    before(&[format!("{{ id: w1, url: \"http://{worker}\", slots: 8 }}")], more)
}

async fn heard(hears: &mut mpsc::UnboundedReceiver<String>) -> String {
    tokio::time::timeout(PATIENCE, hears.recv()).await.expect("the worker was asked").unwrap()
}

#[tokio::test]
async fn announced_bodies_keep_nobody_out() {
    let worker = Worker::start(64);
    let dam = Dam::start(&before(&[worker.entry("w1", 64)], "bounds: { body: 8MiB, buffered: 16MiB }\n"));
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 8388608\r\n\r\n{";
    let mut announcers = Vec::new();
    for _ in 0..64 {
        let mut conn = Conn::open(dam.addr).await;
        conn.send(head).await.unwrap();
        announcers.push(conn);
    }
    super::rig::eventually("their heads were read", async || dam.metric("in_flight", "") == 64.0).await;
    assert_eq!(dam.ask(chat("a", false, 1, &[])).await.status, 200);
    drop(announcers);
    dam.idle().await;
}

#[tokio::test]
async fn a_body_that_no_rule_would_let_through_is_not_read() {
    let worker = Worker::start(8);
    let rules = "limits: [{ name: few, algorithm: token_bucket, per: caller, rate: 1/h, burst: 1 }]\n";
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], rules));
    assert_eq!(dam.ask(chat("a", false, 1, &[])).await.status, 200);
    let mut conn = Conn::open(dam.addr).await;
    conn.send("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n").await.unwrap();
    let refused = conn.answer().await.unwrap();
    assert_eq!((refused.status, refused.reason()), (429, "rate_limited"));
    assert!(refused.number("retry-after") > 3000, "{}", refused.head);
    assert!(refused.header("ratelimit").unwrap().contains("\"few\";r=0"), "{}", refused.head);
    assert_eq!(dam.metric("limit_checks_total", "refused"), 1.0);
    dam.idle().await;
}

#[tokio::test]
async fn a_preflight_reaches_no_worker_and_opens_nothing() {
    let worker = Worker::start(8);
    let asks = [
        "origin: https://a.example",
        "access-control-request-method: POST",
        "connection: upgrade",
        "upgrade: websocket",
    ];
    for (more, opened) in [("", false), ("cors: { origins: [\"https://a.example\"] }\n", true)] {
        let text = format!("{CLOSED}paths: [\"/*\"]\n{more}");
        let dam = Dam::start(&before(&[worker.entry("w1", 8)], &text));
        let answer = dam.ask(request("OPTIONS /files/x", &asks, "body")).await;
        assert!(matches!(answer.status, 200 | 204), "{}", answer.head);
        assert_eq!(answer.header("access-control-allow-origin").is_some(), opened, "{}", answer.head);
        assert_eq!(dam.metric("requests_total", "route=\"preflight\""), 1.0);
        if !opened {
            assert_eq!(dam.ask(request("OPTIONS /files/x", &[], "")).await.status, 401, "this one is none");
        }
    }
    assert_eq!(worker.tally("received").await, 0);
}

#[tokio::test]
async fn a_worker_lets_no_page_read_its_answers() {
    const OPEN: &str = "HTTP/1.0 200 OK\r\naccess-control-allow-origin: *\r\naccess-control-allow-credentials: true\r\n\
                        timing-allow-origin: *\r\nalt-svc: h2=\"10.0.0.5:8000\"\r\n\
                        content-length: 2\r\nconnection: close\r\n\r\n{}";
    let (worker, _hears) = telling(OPEN, "\r\n\r\n").await;
    for (more, allowed) in
        [("", None), ("cors: { origins: [\"https://a.example\"] }\n", Some("https://a.example"))]
    {
        let dam = Dam::start(&at(worker, &format!("paths: [\"/files/*\"]\n{more}")));
        let read = async |origin: &str| {
            let answer = dam.ask(request("GET /files/x", &[&format!("origin: {origin}")], "")).await;
            assert_eq!((answer.status, answer.header("access-control-allow-credentials")), (200, None));
            assert_eq!((answer.header("timing-allow-origin"), answer.header("alt-svc")), (None, None));
            assert!(
                answer.head.starts_with("HTTP/1.1 "),
                "the version is the gateway's own: {}",
                answer.head
            );
            answer.header("access-control-allow-origin").map(str::to_owned)
        };
        assert_eq!(read("https://evil.example").await, None);
        assert_eq!(read("https://a.example").await.as_deref(), allowed);
    }
}

#[tokio::test]
async fn only_a_websocket_is_offered_to_a_worker() {
    let (worker, mut hears) = telling(OK, "\r\n\r\n").await;
    let dam = Dam::start(&at(worker, "paths: [\"/files/*\"]\n"));
    const NAMED: &str = "connection: keep-alive, Upgrade, http2-settings";
    for (line, connection, offers, body, passed) in [
        ("GET", NAMED, &["h2c"][..], "", None),
        ("GET", NAMED, &["H2C"], "", None),
        ("GET", NAMED, &["TLS/1.2, HTTP/2.0"], "", None),
        ("GET", NAMED, &["h2c, websocket"], "", Some("websocket")),
        ("GET", NAMED, &["WebSocket", "H2c"], "", Some("websocket")),
        ("POST", NAMED, &["websocket"], "", None),
        ("HEAD", NAMED, &["websocket"], "", None),
        // Sent by a proxy that did not read it, or with a body in whose end a tunnel may begin.
        ("GET", "connection: keep-alive, http2-settings", &["websocket"], "", None),
        ("GET", NAMED, &["websocket"], "GET ", None),
    ] {
        let offers: Vec<String> = offers.iter().map(|offer| format!("upgrade: {offer}")).collect();
        let fields: Vec<&str> = [connection, "http2-settings: AAMAAABk"]
            .into_iter()
            .chain(offers.iter().map(String::as_str))
            .collect();
        let mut conn = Conn::open(dam.addr).await;
        conn.send(request(&format!("{line} /files/x"), &fields, body)).await.unwrap();
        assert_eq!(conn.head().await.unwrap().status, 200, "{offers:?}");
        let head = heard(&mut hears).await;
        let offered: Vec<_> = head.lines().filter_map(|line| line.strip_prefix("upgrade: ")).collect();
        assert_eq!(offered, passed.into_iter().collect::<Vec<_>>(), "{line} {offers:?}");
        assert!(!head.contains("http2-settings"), "{head}");
    }
}

#[tokio::test]
async fn a_body_of_any_method_passes_and_its_trailers_are_only_its_own() {
    let (worker, mut hears) = telling(OK, "\r\n0\r\nx-sum: 1\r\n\r\n").await;
    let dam = Dam::start(&at(worker, "paths: [\"/files/*\"]\n"));
    for method in ["PUT", "GET", "DELETE"] {
        let head = format!(
            "{method} /files/x HTTP/1.1\r\nhost: x\r\nx_forwarded_for: 6.6.6.6\r\nx-http-method-override: DELETE\r\n\
             transfer-encoding: chunked\r\ntrailer: x-sum, x-forwarded-for, x_real_ip, connection\r\n\r\n"
        );
        let rest = "4\r\nbody\r\n0\r\nx-forwarded-for: 6.6.6.6\r\nx_real_ip: 6.6.6.6\r\nconnection: x\r\nx-sum: 1\r\n\r\n";
        assert_eq!(dam.ask(head + rest).await.status, 200, "{method}");
        let read = heard(&mut hears).await;
        assert!(read.contains("transfer-encoding: chunked\r\n") && read.contains("4\r\nbody\r\n"), "{read}");
        assert!(!read.contains("6.6.6.6") && !read.contains("override"), "{read}");
    }
}

#[tokio::test]
async fn a_client_that_owes_its_body_is_no_fault_of_the_worker() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let worker = listener.local_addr().unwrap();
    // Reads the beginning of each request, and closes.
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            read_to(&mut socket, "\r\n\r\na").await;
        }
    });
    let dam = Dam::start(&at(worker, "paths: [\"/files/*\"]\n"));
    let before =
        traffic_dam::server::admin::AdminSource::state(&dam.app)["pools"][0]["workers"][0]["limit"].clone();
    for _ in 0..4 {
        let mut conn = Conn::open(dam.addr).await;
        conn.send("PUT /files/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\na").await.unwrap();
        let answer = conn.answer().await.unwrap();
        assert_eq!((answer.status, answer.reason()), (408, "body_timeout"));
    }
    let state = traffic_dam::server::admin::AdminSource::state(&dam.app);
    let after = &state["pools"][0]["workers"][0];
    assert_eq!((&after["limit"], &after["light"]), (&before, &"green".into()), "{after}");
}

#[tokio::test]
async fn a_redirect_and_a_length_say_what_is_true_for_the_client() {
    let (worker, _hears) = telling(
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "\r\n\r\n",
    )
    .await;
    let dam = Dam::start(&at(worker, "paths: [\"/files/*\"]\n"));
    let answer = dam.ask(get("/files/x")).await;
    assert_eq!((answer.text(), answer.whole, answer.header("content-length")), ("hello", true, None));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let worker = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            read_to(&mut socket, "\r\n\r\n").await;
            let answer = format!(
                "HTTP/1.1 307 Moved\r\nlocation: http://{worker}/base/files/y?a=b\r\ncontent-length: 0, 0\r\n\
                 connection: close\r\n\r\n"
            );
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let url = format!("{{ id: w1, url: \"http://{worker}/base\", slots: 8 }}");
    let dam = Dam::start(&before(&[url], "paths: [\"/files/*\"]\n"));
    let answer = dam.ask(get("/files/x")).await;
    assert_eq!((answer.status, answer.header("location")), (307, Some("/files/y?a=b")));
    assert_eq!(answer.header("content-length"), Some("0"));
}

#[tokio::test]
async fn methods_in_other_letters_reach_nothing() {
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], "paths: [\"/*\"]\n"));
    for method in ["post", "Post", "gET"] {
        let bytes = request(&format!("{method} /v1/chat/completions"), &["content-length: 2"], "");
        let answer = dam.ask([&bytes[..], b"{}"].concat()).await;
        assert_eq!((answer.status, answer.reason()), (400, "bad_request"), "{method}");
    }
    assert_eq!(worker.tally("received").await, 0);
}

#[tokio::test]
async fn no_bound_and_a_byte_order_mark_are_served_where_they_can_be() {
    let (worker, mut hears) = telling(OK, "}").await;
    let asks = |bound: i64| format!("\u{feff}{{\"model\":\"sim\",\"messages\":[],\"max_tokens\":{bound}}}");
    let rule = |reserve: &str| {
        format!(
            "limits: [{{ name: t, algorithm: sliding_window, per: caller, unit: tokens, limit: 100000, window: 1h, reserve: {reserve} }}]\n"
        )
    };
    for (more, status) in [(String::new(), 200), (rule("expected"), 200), (rule("max"), 400)] {
        let dam = Dam::start(&at(worker, &more));
        let answer = dam.ask(request("POST /v1/chat/completions", &[], asks(-1))).await;
        assert_eq!(answer.status, status, "{more} {}", answer.text());
        if status == 200 {
            assert!(
                heard(&mut hears)
                    .await
                    .ends_with("\r\n\r\n{\"model\":\"sim\",\"messages\":[],\"max_tokens\":-1}")
            );
        }
        assert_eq!(dam.ask(request("POST /v1/chat/completions", &[], asks(4))).await.status, 200, "{more}");
        heard(&mut hears).await;
    }
}
