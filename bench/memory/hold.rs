//! A client that opens connections or streams, and holds them.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Requests on their way at once.
const AT_ONCE: usize = 64;
/// Streams of one HTTP/2 connection.
const SHARED_BY: usize = 100;
/// In the content of every answer.
const WORD: &[u8] = b"tide";

#[derive(Debug, clap::Args)]
pub(super) struct Hold {
    /// The proxy
    #[arg(long)]
    target: SocketAddr,
    /// Connections, or streams over HTTP/2
    #[arg(long)]
    count: usize,
    /// Ask for streams that stay open; otherwise the connections idle after an answer each
    #[arg(long)]
    stream: bool,
    /// Over HTTP/2, a hundred streams a connection
    #[arg(long, requires = "stream")]
    http2: bool,
}

type Opened = Result<(), Box<dyn Error + Send + Sync>>;

impl Hold {
    #[expect(clippy::print_stdout, reason = "the script waits for these lines")]
    pub(super) fn run(self) -> Result<(), Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.open()).map_err(|error| -> Box<dyn Error> { error })?;
        println!("open");
        let mut line = String::new();
        // The sockets are read meanwhile: what comes must not fill their buffers.
        let ended = runtime.spawn_blocking(move || io::stdin().read_line(&mut line));
        runtime.block_on(ended)??;
        Ok(())
    }

    /// Opens everything; what is open stays with the runtime.
    async fn open(&self) -> Opened {
        let mut opening = JoinSet::new();
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut shared: Option<SendRequest<Full<Bytes>>> = None;
        for number in 0..self.count {
            let place = Arc::clone(&places).acquire_owned().await?;
            let (target, body) = (self.target, self.body());
            if !self.http2 {
                opening.spawn(async move {
                    open(target, &body).await?;
                    drop(place);
                    Ok(())
                });
                continue;
            }
            let sender = match shared.take().filter(|_| number % SHARED_BY != 0) {
                Some(sender) => sender,
                None => connect(target).await?,
            };
            let stream = sender.clone();
            shared = Some(sender);
            opening.spawn(async move {
                open_over_http2(stream, body).await?;
                drop(place);
                Ok(())
            });
        }
        while let Some(opened) = opening.join_next().await {
            let opened: Opened = opened?;
            opened?;
        }
        Ok(())
    }

    fn body(&self) -> String {
        format!(
            r#"{{"model":"bench","messages":[{{"role":"user","content":"Why does water find its level?"}}],"max_tokens":16,"stream":{}}}"#,
            self.stream
        )
    }
}

/// Asks on a new connection, waits for the content, and leaves the connection to a task.
async fn open(target: SocketAddr, body: &str) -> Opened {
    let mut socket = TcpStream::connect(target).await?;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
         authorization: Bearer sk-bench\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while memmem::find(&answer, WORD).is_none() {
        if socket.read_buf(&mut answer).await? == 0 {
            return Err(format!("no answer: {}", String::from_utf8_lossy(&answer)).into());
        }
    }
    tokio::spawn(async move {
        let mut rest = [0; 256];
        while socket.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    });
    Ok(())
}

async fn connect(target: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
    let socket = TcpStream::connect(target).await?;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn open_over_http2(mut sender: SendRequest<Full<Bytes>>, body: String) -> Opened {
    let request = Request::post("http://bench/v1/chat/completions")
        .header("content-type", "application/json")
        .header("authorization", "Bearer sk-bench")
        .body(Full::new(Bytes::from(body)))?;
    sender.ready().await?;
    let mut answer: Incoming = sender.send_request(request).await?.into_body();
    loop {
        let frame = answer.frame().await.ok_or("no content")??;
        if frame.data_ref().is_some_and(|data| memmem::find(data, WORD).is_some()) {
            break;
        }
    }
    tokio::spawn(async move { while answer.frame().await.is_some_and(|frame| frame.is_ok()) {} });
    Ok(())
}
