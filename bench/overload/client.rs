//! An HTTP/1.1 client with connection reuse; all times run from when the request was due.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::arrivals::Arrival;
use crate::plan::PATIENCE;
use crate::prompts::Prompts;
use crate::reader::{Reader, completion_tokens};
use crate::sample::Outcome;

/// An idle connection is reused within this time. All servers here keep theirs longer, so none
/// closes a connection just as it is taken.
const IDLE: Duration = Duration::from_secs(5);
/// Longest wait for the end of an answer that has begun.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);
/// Largest non-streamed answer, in bytes.
const LARGEST_ANSWER: usize = 4 << 20;
type Sender = SendRequest<Full<Bytes>>;

/// Sends requests to one server, over as many connections as there are requests in flight.
#[derive(Debug)]
pub(crate) struct Client {
    target: SocketAddr,
    prompts: Prompts,
    idle: Mutex<Vec<(Sender, Instant)>>,
}

impl Client {
    pub(crate) fn new(target: SocketAddr) -> Self {
        Self { target, prompts: Prompts::alike(), idle: Mutex::default() }
    }

    /// Returns a client for real engines. No prompt repeats, because engines cache them. Each
    /// request opens a connection, because some engines close theirs after an answer without
    /// announcing it.
    pub(crate) fn varied(target: SocketAddr) -> Self {
        Self { prompts: Prompts::varied(), ..Self::new(target) }
    }

    /// Makes one request that was due at `due`, and returns its outcome.
    pub(crate) async fn ask(&self, arrival: &Arrival, due: Instant) -> Outcome {
        let body = self.body(arrival);
        let sent = timeout_at(due + PATIENCE, self.send(arrival, &body)).await;
        match sent {
            Err(_) => Outcome::GaveUp,
            Ok(Err(failure)) => Outcome::Failed(failure),
            Ok(Ok((response, sender))) => self.answer(arrival, response, sender, due).await,
        }
    }

    /// GETs a path and returns status and body.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String), String> {
        self.once(Method::GET, path, Bytes::new()).await
    }

    /// POSTs JSON to a path and returns status and body.
    pub(crate) async fn post(&self, path: &str, json: &'static str) -> Result<(u16, String), String> {
        self.once(Method::POST, path, Bytes::from_static(json.as_bytes())).await
    }

    async fn once(&self, method: Method, path: &str, body: Bytes) -> Result<(u16, String), String> {
        let request = Request::builder().method(method).uri(path).header(HOST, self.target.to_string());
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn body(&self, arrival: &Arrival) -> Bytes {
        let prompt = self.prompts.of(arrival);
        let stream = arrival.streamed;
        let length = arrival.max_tokens.map(|tokens| format!(r#","max_tokens":{tokens},"ignore_eos":true"#));
        let length = length.unwrap_or_default();
        format!(
            r#"{{"model":"sim","messages":[{{"role":"user","content":"{prompt}"}}],"stream":{stream}{length}}}"#
        )
        .into()
    }

    async fn connect(&self) -> Result<Sender, String> {
        let failed = |error: &dyn std::fmt::Display| format!("no connection: {error}");
        let socket = TcpStream::connect(self.target).await.map_err(|error| failed(&error))?;
        socket.set_nodelay(true).map_err(|error| failed(&error))?;
        let (sender, connection) = handshake(TokioIo::new(socket)).await.map_err(|error| failed(&error))?;
        // The request on a connection sees how it ends; an idle connection may end in any way.
        tokio::spawn(async move { connection.await.ok() });
        Ok(sender)
    }

    fn resting(&self) -> Option<Sender> {
        let mut idle = self.idle.lock();
        let oldest = Instant::now().checked_sub(IDLE)?;
        let fresh = idle.partition_point(|(_, since)| *since < oldest);
        idle.drain(..fresh);
        std::iter::from_fn(|| idle.pop()).map(|(sender, _)| sender).find(|sender| !sender.is_closed())
    }

    fn rest(&self, sender: Sender) {
        if matches!(self.prompts, Prompts::Alike(_)) {
            self.idle.lock().push((sender, Instant::now()));
        }
    }

    async fn send(&self, arrival: &Arrival, body: &Bytes) -> Result<(Response<Incoming>, Sender), String> {
        loop {
            let resting = self.resting();
            let reused = resting.is_some();
            let mut sender = match resting {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            let request = Request::builder()
                .method(Method::POST)
                .uri("/v1/chat/completions")
                .header(HOST, "overload")
                .header(CONTENT_TYPE, "application/json")
                .header("x-user-id", format!("c{}", arrival.caller))
                .header("x-traffic-dam-class", arrival.class.name())
                .body(Full::new(body.clone()))
                .map_err(|error| error.to_string())?;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                // The server closed the connection as we took it, and has not seen the request.
                Err(failed) if reused && failed.message().is_some() => {}
                Err(failed) => return Err(format!("no answer: {}", failed.error())),
            }
        }
    }

    async fn answer(
        &self,
        arrival: &Arrival,
        response: Response<Incoming>,
        sender: Sender,
        due: Instant,
    ) -> Outcome {
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        if status == 200 && arrival.streamed {
            return self.stream(body, sender, due).await;
        }
        let limit = if status == 200 { LONGEST_ANSWER } else { PATIENCE };
        let body = match timeout_at(due + limit, Limited::new(body, LARGEST_ANSWER).collect()).await {
            Err(_) => return Outcome::GaveUp,
            Ok(Err(_)) => return Outcome::Cut { first: None },
            Ok(Ok(body)) => body.to_bytes(),
        };
        self.rest(sender);
        let took = due.elapsed();
        match status {
            200 => match completion_tokens(&body) {
                Some(tokens) => Outcome::Served { first: None, took, tokens },
                None => Outcome::Failed("an answer without usage".to_owned()),
            },
            429 | 503 => refused(&head.headers, took),
            _ => Outcome::Failed(format!("status {status} {}", reason(&head.headers))),
        }
    }

    async fn stream(&self, mut body: Incoming, sender: Sender, due: Instant) -> Outcome {
        let mut reader = Reader::default();
        let mut first = None;
        loop {
            let until = due + if first.is_some() { LONGEST_ANSWER } else { PATIENCE };
            match timeout_at(until, body.frame()).await {
                Err(_) if first.is_none() => return Outcome::GaveUp,
                Err(_) | Ok(Some(Err(_))) => return Outcome::Cut { first },
                Ok(Some(Ok(frame))) => {
                    if let Some(bytes) = frame.data_ref() {
                        reader.feed(bytes);
                    }
                    if first.is_none() && reader.tokens > 0 {
                        first = Some(due.elapsed());
                    }
                }
                Ok(None) if reader.done && !reader.failed => {
                    self.rest(sender);
                    return Outcome::Served { first, took: due.elapsed(), tokens: reader.tokens };
                }
                Ok(None) => return Outcome::Cut { first },
            }
        }
    }
}

fn reason(headers: &HeaderMap) -> String {
    let reason = headers.get("x-traffic-dam-reason").and_then(|reason| reason.to_str().ok());
    reason.unwrap_or_default().to_owned()
}

/// Reads when a refusal asks the client to retry.
fn refused(headers: &HeaderMap, took: Duration) -> Outcome {
    let number = |name| headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    let seconds = number(RETRY_AFTER.as_str()).filter(|seconds| *seconds > 0);
    let exact = number("retry-after-ms").map(Duration::from_millis);
    Outcome::Refused {
        took,
        reason: reason(headers),
        retry_after: seconds.is_some(),
        wait: exact.or(seconds.map(Duration::from_secs)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_refusal_is_read_as_a_client_would() {
        let took = Duration::from_millis(1);
        let told = |pairs: &[_]| match refused(&headers(pairs), took) {
            Outcome::Refused { retry_after, wait, .. } => (retry_after, wait),
            other => panic!("{other:?}"),
        };
        let exact = [("retry-after", "1"), ("retry-after-ms", "446")];
        assert_eq!(told(&exact), (true, Some(Duration::from_millis(446))));
        assert_eq!(told(&[("retry-after", "2")]), (true, Some(Duration::from_secs(2))));
        assert_eq!(told(&[]), (false, None));
        // A `Retry-After` of zero seconds tells a client nothing.
        assert_eq!(told(&[("retry-after", "0")]), (false, None));
    }
}
