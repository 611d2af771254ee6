//! The listener over real sockets: protocols, bounds, hostile framing, and shutdown.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use traffic_dam::server::{Drain, DrainPhase, ListenerBounds, Peer, TlsHandle, serve};

/// Far longer than anything here takes: a wait this long has failed.
const PATIENCE: Duration = Duration::from_secs(90);
const SHORT: Duration = Duration::from_millis(300);

async fn soon<F: Future>(what: &str, event: F) -> F::Output {
    timeout(PATIENCE, event).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

/// The application; it answers `/` with a description of the request.
#[derive(Clone)]
struct App {
    drain: Drain,
    /// Reports when the body of `/endless` is dropped.
    freed: mpsc::UnboundedSender<()>,
    /// Pieces of the body of `/fed`.
    fed: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Bytes>>>,
}

type AppBody = UnsyncBoxBody<Bytes, Infallible>;

impl App {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<AppBody>, Infallible> {
        if self.drain.is_refusing() {
            let mut refusal = Response::new(Full::from("draining").boxed_unsync());
            *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(refusal);
        }
        let body = match request.uri().path() {
            "/endless" => Endless(self.freed).boxed_unsync(),
            "/fed" => Fed(self.fed.lock_owned().await).boxed_unsync(),
            "/never" => {
                let _freed = Endless(self.freed);
                std::future::pending().await
            }
            "/refused" => {
                let mut refusal = Response::new(Full::from("too large").boxed_unsync());
                *refusal.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
                return Ok(refusal);
            }
            path => {
                let peer = request.extensions().get::<Peer>().unwrap();
                let text = format!("{path} {:?} tls={} {}", request.version(), peer.tls, peer.addr);
                drop(request.into_body().collect().await);
                Full::from(text).boxed_unsync()
            }
        };
        Ok(Response::new(body))
    }
}

struct Endless(mpsc::UnboundedSender<()>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024])))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.0.send(()).ok();
    }
}

struct Fed(tokio::sync::OwnedMutexGuard<mpsc::UnboundedReceiver<Bytes>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

struct Running {
    addr: SocketAddr,
    drain: Drain,
    freed: mpsc::UnboundedReceiver<()>,
    feed: mpsc::UnboundedSender<Bytes>,
    served: JoinHandle<()>,
}

impl Running {
    /// Waits until `count` connections are open.
    async fn connections(&self, count: usize) {
        let reached = async {
            while self.drain.connections() != count {
                tokio::task::yield_now().await;
            }
        };
        soon("another number of connections", reached).await;
    }
}

async fn start(bounds: ListenerBounds, tls: Option<TlsHandle>) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let drain = Drain::new();
    let (freed, was_freed) = mpsc::unbounded_channel();
    let (feed, fed) = mpsc::unbounded_channel();
    let app = App { drain: drain.clone(), freed, fed: Arc::new(tokio::sync::Mutex::new(fed)) };
    let app = tower::service_fn(move |request| app.clone().answer(request));
    let bounds = Arc::new(ArcSwap::from_pointee(bounds));
    let served = tokio::spawn(serve(listener, tls, bounds, app, drain.clone(), DrainPhase::Closed));
    Running { addr, drain, freed: was_freed, feed, served }
}

fn hasty() -> ListenerBounds {
    ListenerBounds { header_read: SHORT, client_stall: SHORT, ..ListenerBounds::default() }
}

fn get(path: &str, authority: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://{authority}{path}")).header("host", authority).body(Empty::new()).unwrap()
}

async fn text<B: Body<Error: std::fmt::Debug>>(response: Response<B>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Sends one request with hyper's client over any stream, in the given version.
async fn ask<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: T,
    version: Version,
    path: &str,
) -> String {
    let stream = TokioIo::new(stream);
    if version == Version::HTTP_2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        text(sender.send_request(get(path, "localhost")).await.unwrap()).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        text(sender.send_request(get(path, "localhost")).await.unwrap()).await
    }
}

/// Sends raw bytes and returns all that comes back until the connection ends.
async fn raw(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is an end as well.
    soon("the end of the connection", socket.read_to_end(&mut answer)).await.ok();
    String::from_utf8(answer).unwrap()
}

async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(end) {
        let mut piece = [0; 4096];
        let count = soon(end, socket.read(&mut piece)).await.unwrap();
        assert!(count > 0, "ended after {:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..count]);
    }
    String::from_utf8(seen).unwrap()
}

fn write_pair(folder: &Path) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (cert, key)
}

async fn connect_tls(
    addr: SocketAddr,
    trusted: &Path,
    alpn: &[u8],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
    let mut config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let socket = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
}

#[tokio::test]
async fn both_protocols_are_served_with_and_without_tls_and_carry_their_peer() {
    let plain = start(ListenerBounds::default(), None).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let socket = TcpStream::connect(plain.addr).await.unwrap();
        let own = socket.local_addr().unwrap();
        assert_eq!(ask(socket, version, "/a").await, format!("/a {version:?} tls=false {own}"));
    }

    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = write_pair(folder.path());
    let secure = start(ListenerBounds::default(), Some(TlsHandle::load(&cert, &key).unwrap())).await;
    for (version, alpn) in [(Version::HTTP_11, "http/1.1"), (Version::HTTP_2, "h2")] {
        let stream = connect_tls(secure.addr, &cert, alpn.as_bytes()).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
        let own = stream.get_ref().0.local_addr().unwrap();
        assert_eq!(ask(stream, version, "/a").await, format!("/a {version:?} tls=true {own}"));
    }
}

#[tokio::test]
async fn a_new_certificate_serves_new_connections_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = write_pair(folder.path());
    let tls = TlsHandle::load(&cert, &key).unwrap();
    let running = start(ListenerBounds::default(), Some(tls.clone())).await;
    let old = connect_tls(running.addr, &cert, b"http/1.1").await;

    // Half of the files are replaced: the certificate is new, the key still the old one.
    let other = tempfile::tempdir().unwrap();
    let (new_cert, new_key) = write_pair(other.path());
    let old_cert = std::fs::read(&cert).unwrap();
    std::fs::copy(&new_cert, &cert).unwrap();
    assert!(tls.reload().unwrap_err().to_string().contains("cannot be used together"));
    let old_only = folder.path().join("old.pem");
    std::fs::write(&old_only, old_cert).unwrap();
    connect_tls(running.addr, &old_only, b"h2").await;

    std::fs::copy(&new_key, &key).unwrap();
    tls.reload().unwrap();
    let new = connect_tls(running.addr, &new_cert, b"http/1.1").await;
    assert!(ask(new, Version::HTTP_11, "/new").await.starts_with("/new"));
    assert!(ask(old, Version::HTTP_11, "/old").await.starts_with("/old"));
}

#[tokio::test]
async fn a_head_has_its_time_and_a_resting_connection_has_more() {
    let running = start(hasty(), None).await;
    let answer = raw(running.addr, b"GET / HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("bounds.header_read"), "{answer}");
    assert_eq!(raw(running.addr, b"").await, "");
    // The beginning of an HTTP/2 preface is an incomplete head, too.
    assert!(raw(running.addr, b"PRI * HT").await.starts_with("HTTP/1.1 408 "));
    // From its first line on it is HTTP/2, also with an open header block: no HTTP/1.1 answer.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let open_block = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];
    let begun = [0, 0, 9, 1, 4, 0, 0, 0, 1, 0x82];
    for (what, bytes) in [
        ("a first line", preface[..16].to_vec()),
        ("half a preface", preface[..20].to_vec()),
        ("a block without its end", [&preface[..], &settings, &open_block].concat()),
        ("a block that is not all there", [&preface[..], &settings, &begun].concat()),
        ("half a frame's head", [&preface[..], &settings, &begun[..5]].concat()),
    ] {
        let mut socket = TcpStream::connect(running.addr).await.unwrap();
        socket.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        soon(what, socket.read_to_end(&mut answer)).await.ok();
        assert!(!answer.starts_with(b"HTTP/1.1"), "{what}");
    }

    let mut socket = TcpStream::connect(running.addr).await.unwrap();
    let request = b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n";
    socket.write_all(request).await.unwrap();
    read_until(&mut socket, "/a HTTP/1.1").await;
    let silence = timeout(3 * SHORT, socket.read(&mut [0; 1])).await;
    assert!(silence.is_err(), "closed while resting: {silence:?}");
    socket.write_all(request).await.unwrap();
    read_until(&mut socket, "/a HTTP/1.1").await;
    // But once a second head has begun, it must be completed.
    socket.write_all(b"GET /a").await.unwrap();
    assert_eq!(soon("the end", socket.read(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test]
async fn a_connection_without_requests_ends_after_its_idle_time() {
    let running = start(ListenerBounds { idle: SHORT, ..ListenerBounds::default() }, None).await;
    let mut socket = TcpStream::connect(running.addr).await.unwrap();
    socket.write_all(b"GET /fed HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    // A connection with a silent answer in flight is not idle.
    assert!(timeout(3 * SHORT, running.drain.reached(DrainPhase::Closed)).await.is_err());
    running.feed.send("still".into()).unwrap();
    read_until(&mut socket, "still").await;
    drop(running.feed);
    read_until(&mut socket, "0\r\n\r\n").await;
    assert_eq!(soon("the end", socket.read(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test]
async fn a_client_that_stops_reading_frees_what_it_held() {
    let mut running = start(hasty(), None).await;
    let mut socket = TcpStream::connect(running.addr).await.unwrap();
    socket.write_all(b"GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    soon("the end of the answer", running.freed.recv()).await.unwrap();
    running.connections(0).await;
}

#[tokio::test]
async fn a_client_that_leaves_frees_what_it_held_before_and_during_the_answer() {
    let mut running = start(ListenerBounds::default(), None).await;
    for path in ["/never", "/endless"] {
        let mut socket = TcpStream::connect(running.addr).await.unwrap();
        socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        if path == "/endless" {
            read_until(&mut socket, "xxx").await;
        }
        drop(socket);
        soon("the end of the answer", running.freed.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn one_stream_with_a_shut_window_is_reset_and_its_neighbours_live() {
    let mut running = start(hasty(), None).await;
    let socket = TcpStream::connect(running.addr).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let (stalled, _) = sender.send_request(get("/endless", "localhost").map(drop), true).unwrap();
    let mut stalled = stalled.await.unwrap().into_body();
    // Takes the data and never opens the window further: 64 KiB, then silence.
    soon("the end of the answer", running.freed.recv()).await.unwrap();
    let fault = soon("the reset", async {
        loop {
            match stalled.data().await {
                Some(Ok(_)) => {}
                Some(Err(fault)) => break fault,
                None => panic!("ended as if complete"),
            }
        }
    })
    .await;
    assert_eq!(fault.reason(), Some(h2::Reason::CANCEL));
    drop(stalled);

    let (neighbour, _) =
        sender.ready().await.unwrap().send_request(get("/b", "localhost").map(drop), true).unwrap();
    assert_eq!(soon("the neighbour", neighbour).await.unwrap().status(), 200);
}

#[tokio::test]
async fn connections_beyond_the_caps_are_closed_at_once() {
    let bounds = [
        ListenerBounds { connections: 1, ..ListenerBounds::default() },
        ListenerBounds { per_ip: 1, ..ListenerBounds::default() },
    ];
    for bounds in bounds {
        let running = start(bounds, None).await;
        let mut first = TcpStream::connect(running.addr).await.unwrap();
        first.write_all(b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        read_until(&mut first, "/a").await;
        assert_eq!(raw(running.addr, b"").await, "");
        drop(first);
        running.connections(0).await;
        let socket = TcpStream::connect(running.addr).await.unwrap();
        assert!(ask(socket, Version::HTTP_11, "/b").await.starts_with("/b"));
    }
}

#[tokio::test]
async fn a_drain_lets_streams_finish_and_tells_newcomers() {
    let running = start(ListenerBounds::default(), None).await;
    let mut resting = TcpStream::connect(running.addr).await.unwrap();
    resting.write_all(b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut resting, "/a HTTP/1.1").await;
    let mut streaming = TcpStream::connect(running.addr).await.unwrap();
    streaming.write_all(b"GET /fed HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    running.feed.send("before".into()).unwrap();
    read_until(&mut streaming, "before").await;

    let drain = running.drain.clone();
    let drained = tokio::spawn(async move { drain.run(SHORT, PATIENCE).await });
    running.drain.reached(DrainPhase::Draining).await;
    // Still served, but with `connection: close`.
    let answer = raw(running.addr, b"GET /b HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");

    running.drain.reached(DrainPhase::Refusing).await;
    assert_eq!(soon("the end of the resting one", resting.read(&mut [0; 1])).await.unwrap(), 0);
    let answer = raw(running.addr, b"GET /b HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("draining"), "{answer}");
    let socket = TcpStream::connect(running.addr).await.unwrap();
    let (mut sender, late) = h2::client::handshake(socket).await.unwrap();
    let late = tokio::spawn(late);
    let (answer, _) = sender.send_request(get("/b", "localhost").map(drop), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 503);
    // It stays connected after its 503, and is closed by the server.
    soon("the end of the late one", late).await.unwrap().ok();

    running.feed.send("after".into()).unwrap();
    read_until(&mut streaming, "after").await;
    drop(running.feed);
    read_until(&mut streaming, "0\r\n\r\n").await;
    assert_eq!(soon("the drain", drained).await.unwrap(), 0);
    soon("the listener", running.served).await.unwrap();
    assert!(TcpStream::connect(running.addr).await.is_err());
}

#[tokio::test]
async fn what_outstays_the_drain_is_cut_off() {
    let mut running = start(ListenerBounds::default(), None).await;
    let mut streaming = TcpStream::connect(running.addr).await.unwrap();
    streaming.write_all(b"GET /never HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let socket = TcpStream::connect(running.addr).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let (endless, _) = sender.send_request(get("/endless", "localhost").map(drop), true).unwrap();
    let mut endless = endless.await.unwrap().into_body();
    running.connections(2).await;

    assert_eq!(soon("the drain", running.drain.run(Duration::ZERO, SHORT)).await, 2);
    for _ in 0..2 {
        soon("the end of an answer", running.freed.recv()).await.unwrap();
    }
    assert_eq!(soon("the end", streaming.read(&mut [0; 1])).await.unwrap_or(0), 0);
    soon("the end of the stream", async { while let Some(Ok(_)) = endless.data().await {} }).await;
    soon("the listener", running.served).await.unwrap();
}

#[tokio::test]
async fn framing_that_two_readers_could_read_differently_is_refused() {
    let running = start(ListenerBounds::default(), None).await;
    let chunks = "\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let plain = "\r\n\r\nabcGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let refused = [
        ("content-length: 3\r\ntransfer-encoding: chunked", chunks),
        ("transfer-encoding: chunked\r\ncontent-length: 3", chunks),
        ("transfer-encoding: xchunked", chunks),
        ("transfer-encoding: identity", plain),
        ("transfer-encoding: chunked, identity", chunks),
        ("transfer-encoding: gzip, chunked", chunks),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", chunks),
        ("transfer-encoding : chunked", chunks),
        ("transfer-encoding:\x0bchunked", chunks),
        ("x: y\r\n transfer-encoding: chunked", chunks),
        ("content-length: 3\r\ncontent-length: 4", plain),
        ("content-length: 3, 3", plain),
        ("content-length: +3", plain),
        ("content-length: -3", plain),
        ("content-length: 0x3", plain),
        ("content-length: 99999999999999999999", plain),
        ("content-length : 3", plain),
        ("content-length:\r\n 3", plain),
        ("x\0y: z", plain),
        ("x: a\rb", plain),
        ("host: elsewhere", plain),
    ];
    for (fields, rest) in refused {
        let bytes = format!("POST /a HTTP/1.1\r\nhost: localhost\r\n{fields}{rest}");
        let answer = raw(running.addr, bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{fields:?}: {answer}");
        assert!(answer.contains("\"code\":\"bad_request\""), "{fields:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{fields:?}: {answer}");
    }
    for head in [
        "POST /a HTTP/1.0\r\ntransfer-encoding: chunked",
        "POST /a HTTP/1.1\r\ncontent-length: 3",
        "CONNECT localhost:80 HTTP/1.1\r\nhost: localhost",
        "G\u{e9}T / HTTP/1.1\r\nhost: localhost",
        "GET / HTTP/1.2\r\nhost: localhost",
        "nonsense",
    ] {
        let answer = raw(running.addr, format!("{head}{chunks}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("bad_request"), "{head:?}: {answer}");
    }

    // A refused request affects the connection only from there on, not the answers before it.
    let pipelined = format!(
        "GET /one HTTP/1.1\r\nhost: localhost\r\n\r\nPOST /two HTTP/1.1\r\nhost: localhost\r\n{}{chunks}",
        "content-length: 3\r\ntransfer-encoding: chunked"
    );
    let answer = raw(running.addr, pipelined.as_bytes()).await;
    assert!(
        answer.contains("/one") && answer.contains("HTTP/1.1 400 ") && !answer.contains("smuggled"),
        "{answer}"
    );

    // The plain form of each still works, one after the other on one connection.
    let honest = "POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\nabc\
                  POST /b HTTP/1.1\r\nhost: localhost\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                  GET /c HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = raw(running.addr, honest.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 3, "{answer}");
}

#[tokio::test]
async fn http2_lengths_that_contradict_are_refused() {
    let running = start(ListenerBounds::default(), None).await;
    let socket = TcpStream::connect(running.addr).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let post = |lengths: &[&'static str]| {
        let mut request = Request::post("http://localhost/a").body(()).unwrap();
        for length in lengths {
            request.headers_mut().append("content-length", http::HeaderValue::from_static(length));
        }
        request
    };
    let (response, mut body) = sender.send_request(post(&["3", "3"]), false).unwrap();
    body.send_data("abc".into(), true).unwrap();
    assert_eq!(soon("the refusal", response).await.unwrap().status(), 400);
    for (lengths, data) in [(&["3"][..], "abcde"), (&["5"], "abc"), (&["x"], "abc")] {
        let (response, mut body) = sender.send_request(post(lengths), false).unwrap();
        body.send_data(data.into(), true).ok();
        let fault = soon("the reset", response).await.map(|response| response.status());
        assert_eq!(fault.unwrap_err().reason(), Some(h2::Reason::PROTOCOL_ERROR), "{lengths:?}");
    }
}

#[tokio::test]
async fn a_tls_handshake_has_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = write_pair(folder.path());
    let running = start(hasty(), Some(TlsHandle::load(&cert, &key).unwrap())).await;
    // The beginning of a client hello that is never completed.
    assert_eq!(raw(running.addr, &[0x16, 0x03, 0x01, 0x02, 0x00]).await, "");
    assert!(!raw(running.addr, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.contains("200"));
    running.connections(0).await;
}

#[tokio::test]
async fn a_head_beyond_its_bound_is_answered_with_431() {
    let running = start(ListenerBounds { headers: 8 * 1024, ..ListenerBounds::default() }, None).await;
    let long = "y".repeat(9 * 1024);
    let answer =
        raw(running.addr, format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {long}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("bounds.headers"), "{answer}");
    let answer = raw(running.addr, format!("GET /{long}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");

    let socket = TcpStream::connect(running.addr).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let mut request = get("/a", "localhost").map(drop);
    request.headers_mut().insert("x", long.parse().unwrap());
    let (response, _) = sender.send_request(request, true).unwrap();
    assert_eq!(soon("the answer", response).await.unwrap().status(), 431);
}

#[tokio::test]
async fn a_head_with_too_many_fields_or_too_large_a_length_is_told_so() {
    let running = start(ListenerBounds::default(), None).await;
    let many = "a: b\r\n".repeat(100);
    for (fields, status, words) in [
        (many.as_str(), 431, "more than 100 header fields"),
        ("content-length: 18446744073709551615\r\n", 413, "body_too_large"),
        ("content-length: 18446744073709551614\r\n", 413, "body_too_large"),
        ("content-length: 18446744073709551616\r\n", 400, "not valid HTTP"),
        ("content-length: 1x\r\n", 400, "not valid HTTP"),
    ] {
        let head = format!("POST / HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n");
        let answer = raw(running.addr, head.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(words), "{answer}");
    }
}

#[tokio::test]
async fn a_host_that_is_none_is_refused_in_the_field_and_in_the_target() {
    let running = start(ListenerBounds::default(), None).await;
    for (target, host) in [
        ("/", "a b"),
        ("/", "a, b"),
        ("/", "u:p@x"),
        ("/", "x:99999"),
        ("/", "<script>"),
        ("http://u:p@other/", "x"),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = raw(running.addr, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("at most a port"), "{answer}");
    }
    let socket = TcpStream::connect(running.addr).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let (response, _) = sender.send_request(get("/a", "u:p@x").map(drop), true).unwrap();
    assert_eq!(soon("the answer", response).await.unwrap().status(), 400);
}

#[tokio::test]
async fn who_is_refused_in_the_middle_of_a_body_can_read_why() {
    let running = start(ListenerBounds::default(), None).await;
    let body = "z".repeat(8 << 20);
    let head = format!("POST /refused HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    let answer = raw(running.addr, (head + &body).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("too large"), "{answer}");
}

/// Opens streams and resets them until the server closes; returns how many it accepted. A patient
/// flood lets each request reach the application first.
async fn flood(addr: SocketAddr, patient: bool) -> usize {
    let socket = TcpStream::connect(addr).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (sender, mut connection) = h2::client::handshake(socket).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    let connection = tokio::spawn(connection);
    let mut sent = 0;
    let resets = async {
        while sent < 20_000 {
            let Ok(mut ready) = sender.clone().ready().await else { return };
            let request = get("/never", "localhost").map(drop);
            let Ok((_, mut stream)) = ready.send_request(request, true) else { return };
            sent += 1;
            if patient && pings.ping(h2::Ping::opaque()).await.is_err() {
                return;
            }
            stream.send_reset(h2::Reason::CANCEL);
            tokio::task::yield_now().await;
        }
    };
    soon("the end of the flood", resets).await;
    drop(sender);
    // An error that names the flood, or a graceful end: in either case it is over.
    drop(soon("the end of the connection", connection).await);
    sent
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_and_nothing_else() {
    let running = start(ListenerBounds::default(), None).await;
    for patient in [false, true] {
        let sent = flood(running.addr, patient).await;
        assert!(sent < 20_000, "patient {patient}: the flood went on");
    }
    let socket = TcpStream::connect(running.addr).await.unwrap();
    assert!(ask(socket, Version::HTTP_2, "/b").await.starts_with("/b"));
    running.connections(0).await;
}

#[tokio::test]
async fn http2_frames_that_are_no_requests_do_not_hurt() {
    let running = start(hasty(), None).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // A frame far larger than the announced size, and an endless header block.
    let huge = [&preface[..], &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat();
    let mut continued = preface.to_vec();
    continued.extend_from_slice(&[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82]);
    for _ in 0..20_000 {
        continued.extend_from_slice(&[0, 0, 1, 9, 0, 0, 0, 0, 1, 0x84]);
    }
    for bytes in [huge, continued] {
        let mut socket = TcpStream::connect(running.addr).await.unwrap();
        socket.write_all(&bytes).await.ok();
        let mut answer = Vec::new();
        soon("the end of the connection", socket.read_to_end(&mut answer)).await.ok();
    }
    let socket = TcpStream::connect(running.addr).await.unwrap();
    assert!(ask(socket, Version::HTTP_2, "/b").await.starts_with("/b"));
}
