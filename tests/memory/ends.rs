//! Both ends of the gateway, on plain sockets: what is counted is then the gateway's heap alone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use memchr::memmem::find;

/// Far longer than anything here takes: a wait this long has failed.
const PATIENCE: Duration = Duration::from_secs(90);
/// Bytes of the longest message that is read.
const LONGEST: usize = 4096;
/// Content of the answers.
const WORD: &[u8] = b"tide";
const EVENTS: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
                      data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"tide\"}}]}\n\n";
const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"content":"tide"}}]}"#;

/// Starts a worker that answers one request per connection. A stream sends its first content, and then
/// stays open.
pub(super) fn worker(most: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let head = "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ndate: Sat, 21 Nov 2026 10:00:00 GMT\r\n";
    let stream = format!(
        "{head}content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{EVENTS}\r\n",
        EVENTS.len()
    );
    let plain = format!(
        "{head}content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{ANSWER}",
        ANSWER.len()
    );
    thread::spawn(move || {
        let mut held = Vec::with_capacity(most);
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut buffer = [0; LONGEST];
            let request = read_until(&mut socket, &mut buffer, |request| {
                find(request, b"\r\n\r\n").is_some() && request.ends_with(b"}")
            });
            if find(request, b"\"stream\":true").is_some() {
                socket.write_all(stream.as_bytes()).unwrap();
                held.push(socket);
            } else {
                socket.write_all(plain.as_bytes()).unwrap();
            }
        }
    });
    addr
}

/// Reads until `done`, without the heap.
fn read_until<'b>(
    socket: &mut TcpStream,
    buffer: &'b mut [u8; LONGEST],
    done: impl Fn(&[u8]) -> bool,
) -> &'b [u8] {
    let mut filled = 0;
    while !done(&buffer[..filled]) {
        let read = socket.read(&mut buffer[filled..]).unwrap();
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&buffer[..filled]));
        filled += read;
    }
    &buffer[..filled]
}

fn body(stream: bool) -> String {
    format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":"Why does water find its level?"}}],"max_tokens":900,"stream":{stream}}}"#
    )
}

/// Returns a request as common clients send it.
pub(super) fn request(stream: bool) -> String {
    let body = body(stream);
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway.example\r\naccept: application/json\r\n\
         accept-encoding: identity\r\nconnection: keep-alive\r\nuser-agent: OpenAI/Python 2.8.1\r\n\
         x-stainless-lang: python\r\nx-stainless-package-version: 2.8.1\r\nx-stainless-os: Linux\r\n\
         x-stainless-arch: x64\r\nx-stainless-runtime: CPython\r\nx-stainless-runtime-version: 3.12.3\r\n\
         x-stainless-async: false\r\nx-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\n\
         authorization: Bearer sk-bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn connect(gateway: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(gateway).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Opens a connection with one answer on it: of a stream, up to its first content.
pub(super) fn ask(gateway: SocketAddr, request: &str) -> TcpStream {
    let mut socket = connect(gateway);
    socket.write_all(request.as_bytes()).unwrap();
    read_until(&mut socket, &mut [0; LONGEST], |answer| find(answer, WORD).is_some());
    socket
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Opens a connection over HTTP/2 with `count` streams, each up to its first content.
pub(super) fn ask_over_http2(gateway: SocketAddr, count: u32) -> TcpStream {
    const POST_OVER_HTTP: [u8; 2] = [0x83, 0x86];
    let mut fields = POST_OVER_HTTP.to_vec();
    // A path and a host have their names in the table of HPACK; literals are not added to it.
    let pairs: [(&[u8], &str); 4] = [
        (&[0x04], "/v1/chat/completions"),
        (&[0x01], "gateway.example"),
        (b"\x00\x0dauthorization", "Bearer sk-bench"),
        (b"\x00\x0ccontent-type", "application/json"),
    ];
    for (name, value) in pairs {
        fields.extend(name);
        fields.push(value.len().try_into().unwrap());
        fields.extend(value.as_bytes());
    }
    let mut socket = connect(gateway);
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    socket.write_all(&frame(4, 0, 0, &[])).unwrap();
    // Of the gateway's settings none matters here.
    socket.write_all(&frame(4, 1, 0, &[])).unwrap();
    let body = body(true);
    for stream in (0..count).map(|number| 2 * number + 1) {
        socket
            .write_all(&[frame(1, 4, stream, &fields), frame(0, 1, stream, body.as_bytes())].concat())
            .unwrap();
        read_until(&mut socket, &mut [0; LONGEST], |answer| find(answer, WORD).is_some());
    }
    socket
}
