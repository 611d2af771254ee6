//! The admin port over real sockets: what it shows, and which requests it refuses.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use traffic_dam::server::admin::live::{Live, SecondPoint};
use traffic_dam::server::admin::{
    Admin, AdminSettings, AdminSource, Explanation, SwitchRequest, Switched, Token,
};
use traffic_dam::server::{Drain, DrainPhase, ListenerBounds, serve};
use traffic_dam::view::{CanaryView, GatewayView};

#[derive(Default)]
struct Source {
    maintenance: AtomicBool,
    live: Arc<Live>,
}

impl AdminSource for Source {
    fn state(&self) -> Value {
        json!({ "maintenance": self.maintenance.load(Ordering::SeqCst), "workers": [{ "id": "w1" }] })
    }

    fn ready(&self) -> Result<(), String> {
        if self.maintenance.load(Ordering::SeqCst) {
            Err("closed for maintenance".to_owned())
        } else {
            Ok(())
        }
    }

    fn metrics(&self) -> String {
        "traffic_dam_in_flight 0\n".to_owned()
    }

    fn live(&self) -> Option<Arc<Live>> {
        Some(Arc::clone(&self.live))
    }

    fn set_maintenance(&self, on: bool) {
        self.maintenance.store(on, Ordering::SeqCst);
    }

    fn set_active(&self, request: SwitchRequest) -> Pin<Box<dyn Future<Output = Switched> + Send>> {
        Box::pin(async move {
            match (&*request.pool, &*request.colour) {
                ("chat", "green") if request.canary.is_some() => Switched::Canary { epoch: 9 },
                ("chat", "busy") if !request.force => Switched::UnderWay,
                ("chat", "busy") => Switched::Everywhere { epoch: 10 },
                ("chat", "cold") => Switched::NotReady,
                ("chat", "blue") => Switched::NotBeside,
                ("chat", "green") => Switched::Everywhere { epoch: 7 },
                ("chat", "slow") => Switched::Partly { epoch: 8 },
                ("chat", "down") => Switched::Unavailable,
                ("chat", _) => Switched::NoWorkers,
                _ => Switched::NoPool,
            }
        })
    }

    fn canary(&self, pool: &str) -> Option<CanaryView> {
        let view = CanaryView { epoch: 9, new: "green".into(), share: 0.05, ..CanaryView::default() };
        (pool == "chat").then_some(view)
    }

    fn attend_canary(&self, pool: &str, epoch: u64) -> Option<CanaryView> {
        self.canary(pool).filter(|canary| canary.epoch == epoch)
    }

    fn end_canary(&self, pool: String) -> Pin<Box<dyn Future<Output = Switched> + Send>> {
        let ended = if pool == "chat" { Switched::Cancelled } else { Switched::NoCanary };
        Box::pin(std::future::ready(ended))
    }

    fn explain(&self, query: String) -> Explanation {
        Box::pin(async move {
            match query.as_str() {
                "caller=a" => Ok(json!({ "rules": [] })),
                other => Err(format!("no such question: {other}")),
            }
        })
    }
}

async fn start(settings: AdminSettings) -> SocketAddr {
    start_with(settings, Source::default()).await
}

async fn start_with(settings: AdminSettings, source: Source) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let admin = Admin::new(Arc::new(ArcSwap::from_pointee(settings)), Arc::new(source));
    tokio::spawn(serve(
        listener,
        None,
        Arc::new(ArcSwap::from_pointee(ListenerBounds::default())),
        admin,
        Drain::new(),
        DrainPhase::Closed,
    ));
    addr
}

fn guarded() -> AdminSettings {
    AdminSettings {
        token: Some(Token::new("write-secret")),
        read_token: Some(Token::new("read-secret")),
        metrics_token: None,
        hosts: vec!["localhost".to_owned()],
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn error(&self) -> (u16, String, String) {
        let body: Value =
            serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body));
        let field = |name: &str| body["error"][name].as_str().unwrap().to_owned();
        (self.status, field("code"), field("message"))
    }
}

async fn send(addr: SocketAddr, start: &str, fields: &[&str], body: &str) -> Answer {
    let mut head = format!("{start} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if !fields.iter().any(|field| field.starts_with("host:")) {
        head.push_str("host: localhost\r\n");
    }
    for field in fields {
        head.push_str(field);
        head.push_str("\r\n");
    }
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all((head + "\r\n" + body).as_bytes()).await.unwrap();
    let mut text = String::new();
    let read = socket.read_to_string(&mut text);
    tokio::time::timeout(Duration::from_secs(20), read).await.unwrap().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.get(9..12).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

#[tokio::test]
async fn an_open_port_shows_everything_and_maintenance_closes_readiness_not_health() {
    let addr = start(AdminSettings { hosts: vec!["localhost".to_owned()], ..AdminSettings::default() }).await;
    for (path, content, text) in [
        ("/", "text/html", "Traffic Dam"),
        ("/healthz", "application/json", "ok"),
        ("/readyz", "application/json", "ready"),
        ("/metrics", "text/plain; version=0.0.4", "traffic_dam_in_flight 0"),
        ("/api/v1/state", "application/json", "\"id\":\"w1\""),
    ] {
        let answer = send(addr, &format!("GET {path}"), &[], "").await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.head.contains(&format!("content-type: {content}")), "{path}: {}", answer.head);
        assert!(answer.body.contains(text), "{path}: {}", answer.body);
        for guard in [
            "content-security-policy: default-src 'none'",
            "x-frame-options: DENY",
            "cache-control: no-store",
        ] {
            assert!(answer.head.contains(guard), "{path}: {}", answer.head);
        }
        let head = send(addr, &format!("HEAD {path}"), &[], "").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
    }

    assert!(send(addr, "GET /api/v1/explain?caller=a", &[], "").await.body.contains("rules"));
    let (status, _, message) = send(addr, "GET /api/v1/explain?b", &[], "").await.error();
    assert_eq!((status, message.as_str()), (400, "no such question: b"));

    let put =
        |body: &'static str| send(addr, "PUT /api/v1/maintenance", &["content-type: application/json"], body);
    assert_eq!(put("{\"on\": true}").await.body.trim(), "{\"maintenance\":true}");
    let unready = send(addr, "GET /readyz", &[], "").await;
    assert_eq!(unready.error(), (503, "not_ready".to_owned(), "closed for maintenance".to_owned()));
    assert_eq!(send(addr, "GET /healthz", &[], "").await.status, 200);
    assert_eq!(put("{\"on\": false}").await.status, 200);
    assert_eq!(send(addr, "GET /readyz", &[], "").await.status, 200);
}

#[tokio::test]
async fn a_token_is_needed_in_a_header_and_each_may_do_its_own() {
    let addr = start(guarded()).await;
    let basic = base64::engine::general_purpose::STANDARD.encode("me:read-secret");
    let read = [
        ("", 401),
        ("authorization: Bearer wrong", 401),
        ("authorization: Bearer read-secret", 200),
        ("authorization: Bearer write-secret", 200),
        (&format!("authorization: Basic {basic}"), 200),
    ];
    for path in ["/", "/api/v1/state", "/api/v1/state?token=read-secret"] {
        for (field, expected) in read {
            if field.is_empty() || path.contains('?') {
                let answer = send(addr, &format!("GET {path}"), &[], "").await;
                assert_eq!(answer.error().0, 401, "{path}");
                assert!(answer.head.contains("www-authenticate: Basic"), "{}", answer.head);
            } else {
                assert_eq!(
                    send(addr, &format!("GET {path}"), &[field], "").await.status,
                    expected,
                    "{path} {field}"
                );
            }
        }
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(send(addr, &format!("GET {path}"), &[], "").await.status, 200, "{path}");
    }
    for (secret, expected) in [("wrong", 401), ("read-secret", 403), ("write-secret", 200)] {
        let fields = [&format!("authorization: Bearer {secret}")[..], "content-type: application/json"];
        let answer = send(addr, "PUT /api/v1/maintenance", &fields, "{\"on\":true}").await;
        assert_eq!(answer.status, expected, "{secret}: {}", answer.body);
    }

    let closed = start(AdminSettings { metrics_token: Some(Token::new("scrape")), ..guarded() }).await;
    assert_eq!(send(closed, "GET /metrics", &[], "").await.error().0, 401);
    assert_eq!(send(closed, "GET /metrics", &["authorization: Bearer scrape"], "").await.status, 200);
    assert_eq!(send(closed, "GET /api/v1/state", &["authorization: Bearer scrape"], "").await.error().0, 401);
}

#[tokio::test]
async fn a_foreign_name_is_refused_with_or_without_the_token() {
    let addr = start(guarded()).await;
    for path in ["/", "/metrics", "/healthz", "/api/v1/state"] {
        let fields = ["host: evil.example:8081", "authorization: Bearer write-secret"];
        let (status, code, message) = send(addr, &format!("GET {path}"), &fields, "").await.error();
        assert_eq!((status, code.as_str()), (421, "foreign_host"), "{path}");
        assert!(message.contains("admin.hosts"), "{message}");
    }
    // The absolute form (a whole URL as the target) must not bypass the check.
    let answer =
        send(addr, "GET http://evil.example/api/v1/state", &["authorization: Bearer write-secret"], "").await;
    assert_eq!(answer.error().0, 421);
}

#[tokio::test]
async fn a_write_must_come_from_here_be_json_and_be_small() {
    let addr = start(guarded()).await;
    let token = "authorization: Bearer write-secret";
    let json = "content-type: application/json; charset=utf-8";
    let big = format!("{{\"on\":true{}}}", " ".repeat(1 << 20));
    let cases: [(&[&str], &str, u16, &str); 9] = [
        (&[token, json, "origin: http://evil.example"], "{\"on\":true}", 403, "foreign_origin"),
        (&[token, json, "origin: null"], "{\"on\":true}", 403, "foreign_origin"),
        (&[token], "{\"on\":true}", 415, "unsupported_media_type"),
        (&[token, "content-type: text/plain"], "{\"on\":true}", 415, "unsupported_media_type"),
        (&[token, json], &big, 413, "body_too_large"),
        (&[token, json], "{\"on\":", 400, "bad_request"),
        (&[token, json], "{\"on\":\"yes\"}", 400, "bad_request"),
        (&[token, json], "{\"on\":true,\"off\":1}", 400, "bad_request"),
        (&[json], "{\"on\":true}", 401, "unauthorized"),
    ];
    for (fields, body, status, code) in cases {
        let (had, said, message) = send(addr, "PUT /api/v1/maintenance", fields, body).await.error();
        assert_eq!((had, said.as_str()), (status, code), "{fields:?}: {message}");
        assert!(!message.is_empty());
    }
    // None of them had an effect.
    assert_eq!(send(addr, "GET /readyz", &[], "").await.status, 200);
    let fields = [token, json, "origin: http://localhost", "host: localhost"];
    assert_eq!(send(addr, "PUT /api/v1/maintenance", &fields, "{\"on\":true}").await.status, 200);
}

#[tokio::test]
async fn unknown_paths_and_methods_say_what_there_is() {
    let addr = start(guarded()).await;
    let (status, _, message) = send(addr, "GET /admin", &[], "").await.error();
    assert!(status == 404 && message.contains("/api/v1/state"), "{message}");
    let answer = send(addr, "POST /api/v1/maintenance", &[], "").await;
    assert!(answer.status == 405 && answer.head.contains("allow: PUT"), "{}", answer.head);
    assert_eq!(send(addr, "DELETE /", &[], "").await.error().0, 405);
}

#[tokio::test]
async fn a_switch_of_colours_is_told_as_it_came_out() {
    let addr = start(AdminSettings { hosts: vec!["localhost".to_owned()], ..AdminSettings::default() }).await;
    let json = ["content-type: application/json"];
    let put = async |pool: &str, body: &'static str| {
        send(addr, &format!("PUT /api/v1/pools/{pool}/active"), &json, body).await
    };
    let done = put("chat", "{\"colour\":\"green\"}").await;
    assert_eq!(
        (done.status, done.body.trim()),
        (200, "{\"pool\":\"chat\",\"active\":\"green\",\"epoch\":7}")
    );
    assert_eq!(put("chat", "{\"colour\":\"slow\"}").await.status, 202);
    for (pool, body, status, code) in [
        ("chat", "{\"colour\":\"down\"}", 503, "redis_unavailable"),
        ("chat", "{\"colour\":\"red\"}", 409, "no_such_colour"),
        ("chat", "{\"colour\":\"cold\"}", 409, "colour_not_ready"),
        ("chat", "{\"colour\":\"busy\"}", 409, "canary_under_way"),
        ("chat", "{\"colour\":\"blue\",\"canary\":\"5%\"}", 409, "no_other_colour"),
        ("chat", "{\"colour\":\"green\",\"canary\":\"60%\"}", 400, "bad_request"),
        ("chat", "{\"colour\":\"green\",\"judge\":60}", 400, "bad_request"),
        ("other", "{\"colour\":\"green\"}", 404, "no_such_pool"),
        ("chat", "{}", 400, "bad_request"),
        ("a/b", "{}", 404, "not_found"),
    ] {
        let answer = put(pool, body).await;
        assert_eq!((answer.error().0, answer.error().1.as_str()), (status, code), "{pool} {body}");
    }
    let guarded = start(guarded()).await;
    assert_eq!(
        send(guarded, "PUT /api/v1/pools/chat/active", &json, "{\"colour\":\"green\"}").await.status,
        401
    );
    assert_eq!(send(addr, "GET /api/v1/pools/chat/active", &[], "").await.status, 405);
    assert_eq!(put("chat", "{\"colour\":\"busy\",\"force\":true}").await.status, 200);
}

#[tokio::test]
async fn a_canary_is_begun_read_attended_and_ended() {
    let addr = start(AdminSettings { hosts: vec!["localhost".to_owned()], ..AdminSettings::default() }).await;
    let json = ["content-type: application/json"];
    let call = async |method: &str, path: &str, body: &str| {
        send(addr, &format!("{method} /api/v1/pools/{path}"), &json, body).await
    };
    let begun = call("PUT", "chat/active", r#"{"colour":"green","canary":"5%","judge":60}"#).await;
    let view: Value = serde_json::from_str(&begun.body).unwrap();
    assert_eq!((begun.status, &view["state"], &view["share"]), (202, &json!("under_way"), &json!(0.05)));
    for (method, path, body, status) in [
        ("GET", "chat/canary", "", 200),
        ("GET", "other/canary", "", 404),
        ("PUT", "chat/canary", "{\"epoch\":9}", 200),
        ("PUT", "chat/canary", "{\"epoch\":8}", 404),
        ("PUT", "chat/canary", "{}", 400),
        ("DELETE", "chat/canary", "", 200),
        ("DELETE", "other/canary", "", 404),
        ("POST", "chat/canary", "{}", 405),
    ] {
        assert_eq!(call(method, path, body).await.status, status, "{method} {path} {body}");
    }
    let guarded = start(guarded()).await;
    for (method, token, status) in
        [("GET", "read-secret", 200), ("DELETE", "read-secret", 403), ("DELETE", "write-secret", 200)]
    {
        let field = format!("authorization: Bearer {token}");
        let answer = send(guarded, &format!("{method} /api/v1/pools/chat/canary"), &[&field], "").await;
        assert_eq!(answer.status, status, "{method} {token}");
    }
}

#[tokio::test]
async fn viewers_get_a_picture_each_second_and_are_only_so_many() {
    let live = Arc::new(Live::default());
    let second = |at_ms| live.push(SecondPoint { at_ms, ..SecondPoint::default() }, GatewayView::default());
    second(1);
    let addr = start_with(guarded(), Source { live: Arc::clone(&live), ..Source::default() }).await;
    assert_eq!(send(addr, "GET /api/v1/events", &[], "").await.error().0, 401);

    let join = async || {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        let request =
            "GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer read-secret\r\n\r\n";
        socket.write_all(request.as_bytes()).await.unwrap();
        let head = read_until(&mut socket, "\r\n\r\n").await;
        (head, socket)
    };
    let (head, mut viewer) = join().await;
    assert!(head.contains("200 OK") && head.contains("content-type: text/event-stream"), "{head}");
    assert!(read_until(&mut viewer, "\n\n").await.contains("\"whole\":true,\"points\":[{\"at_ms\":1,"));
    second(2);
    assert!(read_until(&mut viewer, "\n\n").await.contains("\"whole\":false,\"points\":[{\"at_ms\":2,"));

    let mut others = Vec::new();
    let refused = loop {
        let (head, socket) = join().await;
        others.push(socket);
        if !head.contains("200 OK") {
            break head;
        }
    };
    assert!(refused.contains("503") && others.len() > 10, "{refused}");
    drop(viewer);
    let seat_is_free = async {
        while !join().await.0.contains("200 OK") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), seat_is_free).await.unwrap();
}

async fn read_until(socket: &mut TcpStream, mark: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(mark.as_bytes()) {
        let byte = tokio::time::timeout(Duration::from_secs(20), socket.read_u8()).await;
        text.push(byte.unwrap().unwrap());
    }
    String::from_utf8(text).unwrap()
}
