//! Settings that change while requests are in flight, and shutdown.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::client::{Conn, ask, chat, get, request};
use super::rig::{Dam, Worker, before, eventually, settings, sum};

fn rules(first: &str, second: &str) -> String {
    format!(
        "limits:
  - {{ name: kept, algorithm: token_bucket, per: all, match: {{ path: /v1/chat/* }}, {first} }}
  - {{ name: window, algorithm: sliding_window, per: caller, match: {{ path: /v1/embeddings }}, {second} }}"
    )
}

fn embed() -> Vec<u8> {
    request("POST /v1/embeddings", &[], r#"{"input":"One"}"#)
}

#[tokio::test]
async fn counts_stay_with_an_unchanged_quota_and_begin_again_with_another() {
    let worker = Worker::start(8);
    let text = |first: &str, second: &str| before(&[worker.entry("w1", 8)], &rules(first, second));
    let dam = Dam::start(&text("rate: 1/h, burst: 3", "limit: 2, window: 1h"));
    for expected in [200, 200] {
        assert_eq!(dam.ask(chat("a", false, 1, &[])).await.status, expected);
        assert_eq!(dam.ask(embed()).await.status, expected);
    }
    assert_eq!(dam.ask(embed()).await.status, 429);

    // One rule moves behind a new one and keeps its count; the other's quota changes.
    let mut changed = text("rate: 1/h, burst: 3", "limit: 3, window: 1h");
    changed = changed.replace(
        "limits:",
        "limits:\n  - { name: new, algorithm: token_bucket, per: ip, rate: 9/s, burst: 90 }",
    );
    dam.app.reload(settings(&changed)).unwrap();
    let third = dam.ask(chat("a", false, 1, &[])).await;
    assert_eq!(third.status, 200);
    assert!(third.header("ratelimit").unwrap().contains("\"new\";r=89"), "{}", third.head);
    assert_eq!(dam.ask(chat("a", false, 1, &[])).await.status, 429, "the bucket was not refilled");
    for expected in [200, 200, 200, 429] {
        assert_eq!(dam.ask(embed()).await.status, expected);
    }
    // Reloading equal settings changes nothing.
    dam.app.reload(settings(&changed)).unwrap();
    assert_eq!(dam.ask(chat("a", false, 1, &[])).await.status, 429);
    assert_eq!(dam.ask(embed()).await.status, 429);
}

/// Returns a stream through the gateway whose worker pauses after two tokens.
async fn held(dam: &Dam) -> Conn {
    let mut conn = Conn::open(dam.addr).await;
    conn.send(chat("held", true, 5, &["x-sim-fault: stall:2"])).await.unwrap();
    assert_eq!(conn.head().await.unwrap().status, 200);
    conn
}

#[tokio::test]
async fn workers_come_and_go_under_requests() {
    let workers = [Worker::start(8), Worker::start(8)];
    let entries = [workers[0].entry("w1", 2), workers[1].entry("w2", 2)];
    let queue = "concurrency: { queue: { length: 4, wait: 20s } }";
    let one = before(&entries[..1], queue);
    let both = before(&entries, queue);
    let other = before(&entries[1..], queue);
    let dam = Dam::start(&one);
    let streams = [held(&dam).await, held(&dam).await];
    // It is full: the next one waits until a worker is added.
    let mut waiting = Conn::open(dam.addr).await;
    waiting.send(chat("waiting", true, 3, &[])).await.unwrap();
    eventually("a waiter", async || dam.held() == 3).await;
    dam.app.reload(settings(&both)).unwrap();
    let answer = waiting.answer().await.unwrap();
    assert_eq!((answer.status, answer.whole), (200, true));
    assert_eq!(workers[1].tally("finished").await, 1);

    // The first worker is removed: its streams continue, and it gets no new requests.
    dam.app.reload(settings(&other)).unwrap();
    for _ in 0..10 {
        assert_eq!(dam.ask(chat("new", true, 2, &[])).await.status, 200);
    }
    assert_eq!(workers[0].tally("received").await, 2);
    assert_eq!(workers[0].tally("in_flight").await, 2, "its streams were not cut off");
    assert_eq!(dam.held(), 2);
    drop(streams);
    dam.idle().await;
    workers[0].busy_with(0).await;

    // It comes back in its previous state.
    dam.app.reload(settings(&one)).unwrap();
    assert_eq!(dam.ask(chat("back", true, 2, &[])).await.status, 200);
    assert_eq!(workers[0].tally("received").await, 3);
    dam.idle().await;
}

#[tokio::test]
async fn a_reload_amid_traffic_fails_nobody() {
    let workers = [Worker::start(64), Worker::start(64)];
    let entries = [workers[0].entry("w1", 64), workers[1].entry("w2", 64)];
    let dam = Dam::start(&before(&entries, ""));
    let texts = [before(&entries[..1], ""), before(&entries, ""), before(&entries[1..], "")];
    let traffic = async {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let addr = dam.addr;
            clients.spawn(async move {
                let mut conn = Conn::open(addr).await;
                for _ in 0..40 {
                    let answer = conn.ask(chat("a", true, 3, &[])).await.unwrap();
                    assert_eq!((answer.status, answer.whole), (200, true), "{}", answer.text());
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
    };
    let reloads = async {
        for text in texts.iter().cycle() {
            dam.app.reload(settings(text)).unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = traffic => {}
        () = reloads => {}
    }
    dam.idle().await;
    assert_eq!(dam.metric("requests_total", "outcome=\"complete\""), 320.0);
}

#[tokio::test]
async fn maintenance_refuses_new_requests_and_no_others() {
    let worker = Worker::start(8);
    let dam = Dam::start(&before(&[worker.entry("w1", 8)], ""));
    let mut open = Conn::open(dam.addr).await;
    open.send(chat("open", true, 1000, &[])).await.unwrap();
    let head = open.head().await.unwrap();
    let put = |on: bool| {
        request("PUT /api/v1/maintenance", &["content-type: application/json"], format!("{{\"on\":{on}}}"))
    };
    assert_eq!(ask(dam.admin, put(true)).await.status, 200);
    // A load balancer that takes it for dead would hide the reason from clients.
    assert_eq!(ask(dam.admin, get("/readyz")).await.status, 200);
    assert_eq!(ask(dam.admin, get("/healthz")).await.status, 200);
    assert_eq!(ask(dam.admin, get("/api/v1/state")).await.json()["maintenance"], true);
    let refused = dam.ask(chat("a", true, 2, &[])).await;
    assert_eq!((refused.status, refused.reason()), (503, "maintenance"));
    assert!(refused.number("retry-after") >= 1 && refused.number("retry-after-ms") >= 1);
    let rest = open.rest(head).await;
    assert!(rest.whole && rest.text().ends_with("data: [DONE]\n\n"));
    // A reload does not open it.
    dam.app.reload(settings(&before(&[worker.entry("w1", 8)], "max_keys: 5"))).unwrap();
    assert_eq!(dam.ask(chat("a", true, 2, &[])).await.status, 503);
    assert_eq!(ask(dam.admin, put(false)).await.status, 200);
    assert_eq!(dam.ask(chat("a", true, 2, &[])).await.status, 200);
}

#[tokio::test]
async fn a_drain_lets_streams_end_and_then_refuses() {
    let worker = Worker::start(8);
    let more = "drain: { delay: 1500ms, timeout: 20s }";
    let mut dam = Dam::start(&before(&[worker.entry("w1", 8)], more));
    let mut stream = Conn::open(dam.addr).await;
    // It lasts longer than the delay.
    stream.send(chat("long", true, 3000, &[])).await.unwrap();
    let head = stream.head().await.unwrap();
    let app = dam.app.clone();
    let draining = tokio::spawn(async move { app.drain().await });
    eventually("readiness gone", async || ask(dam.admin, get("/readyz")).await.status == 503).await;
    assert_eq!(dam.ask(chat("late", true, 2, &[])).await.status, 200, "balancers lag");
    eventually("a refusal", async || dam.ask(chat("later", true, 2, &[])).await.reason() == "draining").await;
    let refused = dam.ask(chat("later", false, 2, &[])).await;
    assert_eq!(refused.status, 503);
    assert!(refused.number("retry-after") >= 1 && refused.number("retry-after-ms") >= 1);
    assert_eq!(ask(dam.admin, get("/healthz")).await.status, 200, "it lives while it goes down");
    let rest = stream.rest(head).await;
    assert!(rest.whole && rest.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(draining.await.unwrap(), 0, "nobody was cut off");
    dam.ended().await;
    dam.idle().await;
}

/// The program itself, with a settings file.
struct Program {
    child: Child,
    main: std::net::SocketAddr,
    admin: std::net::SocketAddr,
}

impl Program {
    fn start(file: &std::path::Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_traffic-dam"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--config"])
            .arg(file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = |name: &str| {
            let line = lines.next().unwrap().unwrap();
            assert!(line.starts_with(name), "{line}");
            line.rsplit("//").next().unwrap().parse().unwrap()
        };
        let (main, admin) = (next("gateway"), next("admin"));
        Self { child, main, admin }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    async fn reloads(&self, result: &str) -> f64 {
        let metrics = ask(self.admin, get("/metrics")).await;
        sum(metrics.text(), "config_reloads_total", &format!("result=\"{result}\""))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Most often it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_counted() {
    let worker = Worker::start(8);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dam.yaml");
    let text = |limit: u32| {
        let rule = format!(
            "limits: [{{ name: r, algorithm: sliding_log, per: all, limit: {limit}, window: 1h, match: {{ path: /v1/embeddings }} }}]"
        );
        before(&[worker.entry("w1", 8)], &format!("{rule}\ndrain: {{ delay: 0s, timeout: 20s }}"))
    };
    std::fs::write(&file, text(2)).unwrap();
    let mut program = Program::start(&file);
    assert_eq!(ask(program.main, embed()).await.status, 200);

    std::fs::write(&file, text(9).replace("per: all", "per: nobody")).unwrap();
    program.signal("-HUP");
    eventually("a refused reload", async || program.reloads("refused").await >= 1.0).await;
    assert_eq!(program.reloads("taken").await, 0.0);
    assert_eq!(ask(program.main, embed()).await.status, 200);
    assert_eq!(ask(program.main, embed()).await.status, 429, "the old rule and its count stay");

    std::fs::write(&file, text(3)).unwrap();
    program.signal("-HUP");
    eventually("a reload", async || program.reloads("taken").await >= 1.0).await;
    for expected in [200, 200, 200, 429] {
        assert_eq!(ask(program.main, embed()).await.status, expected);
    }

    // On SIGTERM it first lets the requests in flight end.
    let mut stream = Conn::open(program.main).await;
    stream.send(chat("last", true, 300, &[])).await.unwrap();
    let head = stream.head().await.unwrap();
    assert_eq!(head.status, 200);
    program.signal("-TERM");
    let rest = stream.rest(head).await;
    assert!(rest.whole && rest.text().ends_with("data: [DONE]\n\n"));
    let mut status = None;
    eventually("its end", async || {
        status = program.child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    assert_eq!(status.unwrap().code(), Some(0));
}
