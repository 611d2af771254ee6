//! Malicious or broken input: the gateway reports the error, keeps nothing of it, and goes on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use super::client::{Answer, Conn, PATIENCE, ask, chat, get, request};
use super::rig::{Dam, Worker, before, eventually};

const REQUESTS: u64 = 10_000;
const TASKS: u64 = 64;
const CHAT: &str = "POST /v1/chat/completions";
const GOOD: &str = r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":2}"#;
/// `bounds.body` of these tests.
const BODY: usize = 64 << 10;
/// `max_keys` of these tests.
const KEYS: u64 = 2000;
/// The burst of a rule of these tests, shared by all callers beyond `KEYS`.
const SHARED: u64 = 3000;
/// Allowed growth of the process in bytes: all tests of this binary run in it.
const GROWTH: u64 = 256 << 20;

fn settings(worker: &Worker) -> String {
    let more = format!(
        "# A whole body must have arrived within body_read on a busy machine too.
bounds: {{ body: 64KiB, body_read: 2s, header_read: 400ms, client_stall: 300ms, headers: 16KiB }}
max_keys: {KEYS}
paths: [\"/files/*\"]
callers:
  from: [{{ header: x-user-id }}, ip]
  trusted_proxies: [127.0.0.1/32]
concurrency: {{ queue: {{ length: 64, wait: 5s }}, ttft_slo: 20s }}
admin: {{ token: admin-secret }}
limits:
  - {{ name: ip, algorithm: token_bucket, per: ip, rate: 1/h, burst: {SHARED} }}
  - {{ name: caller, algorithm: sliding_window, per: caller, limit: 1000000, window: 1h }}"
    );
    before(&[worker.entry("w1", 64)], &more)
}

/// Returns the resident memory of the process in bytes.
fn memory() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn keys(dam: &Dam) -> Vec<u64> {
    use traffic_dam::server::admin::AdminSource;
    let state = dam.app.state();
    state["rules"].as_array().unwrap().iter().map(|rule| rule["keys"].as_u64().unwrap()).collect()
}

/// Checks that a refusal gives its reason.
fn explained(what: &str, answer: &Answer, statuses: &[u16]) {
    assert!(statuses.contains(&answer.status), "{what}: {} {}", answer.head, answer.text());
    if answer.status >= 400 {
        let json = answer.json();
        let message = json["error"]["message"].as_str().unwrap_or_default();
        assert!(message.len() > 10, "{what}: {}", answer.text());
        assert!(json["error"]["code"].is_string(), "{what}: {json}");
        assert!(answer.whole, "{what}");
    }
}

/// Returns random bytes, printable ones or any.
fn noise(random: &mut Rng, most: usize) -> Vec<u8> {
    let printable = random.bool();
    let length = random.usize(..most);
    (0..length).map(|_| if printable { random.u8(b' '..b'~') } else { random.u8(..) }).collect()
}

/// Returns a complete but wrong request, and the statuses that are right for it.
fn wrong(random: &mut Rng) -> (&'static str, Vec<u8>, &'static [u16]) {
    match random.u8(..18) {
        0 => ("bad JSON", request(CHAT, &[], &GOOD[..random.usize(..GOOD.len())]), &[400]),
        1 => ("not JSON", request(CHAT, &[], noise(random, 300)), &[400]),
        2 => (
            "bad UTF-8",
            request(
                CHAT,
                &[],
                b"{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}],\"model\":\"\xc3\x28\"}",
            ),
            &[400],
        ),
        3 => {
            let deep = ["[", "{\"a\":"][random.usize(..2)].repeat(random.usize(1..10_000));
            ("deep JSON", request(CHAT, &[], format!("{{\"messages\":{deep}")), &[400])
        }
        4 => {
            let twice =
                ["\"model\":\"a\",\"model\":\"b\"", "\"max_tokens\":1,\"max_tokens\":2", "\"n\":1,\"n\":2"];
            let body = format!("{{{},\"messages\":[]}}", twice[random.usize(..3)]);
            ("duplicate keys", request(CHAT, &[], body), &[400])
        }
        5 => {
            let wrong =
                ["\"max_tokens\":-3", "\"n\":99999999999", "\"stream\":\"yes\"", "\"model\":7", "\"n\":0"];
            let body = format!("{{{},\"messages\":[]}}", wrong[random.usize(..5)]);
            ("wrong types", request(CHAT, &[], body), &[400])
        }
        6 => {
            let coding = ["gzip", "br", "zstd", "gzip, identity"][random.usize(..4)];
            (
                "compressed",
                request(CHAT, &[&format!("content-encoding: {coding}")], noise(random, 200)),
                &[415],
            )
        }
        7 => {
            let paths = [
                "/v1/../admin",
                "/v1/./models",
                "/v1//models",
                "/v1/chat%2fcompletions",
                "/v1/%2e%2e/pause",
                "/files/..",
                "/files/%2E%2e/x",
                "/files/a%5cb",
                "/files/%zz",
                "/files/%",
                "/files/%00",
                "//files/a",
            ];
            ("paths", get(paths[random.usize(..paths.len())]), &[400])
        }
        8 => {
            let paths = [
                "/pause",
                "/update_weights",
                "/v1/chat/completions",
                "/V1/models",
                "/v1/models/",
                "/%66ile",
                "*",
                "/debug/last",
            ];
            ("unknown paths", get(paths[random.usize(..paths.len())]), &[400, 404, 405])
        }
        9 => {
            ("upgrade", request("GET /v1/models", &["upgrade: websocket", "connection: upgrade"], ""), &[501])
        }
        10 => {
            let forged = [
                "x-traffic-dam-class: king",
                "x-traffic-dam-deadline-ms: never",
                "x-traffic-dam-deadline-ms: -1",
            ];
            ("forged", request(CHAT, &[forged[random.usize(..3)]], GOOD), &[400])
        }
        11 => {
            let framing = [
                "content-length: 5\r\ntransfer-encoding: chunked",
                "content-length: 5\r\ncontent-length: 6",
                "transfer-encoding: gzip, chunked",
                "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
                "content-length: -1",
                "content-length: 5 5",
                "content-length: 99999999999999999999999",
                "transfer-encoding: chunked, identity",
                " folded: x",
                "a b: c",
                "host: other",
                ": nameless",
                "x: \0",
            ];
            let head = format!(
                "{CHAT} HTTP/1.1\r\nhost: x\r\n{}\r\n\r\n0\r\n\r\n",
                framing[random.usize(..framing.len())]
            );
            ("framing", head.into_bytes(), &[400, 413])
        }
        12 => {
            let head = format!(
                "{CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
                BODY as u64 + random.u64(1..u64::MAX / 2)
            );
            ("announced too large", head.into_bytes(), &[413])
        }
        13 => ("too large", request(CHAT, &[], vec![b'x'; BODY + random.usize(1..BODY)]), &[413]),
        14 => {
            let piece = format!("2000\r\n{}\r\n", "x".repeat(0x2000)).repeat(BODY / 0x2000 + 1);
            let head =
                format!("{CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{piece}0\r\n\r\n");
            ("chunked too large", head.into_bytes(), &[413])
        }
        15 => (
            "bad chunk",
            format!("{CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n").into_bytes(),
            &[400],
        ),
        16 => {
            let large = format!("x-large: {}", "x".repeat(random.usize(20_000..60_000)));
            ("large head", request(CHAT, &[&large], GOOD), &[431])
        }
        _ => (
            "a forged caller",
            request(CHAT, &["x-forwarded-for: ::, 999.9.9.9, \u{7f}\"<>", "x-user-id: \t"], "{}"),
            &[400],
        ),
    }
}

/// A client that is slow, stops, or leaves in the middle. Any answer it gets must say why.
async fn slow(dam: &Dam, random: &mut Rng) -> io::Result<()> {
    let mut conn = Conn::open(dam.addr).await;
    let good = request(CHAT, &[], GOOD);
    let head = good.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    match random.u8(..4) {
        0 => {
            conn.send(&good[..random.usize(1..head - 1)]).await?;
            explained("slow head", &conn.answer().await?, &[408]);
        }
        1 => {
            conn.send(&good[..random.usize(head..good.len())]).await?;
            explained("slow body", &conn.answer().await?, &[408]);
        }
        2 => {
            conn.send(&good[..random.usize(1..good.len())]).await?;
        }
        _ => {
            // Asks for much and reads nothing: it is cut off, or the kernel buffers all of it.
            for _ in 0..4 {
                conn.send(request(
                    "POST /v1/completions",
                    &[],
                    r#"{"prompt":"Hi","stream":true,"max_tokens":60}"#,
                ))
                .await?;
            }
            tokio::time::timeout(PATIENCE, conn.socket.readable()).await??;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_hostile_requests_are_told_what_is_wrong() {
    let worker = Worker::start(64);
    let dam = Arc::new(Dam::start(&settings(&worker)));
    let left = Arc::new(AtomicU64::new(REQUESTS));
    let grown_from = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for seed in 0..TASKS {
        let (dam, left, grown_from) = (Arc::clone(&dam), Arc::clone(&left), Arc::clone(&grown_from));
        tasks.spawn(async move {
            let mut random = Rng::with_seed(seed);
            let mut conn = None;
            while let Ok(before) =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            {
                // By then the process is warm: buffers and connections exist.
                if before == REQUESTS * 9 / 10 {
                    grown_from.store(memory(), Ordering::Relaxed);
                }
                if random.u8(..16) == 0 {
                    // Cutting off the connection is a valid answer too.
                    slow(&dam, &mut random).await.unwrap_or_default();
                    continue;
                }
                let (what, bytes, statuses) = wrong(&mut random);
                let mut open: Conn = match conn.take() {
                    Some(conn) => conn,
                    None => Conn::open(dam.addr).await,
                };
                // It may be refused before all of it is sent; then the answer counts.
                open.send(bytes).await.unwrap_or_default();
                let answer = open.answer().await.unwrap_or_else(|error| panic!("{what}: {error}"));
                explained(what, &answer, statuses);
                let ends = answer.header("connection").is_some() || matches!(answer.status, 408 | 413 | 431);
                conn = (!ends && !matches!(what, "bad chunk" | "framing")).then_some(open);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let grown = memory().saturating_sub(grown_from.load(Ordering::Relaxed));
    assert!(grown < GROWTH, "grown by {} MiB", grown >> 20);
    let good = dam.ask(request(CHAT, &[], GOOD)).await;
    assert_eq!(good.status, 200, "{}", good.text());
    dam.idle().await;
    worker.busy_with(0).await;
    assert!(keys(&dam).iter().all(|keys| *keys <= KEYS), "{:?}", keys(&dam));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_keys_are_no_more_than_the_bound() {
    const NEWCOMERS: u64 = 100_000;
    let worker = Worker::start(64);
    let dam = Arc::new(Dam::start(&settings(&worker)));
    let next = Arc::new(AtomicU64::new(0));
    let admitted = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    let start = memory();
    for _ in 0..16 {
        let (dam, next, admitted) = (Arc::clone(&dam), Arc::clone(&next), Arc::clone(&admitted));
        tasks.spawn(async move {
            let mut conn = Conn::open(dam.addr).await;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= NEWCOMERS {
                    return;
                }
                let [_, a, b, c] = (number as u32).to_be_bytes();
                let fields =
                    [&format!("x-forwarded-for: 11.{a}.{b}.{c}")[..], &format!("x-user-id: u{number}")];
                let answer = conn.ask(request("GET /v1/models", &fields, "")).await.unwrap();
                explained("a newcomer", &answer, &[200, 429]);
                if answer.status == 200 {
                    admitted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let known = keys(&dam);
    assert!(known.iter().all(|keys| (KEYS / 2..=KEYS).contains(keys)), "{known:?}");
    // Callers without an entry in the table shared one quota.
    assert_eq!(admitted.load(Ordering::Relaxed), known[0] + SHARED);
    assert!(memory().saturating_sub(start) < GROWTH);
    // A known caller keeps its count: the first caller was there before the table was full.
    let first = dam.ask(request("GET /v1/models", &["x-forwarded-for: 11.0.0.0", "x-user-id: u0"], "")).await;
    assert!(first.header("ratelimit").unwrap().contains("\"ip\";r=2998"), "{}", first.head);
    dam.idle().await;
}

#[tokio::test]
async fn one_who_does_not_read_is_cut_off_and_frees_its_slot() {
    let worker = Worker::start(64);
    let dam = Dam::start(&settings(&worker));
    let mut conn = Conn::open(dam.addr).await;
    socket2::SockRef::from(&conn.socket).set_recv_buffer_size(4096).unwrap();
    // More than the sockets can buffer: the stream stalls, is cut off, and frees everything.
    let body = r#"{"prompt":["a","b","c","d"],"n":8,"stream":true,"max_tokens":100000,"ignore_eos":true}"#;
    conn.send(request("POST /v1/completions", &[], body)).await.unwrap();
    eventually("its permits", async || dam.held() == 32).await;
    dam.idle().await;
    worker.busy_with(0).await;
    let mut rest = Vec::new();
    // The end is an EOF or a reset, after the data in flight.
    drop(tokio::time::timeout(PATIENCE, conn.socket.read_to_end(&mut rest)).await.expect("its end"));
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"));
    assert_eq!(dam.metric("requests_total", "outcome=\"client_gone\""), 1.0);
}

#[tokio::test]
async fn a_long_head_is_refused_however_it_arrives() {
    let worker = Worker::start(4);
    let dam = Dam::start(&settings(&worker));
    for body in (1000..60_000).step_by(3000) {
        // A large body leaves large buffers behind, into which a whole head may fit.
        let padded = request(CHAT, &[], format!("{}{GOOD}", " ".repeat(body)));
        for (head, status) in [(16_000, 200), (17_000, 431), (24_000, 431), (32_000, 431), (60_000, 431)] {
            let mut conn = Conn::open(dam.addr).await;
            assert_eq!(conn.ask(&padded).await.unwrap().status, 200);
            conn.send(request(CHAT, &[&format!("x-long: {}", "x".repeat(head))], GOOD))
                .await
                .unwrap_or_default();
            explained("long head", &conn.answer().await.unwrap(), &[status]);
        }
    }
}

#[tokio::test]
async fn the_admin_port_answers_nobody_from_elsewhere() {
    let worker = Worker::start(4);
    let dam = Dam::start(&settings(&worker));
    let token = "authorization: Bearer admin-secret";
    let json = "content-type: application/json";
    let put = "PUT /api/v1/maintenance";
    let on = "{\"on\":true}";
    let foreign =
        |line: &str| format!("{line} HTTP/1.1\r\nhost: evil.example\r\n{token}\r\n\r\n").into_bytes();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("foreign host", foreign("GET /metrics"), 421),
        ("foreign host", foreign("GET /healthz"), 421),
        ("foreign host", foreign("GET /api/v1/state"), 421),
        ("foreign origin", request(put, &[token, json, "origin: http://evil.example"], on), 403),
        ("foreign origin", request(put, &[token, json, "origin: null"], on), 403),
        ("no token", request(put, &[json], on), 401),
        ("no token", get("/api/v1/state"), 401),
        ("no token", get("/"), 401),
        ("token in the path", get("/api/v1/state?token=admin-secret"), 401),
        ("wrong token", request(put, &[json, "authorization: Bearer admin-secreT"], on), 401),
        ("no JSON", request(put, &[token], on), 415),
        ("bad JSON", request(put, &[token, json], "{"), 400),
        ("unknown", request("GET /../etc/passwd", &[token], ""), 404),
    ];
    for _ in 0..20 {
        for (what, bytes, status) in &cases {
            let answer = ask(dam.admin, bytes).await;
            explained(what, &answer, &[*status]);
        }
    }
    assert_eq!(ask(dam.admin, get("/readyz")).await.status, 200);
    assert_eq!(dam.ask(chat("a", true, 2, &[])).await.status, 200, "no maintenance came of it");
    dam.idle().await;
}

#[tokio::test]
async fn a_rule_sees_the_path_however_it_is_written() {
    let worker = Worker::start(64);
    let rule = |name: &str, path: &str| {
        format!(
            "{{ name: {name}, algorithm: token_bucket, per: all, rate: 1/h, burst: 1, match: {{ path: \"{path}\" }} }}"
        )
    };
    let rules = [rule("chat", "/v1/chat/*"), rule("files", "/files/secret*")].join(", ");
    let more = format!("paths: [\"/files/*\"]\nlimits: [{rules}]");
    let dam = Dam::start(&before(&[worker.entry("w1", 64)], &more));
    for (plain, escaped) in [
        (CHAT, ["POST /v1/%63hat/completions", "POST /v1/ch%61t/%63ompletions"]),
        ("GET /files/secret", ["GET /files/%73ecret", "GET /%66iles/s%65cret"]),
    ] {
        let body = if plain == CHAT { GOOD } else { "" };
        let first = dam.ask(request(plain, &[], body)).await;
        assert_ne!(first.status, 429, "{plain}: {}", first.text());
        for path in escaped {
            let again = dam.ask(request(path, &[], body)).await;
            assert_eq!((again.status, again.reason()), (429, "rate_limited"), "{path}: {}", again.text());
        }
    }
}
