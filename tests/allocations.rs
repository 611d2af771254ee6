//! Counts what the gateway allocates for a small request, and for an event of a stream.
//!
//! Time depends on the machine and on what else runs there; these counts do not, so they have
//! bounds. `cargo test --test allocations -- --nocapture` prints them, and so does
//! `make bench-proxy`. The settings are those of that benchmark: all layers are in use.
//!
//! The client and the worker are threads that allocate nothing while they are measured. What the
//! gateway does in the background falls into some of the batches, so the least of several counts.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    reason = "a test that prints what it counts"
)]

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use memchr::memmem;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use traffic_dam::app::{App, BoundListeners};
use traffic_dam::clock::Clock;
use traffic_dam::config::{self, LoadContext, Overrides};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The most allocations of one small request, and the most bytes in them.
const REQUEST: Count = Count { blocks: 74.0, bytes: 34_000.0 };
/// The most of one event of a stream.
const EVENT: Count = Count { blocks: 2.5, bytes: 9_000.0 };

/// Requests in a batch, and batches. Each batch of a hundred takes some milliseconds.
const REQUESTS: u32 = 100;
const BATCHES: usize = 7;
/// Events of a long stream.
const EVENTS: usize = 64;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 260\r\n\r\n\
    {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1763680000,\"model\":\"bench\",\"choices\":[{\"index\":0,\
    \"message\":{\"role\":\"assistant\",\"content\":\"Because it flows.\"},\"finish_reason\":\"stop\"}],\
    \"usage\":{\"prompt_tokens\":18,\"completion_tokens\":4,\"total_tokens\":22}}";
const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const EVENT_CHUNK: &[u8] = b"34\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"water \"}}]}\n\n\r\n";
const LAST_CHUNK: &[u8] = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

/// Allocations and their bytes, on average.
#[derive(Clone, Copy, Debug)]
struct Count {
    blocks: f64,
    bytes: f64,
}

impl Count {
    /// Returns the average of `of` pieces of work, in the batch in which it was least.
    fn least(of: u32, mut work: impl FnMut()) -> Self {
        let counts = (0..BATCHES).map(|_| {
            let region = Region::new(ALLOCATOR);
            work();
            let change = region.change();
            Self {
                blocks: (change.allocations + change.reallocations) as f64 / f64::from(of),
                bytes: (change.bytes_allocated as f64 + change.bytes_reallocated.max(0) as f64)
                    / f64::from(of),
            }
        });
        counts.min_by(|one, other| one.blocks.total_cmp(&other.blocks)).unwrap()
    }

    fn within(self, most: Self, what: &str) {
        println!("{what}: {:.1} allocations, {:.0} bytes", self.blocks, self.bytes);
        assert!(
            self.blocks <= most.blocks && self.bytes <= most.bytes,
            "{what}: {self:?} is more than {most:?}; raise the bound only if it must be so"
        );
    }
}

/// Reads one request from `socket`; returns whether it asks for a stream, `None` at the end.
fn next_request(socket: &mut TcpStream, buffer: &mut [u8]) -> Option<bool> {
    let mut filled = 0;
    loop {
        let read = socket.read(&mut buffer[filled..]).unwrap();
        if read == 0 {
            return None;
        }
        filled += read;
        if buffer[..filled].ends_with(b"}") {
            return Some(memmem::find(&buffer[..filled], b"\"stream\":true").is_some());
        }
    }
}

/// A worker for one connection after another. It sends an event of a stream when it is told that
/// the client has got the one before, so that each is read and written by itself.
fn worker(listener: TcpListener, turns: Receiver<bool>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            socket.set_nodelay(true).unwrap();
            while let Some(streamed) = next_request(&mut socket, &mut buffer) {
                if !streamed {
                    socket.write_all(ANSWER).unwrap();
                    continue;
                }
                socket.write_all(STREAM).unwrap();
                while turns.recv().unwrap() {
                    socket.write_all(EVENT_CHUNK).unwrap();
                }
                socket.write_all(LAST_CHUNK).unwrap();
            }
        }
    });
}

/// Starts a gateway before a worker at `worker`, with the settings of the benchmark.
fn gateway(worker: SocketAddr) -> SocketAddr {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/proxy/dam.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let variable = |name: &str| (name == "WORKER_URL").then(|| format!("http://{worker}"));
    let context = LoadContext { variable: &variable, obstacle: &|_| None, overrides: Overrides::default() };
    let settings = config::from_str(&text, &path, context).unwrap_or_else(|faults| panic!("{faults}"));
    let (found, address) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let app = App::new(settings, Clock::system()).unwrap();
            let bind = || traffic_dam::net::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            let listeners = BoundListeners::bound(bind(), bind());
            found.send(listeners.addresses().unwrap().0).unwrap();
            app.serve(listeners).await;
        });
    });
    address.recv().unwrap()
}

/// A client with one connection.
struct Client {
    socket: TcpStream,
    buffer: Vec<u8>,
    plain: Vec<u8>,
    stream: Vec<u8>,
    turns: SyncSender<bool>,
}

impl Client {
    fn new(gateway: SocketAddr, turns: SyncSender<bool>) -> Self {
        let socket = TcpStream::connect(gateway).unwrap();
        socket.set_nodelay(true).unwrap();
        let request = |stream: bool| {
            let body = format!(
                r#"{{"model":"bench","messages":[{{"role":"user","content":"Why?"}}],"max_tokens":16,"stream":{stream}}}"#
            );
            format!(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
                 authorization: Bearer sk-bench\r\nx-session-id: s1\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes()
        };
        let (plain, stream) = (request(false), request(true));
        Self { socket, buffer: vec![0; 1 << 16], plain, stream, turns }
    }

    /// Reads until what has come since the last call ends with `end`.
    fn read_to(&mut self, end: &[u8]) {
        let mut filled = 0;
        while !self.buffer[..filled].ends_with(end) {
            let read = self.socket.read(&mut self.buffer[filled..]).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&self.buffer[..filled]));
            filled += read;
        }
        let refused = self.buffer.starts_with(b"HTTP/1.1") && !self.buffer.starts_with(b"HTTP/1.1 200");
        assert!(!refused, "{}", String::from_utf8_lossy(&self.buffer[..filled]));
    }

    fn ask(&mut self) {
        self.socket.write_all(&self.plain).unwrap();
        self.read_to(b"}}");
    }

    /// Reads a stream of `events` events, one at a time.
    fn read_stream(&mut self, events: usize) {
        self.socket.write_all(&self.stream).unwrap();
        for _ in 0..events {
            self.turns.send(true).unwrap();
            self.read_to(b"\n\n\r\n");
        }
        self.turns.send(false).unwrap();
        self.read_to(b"\r\n0\r\n\r\n");
    }
}

#[test]
fn a_request_and_an_event_allocate_no_more_than_they_did() {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let backend = listener.local_addr().unwrap();
    // It never holds more than one turn; a channel with room allocates only when it is made.
    let (turns, taken) = mpsc::sync_channel(1);
    worker(listener, taken);
    let mut client = Client::new(gateway(backend), turns);
    // Pools, tables and buffers fill.
    (0..REQUESTS).for_each(|_| client.ask());
    client.read_stream(EVENTS);

    let request = Count::least(REQUESTS, || (0..REQUESTS).for_each(|_| client.ask()));
    let short = Count::least(1, || client.read_stream(1));
    let long = Count::least(1, || client.read_stream(1 + EVENTS));
    let events = EVENTS as f64;
    let event =
        Count { blocks: (long.blocks - short.blocks) / events, bytes: (long.bytes - short.bytes) / events };
    request.within(REQUEST, "small request");
    println!("stream of one event: {:.0} allocations, {:.0} bytes", short.blocks, short.bytes);
    event.within(EVENT, "event of a stream");
}
