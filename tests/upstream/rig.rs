//! Workers that send what a test gives them, byte for byte, and an upstream to them.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use traffic_dam::clock::Clock;
use traffic_dam::fleet::Fleet;
use traffic_dam::fleet::spec::WorkerSpec;
use traffic_dam::refusal::Refusal;
use traffic_dam::request::{Caller, Ending, Kind, Payload, PayloadError, RequestCost, RequestRecord};
use traffic_dam::shed::settings::{GateSettings, LimitSource};
use traffic_dam::shed::{EjectionMode, EjectionSettings};
use traffic_dam::shed::{GateEntry, Permit, PermitRequest};
use traffic_dam::upstream::{BodyError, Upstream, UpstreamBody, UpstreamSettings};

/// A request as a worker read it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    /// Returns all values of a field.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

/// A connection to a worker, from the worker's side.
#[derive(Debug)]
pub(crate) struct Conn {
    stream: TcpStream,
    unread: Vec<u8>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Conn {
    /// Reads the next request with its body; `None` if the connection was closed.
    pub(crate) async fn request(&mut self) -> Option<Asked> {
        loop {
            if let Some(asked) = self.parse() {
                self.asked.lock().push(asked.clone());
                return Some(asked);
            }
            if self.stream.read_buf(&mut self.unread).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    fn parse(&mut self) -> Option<Asked> {
        let end = self.unread.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(self.unread[..end].to_vec()).unwrap();
        let asked = Asked { head, body: Vec::new() };
        let length = match asked.values("content-length").first() {
            Some(length) => length.parse().unwrap(),
            None if asked.values("transfer-encoding").is_empty() => 0,
            // Chunked bodies are kept raw, with their framing.
            None => self.unread[end..].windows(5).position(|window| window == b"0\r\n\r\n")? + 5,
        };
        if self.unread.len() < end + length {
            return None;
        }
        let body = self.unread[end..end + length].to_vec();
        self.unread.drain(..end + length);
        Some(Asked { body, ..asked })
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // Some tests are about a client that went away.
        let _gone = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Waits until the other end has closed the connection.
    pub(crate) async fn closed(&mut self) {
        let mut rest = Vec::new();
        let _reset = self.stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "unexpected bytes: {rest:?}");
    }

    /// Closes with a reset instead of properly.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// A worker on a separate port.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) addr: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Worker {
    /// Starts a worker that runs `act` with each connection.
    pub(crate) async fn new<F, Fut>(act: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let worker =
            Self { addr: listener.local_addr().unwrap(), connections: Arc::default(), asked: Arc::default() };
        let (connections, asked) = (Arc::clone(&worker.connections), Arc::clone(&worker.asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).unwrap();
                tokio::spawn(act(Conn { stream, unread: Vec::new(), asked: Arc::clone(&asked) }));
            }
        });
        worker
    }

    /// Starts a worker that answers every request with the same bytes.
    pub(crate) async fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::new(answer.into());
        Self::new(move |mut conn| {
            let answer = Arc::clone(&answer);
            async move {
                while conn.request().await.is_some() {
                    conn.send(&*answer).await;
                }
            }
        })
        .await
    }

    /// Starts a worker that reads a request and resets the connection.
    pub(crate) async fn resetting() -> Self {
        Self::new(|mut conn| async move {
            conn.request().await;
            conn.reset();
        })
        .await
    }

    /// Starts a worker that reads requests and never answers.
    pub(crate) async fn silent() -> Self {
        Self::new(|mut conn| async move {
            conn.request().await;
            conn.closed().await;
        })
        .await
    }

    /// Returns the requests it got so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    pub(crate) fn spec(&self, id: &str) -> WorkerSpec {
        spec(id, &format!("http://{}", self.addr))
    }
}

pub(crate) fn spec(id: &str, url: &str) -> WorkerSpec {
    WorkerSpec {
        id: id.into(),
        url: url.parse().unwrap(),
        pool: "default".into(),
        model: "*".into(),
        slots: Some(1000),
        kv_tokens: None,
        colour: "any".into(),
        headers: HeaderMap::new(),
        external: None,
        address: None,
        http2: None,
    }
}

/// A worker that refuses connections: its port is taken but not listening while the socket lives.
pub(crate) fn refusing(id: &str) -> (WorkerSpec, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (spec(id, &format!("http://{}", socket.local_addr().unwrap())), socket)
}

/// Returns an answer with a length.
pub(crate) fn answer(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The head of an event stream.
pub(crate) const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
pub(crate) const ROLE: &str =
    "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
pub(crate) const HELLO: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";
pub(crate) const DONE: &str = "data: [DONE]\n\n";

/// Returns one chunk of a chunked body.
pub(crate) fn chunk(data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// An upstream with some workers.
pub(crate) struct Dam {
    pub(crate) upstream: Upstream,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) clock: Clock,
}

impl Dam {
    pub(crate) fn new(specs: Vec<WorkerSpec>, settings: UpstreamSettings) -> Self {
        let clock = Clock::system();
        let gate = GateSettings {
            limit: LimitSource::Slots,
            queue_length: 0,
            queue_wait: Duration::ZERO,
            fleet_factor: 1.0,
            // These tests choose the worker themselves.
            ejection: EjectionSettings { mode: EjectionMode::Off, ..EjectionSettings::default() },
            ..GateSettings::default()
        };
        let fleet = Arc::new(Fleet::new(specs, gate, None, clock.clone()));
        let upstream = Upstream::new(
            Arc::new(ArcSwap::new(Arc::clone(&fleet))),
            Arc::new(ArcSwap::from_pointee(settings)),
            clock.clone(),
        );
        Self { upstream, fleet, clock }
    }

    /// Returns a permit for the worker `id`, or for another one if that is ejected. Permits for
    /// others are held until it comes: the gate picks the least loaded worker.
    pub(crate) fn permit(&self, id: &str) -> Permit {
        let caller = Caller { external: true, ..Caller::new("ip:192.0.2.1") };
        let ask = PermitRequest::of(&caller, &RequestCost::path());
        let mut others = Vec::new();
        loop {
            match self.fleet.route(None).unwrap().gate.ask(ask.clone()) {
                Ok(GateEntry::Admitted(permit)) if &*permit.worker() == id => return permit,
                Ok(GateEntry::Admitted(other)) => others.push(other),
                Ok(GateEntry::Waiting(_)) => panic!("nobody waits here"),
                Err(refusal) => return others.pop().unwrap_or_else(|| panic!("there is room: {refusal:?}")),
            }
        }
    }

    /// Sends `request` with a permit for `id`.
    pub(crate) async fn send(
        &self,
        id: &str,
        request: Request<Payload>,
    ) -> Result<Response<UpstreamBody>, Refusal> {
        let (mut head, body) = request.into_parts();
        head.extensions.get_or_insert_with(|| Arc::new(RequestRecord::new("r1", self.clock.now())));
        head.extensions.insert(self.permit(id));
        self.upstream.forward(Request::from_parts(head, body)).await
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.fleet.pools().iter().map(|pool| pool.gate.snapshot().in_flight()).sum()
    }
}

/// Returns a chat request; `retryable` as the previous layer would set it.
pub(crate) fn chat(stream: bool, retryable: bool) -> Request<Payload> {
    let request_cost = RequestCost { kind: Kind::Chat, stream, retryable, ..RequestCost::path() };
    Request::builder()
        .method(Method::POST)
        .uri("/v1/chat/completions?a=b")
        .extension(request_cost)
        .body(Payload::from(Bytes::from_static(b"{\"model\":\"m\"}")))
        .unwrap()
}

/// Returns a body that is streamed and can be sent only once.
pub(crate) fn streaming(pieces: Vec<Result<&'static str, PayloadError>>) -> Payload {
    let frames =
        pieces.into_iter().map(|piece| piece.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))));
    Payload::streaming(Default::default(), StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
}

/// Creates the record of a request that is about to be sent.
pub(crate) fn flight_of(request: &mut Request<Payload>) -> Arc<RequestRecord> {
    let record = Arc::new(RequestRecord::new("r1", traffic_dam::clock::Nanos::ZERO));
    request.extensions_mut().insert(Arc::clone(&record));
    record
}

/// Reads an answer: its data, its trailers, and how it ended.
pub(crate) async fn read(
    response: Response<UpstreamBody>,
) -> (Vec<u8>, Option<HeaderMap>, Result<(), BodyError>) {
    let (mut data, mut trailers) = (Vec::new(), None);
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) => data.extend_from_slice(&bytes),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(error) => return (data, trailers, Err(error)),
        }
    }
    (data, trailers, Ok(()))
}

/// Returns the data of an answer that ends properly.
pub(crate) async fn text(response: Response<UpstreamBody>) -> String {
    let (data, _, ended) = read(response).await;
    ended.unwrap();
    String::from_utf8(data).unwrap()
}

/// Waits until `holds` is true.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never came about: {what}");
}

/// Checks that the request is over and left nothing behind.
pub(crate) async fn assert_freed(dam: &Dam, record: &RequestRecord, ending: Ending) {
    eventually("the permit is free", || dam.in_flight() == 0).await;
    assert_eq!(record.ending(), ending);
}
