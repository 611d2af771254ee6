//! The worker's HTTP service.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, TRAILER as TRAILER_NAMES};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::WorkerOptions;
use super::ask::{SimEndpoint, WorkerRequest};
use super::body::{BrokenOff, StreamBody, TRAILER, WorkerBody};
use super::debug::{Debug, WorkerChange};
use super::driver::{EngineDriver, SequenceWork};
use super::fault::{FAULTS, Instead, Midway, RequestFaults};
use super::mailbox::SequenceCounts;
use super::plain::PlainEndpoint;
use super::plan::AnswerPlan;
use super::prompt_blocks::prompt_blocks;
use super::tally::{EndedAs, InFlightTicket, OutcomeTally};
use crate::clock::unix_seconds;

/// Maximum bytes of a request's body.
const MAX_BODY: usize = 8 << 20;
/// Maximum length of a client's request id that is used in the answer's id, in bytes.
const MAX_ID: usize = 128;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// State that all connections share.
pub(super) struct WorkerService {
    options: WorkerOptions,
    driver: Arc<EngineDriver>,
    tally: Arc<OutcomeTally>,
    debug: Debug,
    /// One timestamp for all answers: the same request with the same id gets the same bytes.
    created: u64,
    answers: AtomicU64,
}

/// Response without the headers that all responses get.
type Reply = Result<Response<WorkerBody>, BrokenOff>;

impl WorkerService {
    pub(super) fn new(options: WorkerOptions, driver: Arc<EngineDriver>) -> Self {
        Self {
            options,
            driver,
            tally: Arc::default(),
            debug: Debug::default(),
            created: unix_seconds(),
            answers: AtomicU64::new(0),
        }
    }

    /// Answers one request, or breaks the connection if a fault says so.
    pub(super) async fn serve(&self, request: Request<Incoming>) -> Reply {
        let (parts, body) = request.into_parts();
        let id = parts.headers.get(REQUEST_ID).cloned();
        let mut response = self.route(parts, body).await?;
        let headers = response.headers_mut();
        if let Ok(model) = HeaderValue::from_str(&self.options.model) {
            headers.insert("x-sim-model", model);
        }
        if let Some(id) = id {
            headers.insert(REQUEST_ID, id);
        }
        Ok(response)
    }

    async fn route(&self, parts: Parts, body: Incoming) -> Reply {
        let path = parts.uri.path();
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        Ok(match path {
            "/health" if reads => plain(StatusCode::OK, "text/plain", "ok\n"),
            "/metrics" if reads => {
                plain(StatusCode::OK, "text/plain; version=0.0.4", self.driver.metrics(&self.options.model))
            }
            "/debug/requests" if reads => json(self.tally.json()),
            "/debug/last" if reads => json(self.debug.last()),
            "/debug/fault" if parts.method == Method::POST => {
                order(body, |bytes| self.debug.set_faults(bytes)).await
            }
            "/debug/worker" if parts.method == Method::POST => {
                order(body, |bytes| WorkerChange::parse(bytes).map(|change| self.driver.change(&change)))
                    .await
            }
            "/v1/models" if reads => {
                self.debug.record(parts, Bytes::new());
                json(self.models())
            }
            _ if parts.method == Method::POST => {
                if let Some(form) = SimEndpoint::of_path(path) {
                    return self.infer(form, parts, body).await;
                }
                if let Some(form) = PlainEndpoint::of_path(path) {
                    return self.plainly(form, parts, body).await;
                }
                self.unknown(parts)
            }
            _ => self.unknown(parts),
        })
    }

    fn models(&self) -> String {
        let model = serde_json::Value::from(self.options.model.as_str());
        format!(
            "{{\"object\":\"list\",\"data\":[{{\"id\":{model},\"object\":\"model\",\"created\":{},\
             \"owned_by\":\"traffic-dam\",\"max_model_len\":{}}}]}}",
            self.created, self.options.kv_tokens
        )
    }

    fn unknown(&self, parts: Parts) -> Response<WorkerBody> {
        self.debug.record(parts, Bytes::new());
        error(StatusCode::NOT_FOUND, "no such endpoint")
    }

    /// Answers a call that needs no sequence.
    async fn plainly(&self, form: PlainEndpoint, parts: Parts, body: Incoming) -> Reply {
        let bytes = match read(body).await {
            Ok(bytes) => bytes,
            Err(refusal) => return Ok(refusal),
        };
        let named = parts.headers.get(FAULTS).and_then(|value| value.to_str().ok());
        let faults = match named.map(RequestFaults::parse).transpose() {
            Ok(faults) => faults.or_else(|| self.debug.take_faults()).unwrap_or_default(),
            Err(message) => return Ok(error(StatusCode::BAD_REQUEST, &message)),
        };
        self.debug.record(parts, bytes.clone());
        if let Some(status) = before_the_work(&faults).await? {
            return Ok(error(status, "a simulated fault"));
        }
        Ok(match form.answer(&bytes) {
            Ok((content_type, answer)) => plain(StatusCode::OK, content_type, answer),
            Err(message) => error(StatusCode::BAD_REQUEST, &message),
        })
    }

    /// Answers a call of an OpenAI endpoint. The call counts from its head on.
    async fn infer(&self, form: SimEndpoint, parts: Parts, body: Incoming) -> Reply {
        let mut ticket = self.tally.open();
        match read(body).await {
            Ok(bytes) => self.answer(form, parts, bytes, ticket).await,
            Err(refusal) => {
                ticket.set(EndedAs::Refused);
                Ok(refusal)
            }
        }
    }

    /// Answers a call that did not come over a connection.
    pub(super) async fn call(&self, parts: Parts, bytes: Bytes) -> Reply {
        match SimEndpoint::of_path(parts.uri.path()) {
            Some(form) => self.answer(form, parts, bytes, self.tally.open()).await,
            None => Ok(error(StatusCode::NOT_FOUND, "no such endpoint")),
        }
    }

    async fn answer(
        &self,
        form: SimEndpoint,
        parts: Parts,
        bytes: Bytes,
        mut ticket: InFlightTicket,
    ) -> Reply {
        let refuse = |mut ticket: InFlightTicket, refusal| {
            ticket.set(EndedAs::Refused);
            Ok(refusal)
        };
        let ask = WorkerRequest::parse(form, &parts.headers, &bytes, self.options.default_max_tokens);
        let name = self.name(&parts);
        let blocks = if self.options.prefix_cache { prompt_blocks(form, &bytes) } else { [].into() };
        self.debug.record(parts, bytes);
        let mut ask = match ask {
            Ok(ask) => ask,
            Err(message) => return refuse(ticket, error_of(form, StatusCode::BAD_REQUEST, &message)),
        };
        let faults = ask.faults.take().or_else(|| self.debug.take_faults()).unwrap_or_default();
        match before_the_work(&faults).await {
            Ok(None) => {}
            Ok(Some(status)) => return refuse(ticket, error_of(form, status, "a simulated fault")),
            Err(broken) => {
                ticket.set(EndedAs::Cut);
                return Err(broken);
            }
        }
        let work = match self.driver.submit(&ask.wishes, &blocks) {
            Ok(work) => work,
            Err(too_long) => {
                return refuse(ticket, error_of(form, StatusCode::BAD_REQUEST, &too_long.to_string()));
            }
        };
        self.driver.count_prompt(ask.prompt_tokens);
        let answer = AnswerPlan::new(&ask, &name, &self.options.model, self.created, &work.cut);
        Ok(if ask.stream {
            stream(work, answer, &faults, ticket)
        } else {
            whole(work, answer, &faults, ticket).await
        })
    }

    /// Returns the name for the answer's id: the client's request id if that is harmless.
    fn name(&self, parts: &Parts) -> String {
        let harmless = |id: &&str| {
            id.len() <= MAX_ID
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let id = parts.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(harmless);
        id.map_or_else(|| format!("{:08x}", self.answers.fetch_add(1, Ordering::Relaxed)), str::to_owned)
    }
}

/// Carries out the faults that come before the work. Returns the status of an error that is sent
/// instead of an answer.
async fn before_the_work(faults: &RequestFaults) -> Result<Option<StatusCode>, BrokenOff> {
    match faults.instead {
        Some(Instead::Die) => return Err(BrokenOff),
        Some(Instead::Hang) => std::future::pending().await,
        Some(Instead::Status(status)) => return Ok(Some(status)),
        None => {}
    }
    if !faults.delay.is_zero() {
        tokio::time::sleep(faults.delay).await;
    }
    Ok(None)
}

fn stream(
    work: SequenceWork,
    answer: AnswerPlan,
    faults: &RequestFaults,
    ticket: InFlightTicket,
) -> Response<WorkerBody> {
    let stream = StreamBody::follow(work, answer, faults, ticket);
    let mut response =
        plain_body(StatusCode::OK, "text/event-stream; charset=utf-8", WorkerBody::Stream(Box::new(stream)));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if faults.trailers {
        response.headers_mut().insert(TRAILER_NAMES, TRAILER.into());
    }
    response
}

/// Returns a whole answer. An error event becomes a 500; other midway faults follow half of it.
async fn whole(
    work: SequenceWork,
    mut answer: AnswerPlan,
    faults: &RequestFaults,
    mut ticket: InFlightTicket,
) -> Response<WorkerBody> {
    let mut counts = SequenceCounts::new();
    while !std::future::poll_fn(|cx| work.mailbox.poll_news(cx, &mut counts)).await {}
    answer.cached = work.mailbox.cached();
    let mut out = BytesMut::new();
    answer.whole(&counts, &mut out);
    match faults.midway {
        None => {
            ticket.set(EndedAs::Finished);
            json(out.freeze())
        }
        Some(Midway::ErrorEvent(_)) => {
            ticket.set(EndedAs::Refused);
            error_of(answer.form, StatusCode::INTERNAL_SERVER_ERROR, "a simulated fault")
        }
        Some(midway) => {
            let length = HeaderValue::from(out.len());
            let body = WorkerBody::Stream(Box::new(StreamBody::half(out, midway, ticket)));
            let mut response = plain_body(StatusCode::OK, "application/json", body);
            response.headers_mut().insert(CONTENT_LENGTH, length);
            response
        }
    }
}

/// Runs `carry_out` on a body. Answers `{}`, or 400 with the error.
async fn order(body: Incoming, carry_out: impl FnOnce(&[u8]) -> Result<(), String>) -> Response<WorkerBody> {
    match read(body).await.map(|bytes| carry_out(&bytes)) {
        Ok(Ok(())) => json("{}"),
        Ok(Err(message)) => error(StatusCode::BAD_REQUEST, &message),
        Err(refusal) => refusal,
    }
}

async fn read(body: Incoming) -> Result<Bytes, Response<WorkerBody>> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(read) => Ok(read.to_bytes()),
        Err(cause) if cause.is::<LengthLimitError>() => {
            Err(error(StatusCode::PAYLOAD_TOO_LARGE, "the body exceeds 8 MiB"))
        }
        Err(cause) => Err(error(StatusCode::BAD_REQUEST, &format!("the body ended early: {cause}"))),
    }
}

fn json(body: impl Into<Bytes>) -> Response<WorkerBody> {
    plain(StatusCode::OK, "application/json", body)
}

fn plain(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<WorkerBody> {
    plain_body(status, content_type, WorkerBody::whole(body))
}

fn plain_body(status: StatusCode, content_type: &'static str, body: WorkerBody) -> Response<WorkerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Returns an error in the format of the endpoint's API.
fn error_of(form: SimEndpoint, status: StatusCode, message: &str) -> Response<WorkerBody> {
    if form != SimEndpoint::Messages {
        return error(status, message);
    }
    let kind = if status.is_server_error() { "api_error" } else { "invalid_request_error" };
    let body = serde_json::json!({ "type": "error", "error": { "type": kind, "message": message } });
    plain(status, "application/json", body.to_string())
}

/// Returns an error in OpenAI's format.
fn error(status: StatusCode, message: &str) -> Response<WorkerBody> {
    let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
    let code = status.as_u16();
    let body = serde_json::json!({
        "error": { "message": message, "type": kind, "param": null, "code": code }
    });
    plain(status, "application/json", body.to_string())
}
