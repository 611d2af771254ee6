//! Compares this module with hyper's client, answer by answer.

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use hyper::ext::ReasonPhrase;
use hyper_util::rt::TokioIo;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use traffic_dam_fuzz::{fuzz, pieces};

use super::WorkerConnection;
use crate::clock::Nanos;
use crate::request::{Payload, PayloadError};

/// A worker that answers the first request with these pieces, each in a read of its own. Then it closes, or
/// stays silent.
struct Script {
    answer: VecDeque<Vec<u8>>,
    closes: bool,
    written: Vec<u8>,
}

impl Script {
    fn new(pieces: &[&[u8]], closes: bool) -> Self {
        // An empty read would be the end.
        let answer = pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| piece.to_vec()).collect();
        Self { answer, closes, written: Vec::new() }
    }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.written.is_empty() {
            return Poll::Pending;
        }
        let Some(mut piece) = self.answer.pop_front() else {
            return if self.closes { Poll::Ready(Ok(())) } else { Poll::Pending };
        };
        let rest = piece.split_off(buf.remaining().min(piece.len()));
        buf.put_slice(&piece);
        if !rest.is_empty() {
            self.answer.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum BodyEnd {
    Over,
    /// Nothing comes any more, and the connection is open.
    Waiting,
    Broken,
}

/// What a client saw of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: StatusCode,
    reason: Option<ReasonPhrase>,
    fields: HeaderMap,
    content: Vec<u8>,
    trailers: Option<HeaderMap>,
    end: BodyEnd,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answer(Box<Seen>),
    Waiting,
    Failed,
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn request(method: &Method) -> Request<Payload> {
    let body =
        if *method == Method::POST { Payload::from(Bytes::from_static(b"{}")) } else { Payload::empty() };
    let mut request = Request::new(body);
    request.method_mut().clone_from(method);
    request.headers_mut().insert("host", "worker".parse().unwrap());
    request
}

fn take(seen: &mut Seen, frame: Frame<Bytes>) {
    match frame.into_data() {
        Ok(data) => seen.content.extend_from_slice(&data),
        Err(frame) => seen.trailers = frame.into_trailers().ok(),
    }
}

fn seen(status: StatusCode, reason: Option<&ReasonPhrase>, fields: HeaderMap) -> Seen {
    Seen {
        status,
        reason: reason.cloned(),
        fields,
        content: Vec::new(),
        trailers: None,
        end: BodyEnd::Waiting,
    }
}

/// Returns what this module sees, and whether it would use the connection again.
fn ours(script: Script, method: &Method) -> (Outcome, bool) {
    let mut connection = WorkerConnection::new(script, Nanos::MAX);
    let head = match pin!(connection.send(request(method))).poll(&mut context()) {
        Poll::Pending => return (Outcome::Waiting, false),
        Poll::Ready(Err(_)) => return (Outcome::Failed, false),
        Poll::Ready(Ok(head)) => head,
    };
    let mut seen = seen(head.status, head.extensions.get(), head.headers);
    while let Poll::Ready(frame) = connection.poll_frame(&mut context()) {
        match frame {
            Some(Ok(frame)) => take(&mut seen, frame),
            Some(Err(_)) => seen.end = BodyEnd::Broken,
            None => seen.end = BodyEnd::Over,
        }
        if seen.end != BodyEnd::Waiting {
            break;
        }
    }
    let kept = seen.end == BodyEnd::Over && connection.check(Nanos::ZERO);
    (Outcome::Answer(Box::new(seen)), kept)
}

/// Returns what hyper sees, and whether it would use the connection again.
fn hypers(script: Script, method: &Method) -> (Outcome, bool) {
    /// More than enough to read a script whose pieces are all there.
    const ROUNDS: usize = 64;
    let rounds = ROUNDS + 4 * script.answer.len();
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(64 * 1024);
    let Poll::Ready(Ok((mut sender, mut connection))) =
        pin!(builder.handshake::<_, Payload>(TokioIo::new(script))).poll(&mut context())
    else {
        panic!("the handshake does nothing");
    };
    let mut ended = false;
    let mut drive = || {
        ended = ended || Pin::new(&mut connection).poll(&mut context()).is_ready();
    };
    let mut answer = pin!(sender.send_request(request(method)));
    let mut head = Poll::Pending;
    for _ in 0..rounds {
        drive();
        head = answer.as_mut().poll(&mut context());
        if head.is_ready() {
            break;
        }
    }
    let (head, mut body) = match head {
        Poll::Pending => return (Outcome::Waiting, false),
        Poll::Ready(Err(_)) => return (Outcome::Failed, false),
        Poll::Ready(Ok(answer)) => answer.into_parts(),
    };
    let mut seen = seen(head.status, head.extensions.get(), head.headers);
    let mut silent = 0;
    while silent < rounds && seen.end == BodyEnd::Waiting {
        silent += 1;
        match Pin::new(&mut body).poll_frame(&mut context()) {
            Poll::Ready(Some(Ok(frame))) => {
                silent = 0;
                take(&mut seen, frame);
            }
            Poll::Ready(Some(Err(_))) => seen.end = BodyEnd::Broken,
            Poll::Ready(None) => seen.end = BodyEnd::Over,
            Poll::Pending => drive(),
        }
    }
    drop(body);
    (0..4).for_each(|_| drive());
    let kept = seen.end == BodyEnd::Over && !ended && sender.is_ready();
    (Outcome::Answer(Box::new(seen)), kept)
}

/// Checks that both see the same, in these pieces and in one. What hyper would not use again must not be used
/// again either.
fn compare(parts: &[&[u8]], method: &Method, closes: bool) {
    let shown = || String::from_utf8_lossy(&parts.concat()).into_owned();
    let (mine, kept) = ours(Script::new(parts, closes), method);
    let (theirs, would_keep) = hypers(Script::new(parts, closes), method);
    assert_eq!(mine, theirs, "{method} closes: {closes} {:?}", shown());
    assert!(would_keep || !kept, "{method} would be used again after {:?}", shown());
    let whole = ours(Script::new(&[&parts.concat()], closes), method).0;
    if let (Outcome::Answer(_), Outcome::Answer(_)) = (&whole, &mine) {
        assert_eq!(whole, mine, "in one piece: {:?}", shown());
    }
}

const ANSWERS: [&str; 14] = [
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-type: a/b\r\n\r\nhello",
    "HTTP/1.1 200 Fine\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\nconnection: close\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n10;a=b\r\n0123456789abcdef\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\nA \r\n0123456789\r\n0\r\nx: y\r\nx: z\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n1\r\na\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nto the end",
    "HTTP/1.1 200 \r\nx:\r\n\r\nto the end",
    "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nab",
    "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\ncontent-length: 50\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx",
    "\r\n\r\nHTTP/1.1 429 Too Many Requests\nretry-after: 1\ncontent-length: 0\n\n",
    "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello",
];

#[test]
fn every_answer_is_read_as_hyper_reads_it_wherever_the_reads_fall() {
    for answer in ANSWERS.map(str::as_bytes) {
        for method in [Method::POST, Method::GET, Method::HEAD] {
            for closes in [true, false] {
                compare(&[answer], &method, closes);
                compare(&answer.chunks(1).collect::<Vec<_>>(), &method, closes);
                for at in 0..answer.len() {
                    let (front, back) = answer.split_at(at);
                    compare(&[front, back], &method, closes);
                    // What is cut off never counts as whole.
                    compare(&[front], &method, true);
                }
            }
        }
    }
}

#[test]
#[ignore = "a minute: make fuzz"]
fn fuzzed_answers_are_read_as_hyper_reads_them() {
    let words: [&[u8]; 18] = [
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"Content-Length: 5\r\n",
        b"content-length: 6\r\n",
        b"transfer-encoding: chunked\r\n",
        b"transfer-encoding: identity\r\n",
        b"connection: close\r\n",
        b"connection: keep-alive, x\r\n",
        b"0\r\n\r\n",
        b"0\r\nt: u\r\n\r\n",
        b"5\r\nhello\r\n",
        b"ffffffffffffffff",
        b"99999999999999999999",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 ",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"204",
    ];
    fuzz(&ANSWERS.map(str::as_bytes), &words, |bytes, random| {
        let method = [Method::POST, Method::GET, Method::HEAD][random.usize(..3)].clone();
        let closes = random.bool();
        let cut = pieces(bytes, random);
        compare(&cut, &method, closes);
    });
}

/// The lines of a written head, sorted, and the bytes behind it.
fn lines(written: &[u8]) -> (Vec<String>, Vec<u8>) {
    let end = written.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    let (head, body) = written.split_at(end + 4);
    let mut lines: Vec<String> =
        std::str::from_utf8(head).unwrap().split("\r\n").map(str::to_owned).collect();
    lines.sort_unstable();
    (lines, body.to_vec())
}

fn frames(pieces: &[&'static str], trailers: &[(&'static str, &'static str)]) -> Payload {
    let mut frames: Vec<Result<Frame<Bytes>, PayloadError>> =
        pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))).collect();
    if !trailers.is_empty() {
        let fields = trailers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        frames.push(Ok(Frame::trailers(fields.collect())));
    }
    Payload::streaming(SmallVec::new(), StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
}

#[test]
fn every_request_is_written_as_hyper_writes_it() {
    const CHUNKED: (&str, &str) = ("transfer-encoding", "chunked");
    let long = Bytes::from(vec![b'x'; 100_000]);
    let bodies: [&dyn Fn() -> Payload; 6] = [
        &Payload::empty,
        &|| Payload::from(Bytes::from_static(b"{\"a\":1}")),
        &|| {
            Payload::buffered(SmallVec::from_iter([
                Bytes::from_static(b"{"),
                long.clone(),
                Bytes::from_static(b"}"),
            ]))
        },
        &|| frames(&["a", "", "0123456789abcdef"], &[]),
        &|| frames(&["a"], &[("x-sum", "1"), ("x-other", "2")]),
        &|| frames(&[], &[]),
    ];
    for body in bodies {
        for method in [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE] {
            for fields in
                [&[][..], &[("trailer", "X-Sum, x-more")], &[("te", "trailers"), ("connection", "te")]]
            {
                let request = || {
                    let mut request = Request::new(body());
                    request.method_mut().clone_from(&method);
                    *request.uri_mut() = "/v1/a?b=c".parse().unwrap();
                    let unknown =
                        !request.body().is_end_stream() && request.body().size_hint().exact().is_none();
                    // `message` of the attempt loop says so, whatever the method.
                    let coding = unknown.then_some(CHUNKED);
                    for (name, value) in [("host", "worker:8000"), ("x-two", "1"), ("x-two", "2")]
                        .into_iter()
                        .chain(fields.iter().copied())
                        .chain(coding)
                    {
                        request.headers_mut().append(name, HeaderValue::from_static(value));
                    }
                    request
                };
                let mut ours = WorkerConnection::new(Script::new(&[], false), Nanos::MAX);
                assert!(pin!(ours.send(request())).poll(&mut context()).is_pending());
                let (mut sender, mut connection) = pin!(hyper::client::conn::http1::handshake::<_, Payload>(
                    TokioIo::new(Script::new(&[], false))
                ))
                .now_or_never()
                .expect("a handshake does nothing")
                .unwrap();
                let _answer = sender.send_request(request());
                for _ in 0..200 {
                    drop(Pin::new(&mut connection).poll(&mut context()));
                }
                let theirs = connection.into_parts().io.into_inner().written;
                assert_eq!(lines(&ours.socket().written), lines(&theirs), "{method} {fields:?}");
            }
        }
    }
}
