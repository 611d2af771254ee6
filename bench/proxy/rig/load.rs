//! An open loop: requests leave at their times, however long earlier ones take.
//!
//! Each connection is a blocking thread. That measures to a few µs, which an event loop's timer
//! with its 1 ms steps cannot; a moderate rate needs few threads.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem;

#[derive(Debug, clap::Args)]
pub(super) struct Load {
    /// The proxy, or the backend itself
    #[arg(long)]
    target: SocketAddr,
    /// Requests per second, over all connections
    #[arg(long)]
    rate: u32,
    /// Connections, each with its own session
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// Seconds to send
    #[arg(long)]
    seconds: u32,
    /// Ask for streams and measure to the first content, less the backend's own time to it
    #[arg(long)]
    stream: bool,
}

/// Larger than any answer of the backend; an answer that does not end is a failure.
const LONGEST_ANSWER: usize = 64 << 10;

impl Load {
    #[expect(clippy::print_stdout, reason = "the script reads the figures from there")]
    pub(super) fn run(self) -> Result<(), Box<dyn Error>> {
        let start = now() + Duration::from_millis(50);
        let mut took = Vec::new();
        let mut failures = 0_usize;
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.connections)
                .map(|index| {
                    let load = &self;
                    scope.spawn(move || load.connection(index, start))
                })
                .collect();
            for thread in threads {
                match thread.join() {
                    Ok((times, failed)) => {
                        took.extend(times);
                        failures += failed;
                    }
                    Err(_) => failures += 1,
                }
            }
        });
        took.sort_unstable();
        let at = |share: usize| took.get(took.len() * share / 100).map_or(0, Duration::as_micros);
        println!("{} {} {failures}", at(50), at(99));
        Ok(())
    }

    /// Returns the time of each request on one connection, and the number of failures. The
    /// connection is given up at its first failure, because later measurements on it would be
    /// wrong.
    fn connection(&self, index: u32, start: Instant) -> (Vec<Duration>, usize) {
        let count = self.rate * self.seconds / self.connections;
        let mut took = Vec::new();
        let mut buffer = vec![0; LONGEST_ANSWER];
        let request = self.request(index);
        let Ok(mut socket) = TcpStream::connect(self.target) else { return (took, 1) };
        if socket.set_nodelay(true).is_err() || socket.set_read_timeout(Some(Duration::from_secs(5))).is_err()
        {
            return (took, 1);
        }
        for turn in 0..count {
            let place = turn * self.connections + index;
            let due = start + Duration::from_secs(1) * place / self.rate;
            let idle = due.checked_duration_since(now());
            if let Some(wait) = idle {
                pause(wait);
            }
            // A late request counts from when it was due. A request on time counts from now: the
            // delay of the kernel's wake-up is not latency of the proxy.
            let began = if idle.is_some() { now() } else { due };
            let first = socket.write_all(&request).and_then(|()| self.first(&mut socket, &mut buffer));
            let Ok((arrived, own)) = first else { return (took, 1) };
            took.push((arrived - began).saturating_sub(own));
        }
        (took, 0)
    }

    fn request(&self, index: u32) -> Vec<u8> {
        let body = format!(
            r#"{{"model":"bench","messages":[{{"role":"user","content":"Why does water find its level?"}}],"max_tokens":16,"stream":{}}}"#,
            self.stream
        );
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
             authorization: Bearer sk-bench\r\nx-session-id: s{index}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    /// Returns the time of the answer or a stream's first content, and the backend's share.
    fn first(&self, socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<(Instant, Duration)> {
        let mut filled = 0;
        let mut first = None;
        loop {
            let read = socket.read(&mut buffer[filled..])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            let seen = &buffer[..filled];
            if self.stream && first.is_none() {
                first = own_time(seen).map(|own| (now(), own));
            }
            if !self.is_whole(seen) {
                continue;
            }
            if !seen.starts_with(b"HTTP/1.1 200") {
                return Err(io::Error::other("refused"));
            }
            return if self.stream {
                first.ok_or_else(|| io::Error::other("no content"))
            } else {
                Ok((now(), Duration::ZERO))
            };
        }
    }

    /// `true` if the whole answer has been read; the backend's answers end in known ways.
    fn is_whole(&self, seen: &[u8]) -> bool {
        if self.stream {
            return seen.ends_with(b"0\r\n\r\n") && memmem::find(seen, b"[DONE]").is_some();
        }
        seen.ends_with(b"\"total_tokens\":27}}") || seen.ends_with(b"\"total_tokens\":27}}\r\n0\r\n\r\n")
    }
}

/// Reads the backend's own time from the first content.
fn own_time(seen: &[u8]) -> Option<Duration> {
    const MARK: &[u8] = b"\"delta\":{\"content\":\"";
    let from = memmem::find(seen, MARK)? + MARK.len();
    let length = memmem::find(&seen[from..], b" us ")?;
    let micros = std::str::from_utf8(&seen[from..from + length]).ok()?.parse().ok()?;
    Some(Duration::from_micros(micros))
}

#[expect(clippy::disallowed_methods, reason = "real time is what is measured")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own, with nothing else to do until then")]
fn pause(wait: Duration) {
    thread::sleep(wait);
}
