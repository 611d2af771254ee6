//! The log of a process: start and end, and its behaviour if the log is not read.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::client::{Conn, PATIENCE, chat};
use super::gateway::Gateway;
use super::rig::Worker;

/// The lines of a gateway's log as they come.
struct Log(mpsc::UnboundedReceiver<Value>);

impl Log {
    fn of(gateway: &mut Gateway) -> Self {
        let (sender, lines) = mpsc::unbounded_channel();
        let stderr = BufReader::new(gateway.stderr());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                sender.send(serde_json::from_str(&line).unwrap()).ok();
            }
        });
        Self(lines)
    }

    /// Returns the next line with this message.
    async fn line(&mut self, message: &str) -> Value {
        let wanted = async {
            loop {
                let line = self.0.recv().await.unwrap();
                if line["message"] == message {
                    return line;
                }
            }
        };
        timeout(PATIENCE, wanted).await.unwrap_or_else(|_| panic!("no line `{message}`"))
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_no_request() {
    // A pipe holds 64 KiB, about a hundred and fifty lines.
    let gateway = Gateway::start("workers: { static: [] }", Stdio::piped()).await;
    let mut conn = Conn::open(gateway.addr).await;
    for _ in 0..1000 {
        assert!(conn.ask(chat("a", false, 8, &[])).await.unwrap().status >= 400);
    }
}

#[tokio::test]
async fn a_life_is_told_from_its_start_to_its_end() {
    // The address is bound, but not listening.
    let dead = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = dead.local_addr().unwrap();
    drop(dead);
    let text = format!(
        "workers: {{ static: [{{ id: w1, url: \"http://{address}\", slots: 4 }}] }}\n\
         limits: [{{ name: few, algorithm: token_bucket, per: caller, unit: requests, rate: 1000/m, burst: 100 }}]\n\
         drain: {{ delay: 0s, timeout: 1s }}\n"
    );
    let mut gateway = Gateway::start(&text, Stdio::piped()).await;
    let mut log = Log::of(&mut gateway);
    let start = log.line("started").await;
    assert_eq!(start["listen"], format!("http://{}", gateway.addr));
    assert_eq!(
        (&start["workers"], &start["concurrency"]),
        (&"w1".into(), &"adaptive, algorithm stream".into())
    );
    assert_eq!(start["rules"], "few: 1000 requests in 60 s");
    assert!(start["version"].as_str().unwrap().starts_with(env!("CARGO_PKG_VERSION")), "{start}");

    // A worker's failure is not a refusal; the line names the worker and the error.
    let mut conn = Conn::open(gateway.addr).await;
    assert_eq!(conn.ask(chat("a", true, 8, &[])).await.unwrap().status, 502);
    let line = log.line("request").await;
    assert_eq!((&line["level"], &line["outcome"]), (&"WARN".into(), &"worker_failed".into()), "{line}");
    assert_eq!((&line["worker"], &line["reason"]), (&"w1".into(), &"upstream_unreachable".into()), "{line}");
    assert!(line["cause"].as_str().unwrap().contains("connection refused"), "{line}");
    assert_eq!(gateway.metric("requests_total", "outcome=\"worker_failed\"").await, 1.0);
    assert_eq!(gateway.metric("requests_total", "outcome=\"refused\"").await, 0.0);

    // It is red while it cools down after a failed connection; checked once a second.
    let asks = async {
        loop {
            conn.ask(chat("a", true, 8, &[])).await.unwrap();
        }
    };
    let red = tokio::select! {
        red = log.line("a worker turned red") => red,
        never = asks => never,
    };
    assert_eq!((&red["level"], &red["worker"]), (&"WARN".into(), &"w1".into()), "{red}");
    assert_eq!(red["reason"], "connections to it fail");
    // It is healthy again after an answer.
    let worker = Worker::start_at(address, 4);
    let asks = async {
        loop {
            conn.ask(chat("a", true, 8, &[])).await.unwrap();
        }
    };
    tokio::select! {
        well = log.line("a worker recovered") => drop(well),
        never = asks => never,
    }
    drop((worker, conn));

    gateway.terminate();
    let end = log.line("ended").await;
    assert!(end["requests"].as_u64().unwrap() >= 2, "{end}");
    assert!(end["cut_off"].is_u64(), "{end}");
}

#[test]
fn a_misspelt_filter_of_the_log_is_an_error_that_says_what_would_be_right() {
    let output = Command::new(env!("CARGO_BIN_EXE_traffic-dam"))
        .args(["check", "--config", "/nonexistent"])
        .env("TRAFFIC_DAM_LOG", "inof")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("TRAFFIC_DAM_LOG: `inof` is not a level") && said.contains("`info`"), "{said}");
}
