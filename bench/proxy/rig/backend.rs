//! A worker that answers at once, on one thread.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::yield_now;
use tokio::time::{Instant, interval, sleep};

/// Tokens of a stream, and the pause before each, unless the request says otherwise.
const TOKENS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(3);

const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1763680000,"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"Because it is the shape of least energy."},"finish_reason":"stop"}],"usage":{"prompt_tokens":18,"completion_tokens":9,"total_tokens":27}}"#;
const ROLE: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";

/// As long as an event of a common engine.
const EVENT: &str = "data: {\"id\":\"chatcmpl-9f1c2b7d4e\",\"object\":\"chat.completion.chunk\",\"created\":1763680000,\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" water\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(super) fn run(listen: SocketAddr) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            tokio::spawn(async move {
                let service = service_fn(answer);
                // A client that hangs up ends only its own connection.
                hyper::server::conn::http1::Builder::new()
                    .pipeline_flush(true)
                    .serve_connection(TokioIo::new(socket), service)
                    .await
                    .ok()
            });
        }
    })
}

async fn answer(request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let received = Instant::now();
    let body = request.into_body().collect().await?.to_bytes();
    let streamed = memchr::memmem::find(&body, b"\"stream\":true").is_some();
    let (kind, body) = if let Some(asked) = AskedEvents::of(&body) {
        ("text/event-stream", events(asked).boxed_unsync())
    } else if streamed {
        ("text/event-stream", tokens(received).boxed_unsync())
    } else {
        ("application/json", Full::new(Bytes::from_static(ANSWER.as_bytes())).boxed_unsync())
    };
    let mut answer = Response::new(body);
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
    Ok(answer)
}

/// The role, then the tokens. Each carries the time from the request to its sending, in µs. The
/// client subtracts it, so that only the way there and back remains.
fn tokens(
    received: Instant,
) -> StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>>> {
    StreamBody::new(stream::unfold(0, move |sent| async move {
        let text = match sent {
            0 => ROLE.to_owned(),
            1..=TOKENS => {
                sleep(PAUSE).await;
                let own = received.elapsed().as_micros();
                format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{own} us \"}}}}]}}\n\n")
            }
            _ if sent == TOKENS + 1 => "data: [DONE]\n\n".to_owned(),
            _ => return None,
        };
        Some((Ok(Frame::data(Bytes::from(text))), sent + 1))
    }))
}

/// What a request asks for as `"bench":{"events":64,"pause_us":0}`.
#[derive(Clone, Copy)]
struct AskedEvents {
    events: u32,
    /// Zero: each is written as soon as the one before is.
    pause: Duration,
}

impl AskedEvents {
    fn of(body: &[u8]) -> Option<Self> {
        let number = |name: &[u8]| {
            let from = memchr::memmem::find(body, name)? + name.len();
            let digits = body[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            std::str::from_utf8(&body[from..from + digits]).ok()?.parse().ok()
        };
        let pause = Duration::from_micros(number(b"\"pause_us\":")?);
        Some(Self { events: u32::try_from(number(b"\"events\":")?).ok()?, pause })
    }
}

/// The events, each in a write of its own.
fn events(
    asked: AskedEvents,
) -> StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>>> {
    let ticks = (!asked.pause.is_zero()).then(|| interval(asked.pause));
    StreamBody::new(stream::unfold((0, ticks), move |(sent, mut ticks)| async move {
        if sent > asked.events {
            return None;
        }
        match &mut ticks {
            // The mean rate is exact: what came late is made up for.
            Some(ticks) => drop(ticks.tick().await),
            None => yield_now().await,
        }
        let text = if sent < asked.events { EVENT } else { DONE };
        Some((Ok(Frame::data(Bytes::from_static(text.as_bytes()))), (sent + 1, ticks)))
    }))
}
