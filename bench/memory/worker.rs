//! A worker whose streams stay open after their first content, on one thread.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;
use tokio::time::sleep;

/// Pause between two tokens: long, so that most streams are at rest.
const PAUSE: Duration = Duration::from_secs(10);
/// Connections that the kernel may hold until they are accepted: the client opens many at once.
const BACKLOG: u32 = 4096;

const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"tide"},"finish_reason":"stop"}],"usage":{"prompt_tokens":18,"completion_tokens":1,"total_tokens":19}}"#;
const ROLE: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
const TOKEN: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"tide\"}}]}\n\n";

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(super) fn run(listen: SocketAddr) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        let listener = socket.listen(BACKLOG)?;
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            tokio::spawn(async move {
                let connection = hyper::server::conn::http1::Builder::new();
                // A client that hangs up ends only its own connection.
                connection.serve_connection(TokioIo::new(socket), service_fn(answer)).await.ok()
            });
        }
    })
}

async fn answer(request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let streamed = memchr::memmem::find(&body, b"\"stream\":true").is_some();
    let (kind, body) = if streamed {
        ("text/event-stream", tokens().boxed_unsync())
    } else {
        ("application/json", Full::new(Bytes::from_static(ANSWER.as_bytes())).boxed_unsync())
    };
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(answer)
}

/// The role and a token at once, then a token after each pause, without an end.
fn tokens() -> StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>>> {
    StreamBody::new(stream::unfold(0_u32, move |sent| async move {
        let text = if sent == 0 { ROLE } else { TOKEN };
        if sent > 1 {
            sleep(PAUSE).await;
        }
        Some((Ok(Frame::data(Bytes::from_static(text.as_bytes()))), sent.saturating_add(1)))
    }))
}
