//! A client that writes exactly the bytes of a test, and sees exactly the bytes of the answer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Far longer than anything here takes: a wait this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The answer to one request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// `true` if the body ended as its framing announced.
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        let value = self.header(name).unwrap_or_else(|| panic!("no {name} in {}", self.head));
        value.parse().unwrap_or_else(|_| panic!("{name}: {value}"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.head, self.text()))
    }

    /// Returns the reason, the error's type and code, and its message.
    pub(crate) fn refusal(&self) -> (String, String, String, String) {
        let error = &self.json()["error"];
        let field = |name: &str| {
            error[name].as_str().unwrap_or_else(|| panic!("no {name}: {}", self.text())).to_owned()
        };
        let reason = self.header("x-traffic-dam-reason").unwrap_or_default().to_owned();
        (reason, field("type"), field("code"), field("message"))
    }

    pub(crate) fn reason(&self) -> &str {
        self.header("x-traffic-dam-reason").unwrap_or_default()
    }
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) socket: TcpStream,
    unread: Vec<u8>,
}

fn ended() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

impl Conn {
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        let socket = timeout(PATIENCE, TcpStream::connect(addr)).await.expect("connects").unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, unread: Vec::new() }
    }

    /// Writes as much as the other end takes: some tests are about an end that has closed.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        timeout(PATIENCE, self.socket.write_all(bytes.as_ref())).await.expect("the gateway reads or closes")
    }

    async fn fill(&mut self) -> io::Result<()> {
        let read = self.socket.read_buf(&mut self.unread);
        match timeout(PATIENCE, read).await.expect("the gateway answers or closes")? {
            0 => Err(ended()),
            _ => Ok(()),
        }
    }

    async fn until(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
        let mut from = 0;
        loop {
            if let Some(at) = self.unread[from..].windows(mark.len()).position(|window| window == mark) {
                return Ok(self.unread.drain(..from + at + mark.len()).collect());
            }
            from = self.unread.len().saturating_sub(mark.len() - 1);
            self.fill().await?;
        }
    }

    async fn exactly(&mut self, count: usize, into: &mut Vec<u8>) -> io::Result<()> {
        while self.unread.len() < count {
            self.fill().await?;
        }
        into.extend(self.unread.drain(..count));
        Ok(())
    }

    /// Reads the head of an answer; interim answers are skipped.
    pub(crate) async fn head(&mut self) -> io::Result<Answer> {
        loop {
            let head = String::from_utf8(self.until(b"\r\n\r\n").await?).expect("a head is text");
            let status =
                head.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{head}"));
            if status >= 200 {
                return Ok(Answer { status, head, body: Vec::new(), whole: false });
            }
        }
    }

    /// Reads the rest of an answer.
    pub(crate) async fn rest(&mut self, mut answer: Answer) -> Answer {
        answer.whole = self.body(&mut answer).await.is_ok();
        answer
    }

    async fn body(&mut self, answer: &mut Answer) -> io::Result<()> {
        if answer.header("transfer-encoding").is_some() {
            loop {
                let size = self.until(b"\r\n").await?;
                let size =
                    usize::from_str_radix(std::str::from_utf8(&size).unwrap().trim(), 16).expect("a size");
                if size == 0 {
                    while self.until(b"\r\n").await? != b"\r\n" {}
                    return Ok(());
                }
                self.exactly(size, &mut answer.body).await?;
                self.until(b"\r\n").await?;
            }
        }
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        self.exactly(length, &mut answer.body).await
    }

    /// Reads the next answer, to its end.
    pub(crate) async fn answer(&mut self) -> io::Result<Answer> {
        let head = self.head().await?;
        Ok(self.rest(head).await)
    }

    /// Reads raw body bytes until `mark` was among them.
    pub(crate) async fn see(&mut self, mark: &str) -> io::Result<()> {
        self.until(mark.as_bytes()).await.map(drop)
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> io::Result<Answer> {
        self.send(request).await?;
        self.answer().await
    }
}

/// Sends one request on a new connection.
pub(crate) async fn ask(addr: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    Conn::open(addr).await.ask(request).await.expect("an answer")
}

/// Returns a request's bytes. `fields` are whole lines; `Host` and a length are added.
pub(crate) fn request(line: &str, fields: &[&str], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut head = format!("{line} HTTP/1.1\r\nhost: localhost\r\n");
    if !body.is_empty() || line.starts_with('P') {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for field in fields {
        head.push_str(field);
        head.push_str("\r\n");
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

pub(crate) fn get(path: &str) -> Vec<u8> {
    request(&format!("GET {path}"), &[], "")
}

/// Returns a chat with `tokens` answer tokens, always the same for the same id.
pub(crate) fn chat(id: &str, stream: bool, tokens: u32, fields: &[&str]) -> Vec<u8> {
    let body = format!(
        r#"{{"model":"sim","messages":[{{"role":"user","content":"Say something."}}],"stream":{stream},"max_tokens":{tokens},"ignore_eos":true}}"#
    );
    let id = format!("x-request-id: {id}");
    let fields: Vec<&str> =
        [id.as_str(), "content-type: application/json"].iter().chain(fields).copied().collect();
    request("POST /v1/chat/completions", &fields, body)
}
