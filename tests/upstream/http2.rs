//! Workers that speak HTTP/2: many requests on few connections, and what ends one of them.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason as Code, RecvStream};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use traffic_dam::fleet::spec::{Http2Mode, WorkerSpec};
use traffic_dam::refusal::Reason;
use traffic_dam::request::{Ending, Payload, PayloadError, RequestCost};
use traffic_dam::upstream::{RetrySettings, UpstreamSettings, UpstreamTimeouts};

use crate::rig::{
    DONE, Dam, HELLO, ROLE, Worker, answer, chat, eventually, flight_of, read, spec, streaming, text,
};

type Call = (Request<RecvStream>, SendResponse<Bytes>);

/// A worker that speaks HTTP/2 without TLS.
struct Http2Worker {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Http2Worker {
    /// Starts a worker that allows `streams` at once on each connection, and runs `act` with each
    /// request and the number of its connection.
    async fn new<F, Fut>(streams: u32, act: F) -> Self
    where
        F: Fn(usize, Call) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::driven(move |number, stream, requests| {
            let act = act.clone();
            async move {
                let mut builder = h2::server::Builder::new();
                let mut connection: Connection<_, Bytes> =
                    builder.max_concurrent_streams(streams).handshake(stream).await.unwrap();
                while let Some(Ok(call)) = connection.accept().await {
                    requests.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(act(number, call));
                }
            }
        })
        .await
    }

    /// Starts a worker that runs `drive` with each connection and its number.
    async fn driven<F, Fut>(drive: F) -> Self
    where
        F: Fn(usize, TcpStream, Arc<AtomicUsize>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let worker = Self {
            addr: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (connections, requests) = (Arc::clone(&worker.connections), Arc::clone(&worker.requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let number = connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(drive(number, stream, Arc::clone(&requests)));
            }
        });
        worker
    }

    fn spec(&self, id: &str) -> WorkerSpec {
        WorkerSpec { http2: Some(Http2Mode::PriorKnowledge), ..spec(id, &format!("http://{}", self.addr)) }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Answers with the request's own body.
async fn echo(call: Call) {
    let (request, mut respond) = call;
    let mut body = request.into_body();
    let mut heard = Vec::new();
    while let Some(Ok(piece)) = body.data().await {
        body.flow_control().release_capacity(piece.len()).unwrap();
        heard.extend_from_slice(&piece);
    }
    // A client that has left resets the stream.
    if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
        let _reset = stream.send_data(heard.into(), true);
    }
}

/// Serves one connection, and counts its requests.
async fn serve(stream: TcpStream, requests: Arc<AtomicUsize>) {
    let mut connection: Connection<_, Bytes> = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok(call)) = connection.accept().await {
        requests.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(echo(call));
    }
}

/// Settings without retries: a request is sent again only for another reason. A busy machine has
/// enough time to connect.
fn without_retries() -> UpstreamSettings {
    let defaults = UpstreamSettings::default();
    let timeouts = UpstreamTimeouts { connect: Duration::from_secs(60), ..defaults.timeouts };
    UpstreamSettings { retry: RetrySettings { max: 0, budget: 0.0 }, timeouts, ..defaults }
}

const BODY: &str = "{\"model\":\"m\"}";

#[tokio::test]
async fn many_requests_share_one_connection() {
    let all_are_here = Arc::new(tokio::sync::Barrier::new(50));
    let barrier = Arc::clone(&all_are_here);
    let worker = Http2Worker::new(100, move |_, call| {
        let barrier = Arc::clone(&barrier);
        async move {
            barrier.wait().await;
            echo(call).await;
        }
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], without_retries());
    let answers = (0..50).map(|_| async { text(dam.send("w1", chat(false, false)).await.unwrap()).await });
    for said in futures_util::future::join_all(answers).await {
        assert_eq!(said, BODY);
    }
    assert_eq!((worker.connections(), worker.requests()), (1, 50));
    assert_eq!(dam.in_flight(), 0);
}

#[tokio::test]
async fn a_request_is_written_as_http2_wants_it() {
    let seen = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&seen);
    let worker = Http2Worker::new(100, move |_, call| {
        *keep.lock() = Some((call.0.uri().clone(), call.0.headers().clone()));
        echo(call)
    })
    .await;
    let mut spec = worker.spec("w1");
    spec.url = format!("http://{}/base", worker.addr).parse().unwrap();
    spec.headers.insert("x-own", "1".parse().unwrap());
    let dam = Dam::new(vec![spec], without_retries());
    let mut request = chat(false, false);
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    request.headers_mut().insert("connection", "te, x-hop".parse().unwrap());
    request.headers_mut().insert("x-hop", "1".parse().unwrap());
    assert_eq!(text(dam.send("w1", request).await.unwrap()).await, BODY);
    let (uri, headers) = seen.lock().take().unwrap();
    assert_eq!(uri.to_string(), format!("http://{}/base/v1/chat/completions?a=b", worker.addr));
    for gone in ["host", "connection", "transfer-encoding", "x-hop"] {
        assert!(!headers.contains_key(gone), "{headers:?}");
    }
    assert_eq!(headers["te"], "trailers");
    assert_eq!(headers["x-own"], "1");
    assert_eq!(headers["content-length"], BODY.len().to_string());
}

#[tokio::test]
async fn a_connection_gets_no_more_streams_than_the_worker_allows() {
    let (open, most) = (Arc::new(Mutex::new(vec![0_usize; 64])), Arc::new(AtomicUsize::new(0)));
    let go = Arc::new(Semaphore::new(0));
    let worker = {
        let (open, most, go) = (Arc::clone(&open), Arc::clone(&most), Arc::clone(&go));
        Http2Worker::new(2, move |number, call| {
            let (open, most, go) = (Arc::clone(&open), Arc::clone(&most), Arc::clone(&go));
            async move {
                {
                    let mut open = open.lock();
                    open[number] += 1;
                    most.fetch_max(open[number], Ordering::SeqCst);
                }
                let _may_end = go.acquire().await.unwrap();
                open.lock()[number] -= 1;
                echo(call).await;
            }
        })
        .await
    };
    let dam = Arc::new(Dam::new(vec![worker.spec("w1")], without_retries()));
    let mut tasks = tokio::task::JoinSet::new();
    for expected in 1..=6 {
        let dam = Arc::clone(&dam);
        tasks.spawn(async move { text(dam.send("w1", chat(false, false)).await.unwrap()).await });
        eventually("the worker has it", || worker.requests() == expected).await;
    }
    go.add_permits(6);
    while let Some(said) = tasks.join_next().await {
        assert_eq!(said.unwrap(), BODY);
    }
    assert_eq!((worker.connections(), most.load(Ordering::SeqCst)), (3, 2));
}

#[tokio::test]
async fn streams_pass_byte_for_byte_however_they_are_cut() {
    let whole =
        Bytes::from([": hi\n\n", ROLE, HELLO, "data: caf\u{e9}\r\n\r\n", HELLO, DONE].concat().repeat(40));
    let sent = whole.clone();
    let worker = Http2Worker::new(100, move |number, (_, mut respond)| {
        let mut left = sent.clone();
        async move {
            let head = Response::builder().header("content-type", "text/event-stream").body(()).unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            let mut length = 1 + number;
            while !left.is_empty() {
                length = (length * 7 + 3) % 97 + 1;
                let piece = left.split_to(length.min(left.len()));
                stream.send_data(piece, false).unwrap();
                tokio::task::yield_now().await;
            }
            stream.send_data(Bytes::new(), true).unwrap();
        }
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], without_retries());
    let answers = (0..10).map(|_| async { read(dam.send("w1", chat(true, false)).await.unwrap()).await });
    for (data, _, ended) in futures_util::future::join_all(answers).await {
        ended.unwrap();
        assert!(data == whole, "{} bytes became {}", whole.len(), data.len());
    }
    assert_eq!(worker.connections(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_resets_its_own_stream_and_no_other() {
    let (reset, go_on) = (Arc::new(Mutex::new(None)), Arc::new(Notify::new()));
    let worker = {
        let (reset, go_on) = (Arc::clone(&reset), Arc::clone(&go_on));
        Http2Worker::new(100, move |_, (request, mut respond)| {
            let (reset, go_on) = (Arc::clone(&reset), Arc::clone(&go_on));
            async move {
                let head = Response::builder().header("content-type", "text/event-stream").body(()).unwrap();
                let mut stream = respond.send_response(head, false).unwrap();
                stream.send_data(HELLO.into(), false).unwrap();
                if request.headers().contains_key("x-stays") {
                    go_on.notified().await;
                    stream.send_data(DONE.into(), true).unwrap();
                } else {
                    let code = poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
                    *reset.lock() = Some(code);
                }
            }
        })
        .await
    };
    let dam = Dam::new(vec![worker.spec("w1")], without_retries());
    let mut stays = chat(true, false);
    stays.headers_mut().insert("x-stays", "1".parse().unwrap());
    let stays = dam.send("w1", stays).await.unwrap();
    let mut leaves = chat(true, false);
    let record = flight_of(&mut leaves);
    let leaves = dam.send("w1", leaves).await.unwrap();
    drop(leaves);
    eventually("its stream is reset", || *reset.lock() == Some(Code::CANCEL)).await;
    assert_eq!(record.ending(), Ending::ClientGone);
    go_on.notify_one();
    assert_eq!(text(stays).await, [HELLO, DONE].concat());
    assert_eq!((worker.connections(), dam.in_flight()), (1, 0));
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_resets_its_stream_too() {
    let reset = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&reset);
    let worker = Http2Worker::new(100, move |_, (_, mut respond)| {
        let keep = Arc::clone(&keep);
        async move {
            let code = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
            *keep.lock() = Some(code);
        }
    })
    .await;
    let dam = Arc::new(Dam::new(vec![worker.spec("w1")], without_retries()));
    let sender = Arc::clone(&dam);
    let asks = tokio::spawn(async move { drop(sender.send("w1", chat(true, false)).await) });
    eventually("the worker has it", || worker.requests() == 1).await;
    asks.abort();
    eventually("its stream is reset", || *reset.lock() == Some(Code::CANCEL)).await;
    eventually("the permit is free", || dam.in_flight() == 0).await;
}

#[tokio::test]
async fn clients_that_read_nothing_hold_up_no_other() {
    const STALLED: usize = 60;
    let worker = Http2Worker::new(100, move |_, call| async move {
        if call.0.headers().contains_key("x-small") {
            return echo(call).await;
        }
        let mut respond = call.1;
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(vec![b'x'; 1 << 20].into(), true).unwrap();
        let _ended = poll_fn(|cx| stream.poll_reset(cx)).await;
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], without_retries());
    let mut unread = Vec::new();
    for _ in 0..STALLED {
        unread.push(dam.send("w1", chat(false, false)).await.unwrap());
    }
    let mut small = chat(false, false);
    small.headers_mut().insert("x-small", "1".parse().unwrap());
    assert_eq!(text(dam.send("w1", small).await.unwrap()).await, BODY);
    assert_eq!((worker.connections(), unread.len()), (1, STALLED));
}

#[tokio::test]
async fn a_worker_that_says_goodbye_finishes_what_it_has_and_gets_no_more() {
    let (go_on, goodbye) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let worker = {
        let (go_on, goodbye) = (Arc::clone(&go_on), Arc::clone(&goodbye));
        Http2Worker::driven(move |_, stream, requests| {
            let (go_on, goodbye) = (Arc::clone(&go_on), Arc::clone(&goodbye));
            async move {
                let mut connection: Connection<_, Bytes> = h2::server::handshake(stream).await.unwrap();
                loop {
                    let call = tokio::select! {
                        call = connection.accept() => call,
                        () = goodbye.notified() => {
                            connection.graceful_shutdown();
                            continue;
                        }
                    };
                    let Some(Ok(call)) = call else { return };
                    requests.fetch_add(1, Ordering::SeqCst);
                    let go_on = Arc::clone(&go_on);
                    tokio::spawn(async move {
                        if call.0.headers().contains_key("x-long") {
                            go_on.notified().await;
                        }
                        echo(call).await;
                    });
                }
            }
        })
        .await
    };
    let dam = Arc::new(Dam::new(vec![worker.spec("w1")], without_retries()));
    let mut long = chat(false, false);
    long.headers_mut().insert("x-long", "1".parse().unwrap());
    let sender = Arc::clone(&dam);
    let long = tokio::spawn(async move { text(sender.send("w1", long).await.unwrap()).await });
    eventually("the worker has it", || worker.requests() == 1).await;
    goodbye.notify_one();
    // None of these may run twice, and none is lost, whenever the goodbye arrives.
    let mut count = 1;
    while worker.connections() < 2 {
        assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, BODY);
        count += 1;
        assert_eq!(worker.requests(), count);
    }
    go_on.notify_one();
    assert_eq!(long.await.unwrap(), BODY);
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_even_if_it_may_not_run_twice() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let worker = Http2Worker::new(100, move |_, (request, mut respond)| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if first {
                respond.send_reset(Code::REFUSED_STREAM);
            } else {
                echo((request, respond)).await;
            }
        }
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], without_retries());
    assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, BODY);
    assert_eq!((worker.requests(), worker.connections()), (2, 1));
}

#[tokio::test]
async fn a_worker_that_refuses_every_stream_leaves_the_request_to_another() {
    let refusing = Http2Worker::new(100, |_, (_, mut respond)| async move {
        respond.send_reset(Code::REFUSED_STREAM);
    })
    .await;
    let other = Worker::saying(answer(200, "other")).await;
    let settings = UpstreamSettings { retry: RetrySettings { max: 1, budget: 1.0 }, ..without_retries() };
    let dam = Dam::new(vec![refusing.spec("w1"), other.spec("w2")], settings);
    assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, "other");
    assert_eq!(refusing.requests(), 2);

    let alone = Dam::new(vec![refusing.spec("w1")], without_retries());
    let refusal = alone.send("w1", chat(false, false)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::UpstreamUnreachable);
    assert_eq!(refusal.message, "Worker w1 refused the request before it began (HTTP/2).");
    assert_eq!(alone.in_flight(), 0);
}

#[tokio::test]
async fn a_stream_that_the_worker_had_begun_is_not_sent_twice() {
    for code in [Code::INTERNAL_ERROR, Code::CANCEL, Code::ENHANCE_YOUR_CALM] {
        let worker =
            Http2Worker::new(100, move |_, (_, mut respond)| async move { respond.send_reset(code) }).await;
        let dam = Dam::new(vec![worker.spec("w1")], without_retries());
        let refusal = dam.send("w1", chat(false, false)).await.unwrap_err();
        assert_eq!((refusal.reason, worker.requests()), (Reason::UpstreamBroke, 1), "{code:?}");
        // Others go on with the same connection.
        let refusal = dam.send("w1", chat(false, false)).await.unwrap_err();
        assert_eq!((refusal.reason, worker.connections()), (Reason::UpstreamBroke, 1), "{code:?}");
    }
}

/// Reads frames of HTTP/2 until the first with HEADERS (1), and answers the settings.
async fn until_a_request(stream: &mut TcpStream) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == 1 {
            return;
        }
    }
}

/// Returns a frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn a_stream_above_the_last_one_of_a_goodbye_goes_to_a_new_connection() {
    let worker = Http2Worker::driven(|number, mut stream, requests| async move {
        if number == 0 {
            until_a_request(&mut stream).await;
            // GOAWAY (7): the last stream that it served is 0.
            stream.write_all(&frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0])).await.unwrap();
            let mut rest = Vec::new();
            let _ended = stream.read_to_end(&mut rest).await;
            return;
        }
        serve(stream, requests).await;
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], without_retries());
    assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, BODY);
    assert_eq!((worker.connections(), worker.requests()), (2, 1));
}

#[tokio::test]
async fn a_connection_that_breaks_fails_its_streams_and_is_not_used_again() {
    let worker = Http2Worker::driven(|number, mut stream, requests| async move {
        if number == 0 {
            until_a_request(&mut stream).await;
            return;
        }
        serve(stream, requests).await;
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], without_retries());
    let refusal = dam.send("w1", chat(false, false)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::UpstreamBroke, "it may have run: {refusal:?}");
    assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, BODY);
    assert_eq!(worker.connections(), 2);
}

#[tokio::test]
async fn an_upload_that_fails_is_the_clients_own_fault() {
    let worker = Http2Worker::new(100, |_, call| echo(call)).await;
    let dam = Dam::new(vec![worker.spec("w1")], without_retries());
    let upload = |pieces| {
        let builder = Request::builder().method(Method::POST).uri("/x").extension(RequestCost::path());
        builder.body(streaming(pieces)).unwrap()
    };
    let whole = upload(vec![Ok("a"), Ok("b")]);
    assert_eq!(text(dam.send("w1", whole).await.unwrap()).await, "ab");
    let large = upload(vec![Ok("a"), Err(PayloadError::TooLarge { limit: 1, setting: "bounds.body" })]);
    assert_eq!(dam.send("w1", large).await.unwrap_err().reason, Reason::BodyTooLarge);
    assert_eq!(
        dam.send("w1", upload(vec![Err(PayloadError::TooSlow)])).await.unwrap_err().reason,
        Reason::BodyTimeout
    );
    assert_eq!(worker.connections(), 1, "the connection is well");
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let worker = Http2Worker::new(100, |_, (request, mut respond)| async move {
        let mut body = request.into_body();
        while body.data().await.is_some() {}
        let heard = body.trailers().await.unwrap().unwrap_or_default();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data("x".into(), false).unwrap();
        stream.send_trailers(heard).unwrap();
    })
    .await;
    let dam = Dam::new(vec![worker.spec("w1")], without_retries());
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    let frames = [
        Ok(http_body::Frame::data(Bytes::from_static(b"a"))),
        Ok(http_body::Frame::trailers(trailers.clone())),
    ];
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
    let request = Request::builder().method(Method::PUT).uri("/x").extension(RequestCost::path());
    let request = request.body(Payload::streaming(Default::default(), body)).unwrap();
    let (data, heard, ended) = read(dam.send("w1", request).await.unwrap()).await;
    ended.unwrap();
    assert_eq!((data.as_slice(), heard), (&b"x"[..], Some(trailers)));
}

#[tokio::test]
async fn a_worker_that_speaks_http1_only_fails_with_prior_knowledge_and_is_not_believed_to_be_slow() {
    let worker = Worker::saying(answer(400, "what?")).await;
    let spec = WorkerSpec { http2: Some(Http2Mode::PriorKnowledge), ..worker.spec("w1") };
    let dam = Dam::new(vec![spec], without_retries());
    let refusal = dam.send("w1", chat(false, false)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::UpstreamBroke);
    // `auto` without TLS is HTTP/1.1.
    let spec = WorkerSpec { http2: Some(Http2Mode::Auto), ..worker.spec("w1") };
    let dam = Dam::new(vec![spec], without_retries());
    assert_eq!(text(dam.send("w1", chat(false, false)).await.unwrap()).await, "what?");
}
