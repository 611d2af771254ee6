//! Connections that leave HTTP on a path configured for upgrades.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::client::{Conn, PATIENCE, chat, get, request};
use super::rig::{Dam, before, eventually};

const UPGRADE: [&str; 3] =
    ["connection: Upgrade", "upgrade: websocket", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="];

/// Starts a worker that switches protocols, sends something, and echoes what it receives. Returns
/// the head it got. The simulated worker speaks only HTTP.
async fn echo() -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nearly;";
        socket.write_all(answer.as_bytes()).await.unwrap();
        let (mut from, mut to) = socket.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
        String::from_utf8(head).unwrap().to_ascii_lowercase()
    });
    (addr, task)
}

fn settings(worker: SocketAddr) -> String {
    before(&[format!("{{ id: w1, url: \"http://{worker}\", slots: 1 }}")], "paths: [\"/ws\"]\n")
}

async fn hears(conn: &mut Conn, mark: &str) {
    tokio::time::timeout(PATIENCE, conn.see(mark)).await.expect("in time").unwrap();
}

#[tokio::test]
async fn bytes_pass_both_ways_and_the_seat_is_held_meanwhile() {
    let (worker, told) = echo().await;
    let dam = Dam::start(&settings(worker));
    let mut conn = Conn::open(dam.addr).await;
    conn.send(request("GET /ws", &UPGRADE, "")).await.unwrap();
    hears(&mut conn, "HTTP/1.1 101").await;
    hears(&mut conn, "\r\n\r\nearly;").await;
    for message in ["one;", "two;"] {
        conn.send(message).await.unwrap();
        hears(&mut conn, message).await;
    }
    assert_eq!(dam.held(), 1);
    let refused = dam.ask(request("GET /ws", &UPGRADE, "")).await;
    assert_eq!(refused.status, 503, "the one slot is taken");

    drop(conn);
    let head = told.await.unwrap();
    for field in ["connection: upgrade", "upgrade: websocket", "sec-websocket-key: dghlihnhbxbszsbub25jzq=="]
    {
        assert!(head.contains(field), "{head}");
    }
    eventually("the permit is free", async || dam.held() == 0).await;
}

#[tokio::test]
async fn a_worker_that_does_not_switch_answers_as_ever() {
    let worker = super::rig::Worker::start(1);
    let dam = Dam::start(&settings(worker.addr));
    assert_eq!(dam.ask(request("GET /ws", &UPGRADE, "")).await.status, 404, "the worker's own answer");
    dam.idle().await;
}

#[tokio::test]
async fn an_offer_of_tls_or_http2_is_ignored_as_http_allows() {
    let worker = super::rig::Worker::start(1);
    let dam = Dam::start(&settings(worker.addr));
    for offer in ["TLS/1.2", "h2c", "TLS/1.0, HTTP/1.1"] {
        let upgrade = format!("upgrade: {offer}");
        let answer = dam.ask(chat("a", false, 1, &["connection: Upgrade", &upgrade])).await;
        assert_eq!(answer.status, 200, "{offer}: {}", answer.text());
        assert!(worker.last().await["headers"]["upgrade"].is_null(), "{offer}");
    }
}

#[tokio::test]
async fn only_a_configured_path_may_switch() {
    let worker = super::rig::Worker::start(1);
    let dam = Dam::start(&settings(worker.addr));
    let refused = dam.ask(request("GET /v1/models", &UPGRADE, "")).await;
    assert_eq!((refused.status, refused.reason()), (501, "unsupported"));
    assert_eq!(dam.ask(get("/v1/models")).await.status, 200);
}
