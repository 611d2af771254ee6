//! Sits between a connection and the application: adds the peer, checks framing, counts requests.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::sync::Notify;
use tower::Service;

use super::Peer;
use super::drain::{Drain, DrainPhase};
use super::framing::{self, Finding};
use super::write_timeout::{StreamProgress, current_turn};
use crate::openai::anthropic::REQUEST_ID;
use crate::openai::dialect::Dialect;
use crate::refusal::{Reason, Refusal};

/// An HTTP/2 connection ends after this many resets before an answer, if also more than half of all
/// its streams: clients give up now and then, a reset flood does nothing else.
const RESETS_BEFORE_JUDGED: usize = 200;

/// [`Finding`] as one byte.
const NOTHING_FOUND: u8 = 0;
const BOTH_LENGTHS: u8 = 1;
const LOST: u8 = 2;

#[derive(Debug)]
pub(super) struct ConnectionState {
    pub(super) peer: Peer,
    in_flight: AtomicUsize,
    begun: AtomicUsize,
    taken_back: AtomicUsize,
    framing: AtomicU8,
    upgraded: AtomicBool,
    leaving: AtomicBool,
    leave: Notify,
}

impl ConnectionState {
    pub(super) fn new(peer: Peer) -> Self {
        Self {
            peer,
            in_flight: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            taken_back: AtomicUsize::new(0),
            framing: AtomicU8::new(NOTHING_FOUND),
            upgraded: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            leave: Notify::new(),
        }
    }

    pub(super) fn note_framing(&self, found: Finding) {
        let code = match found {
            Finding::None => NOTHING_FOUND,
            Finding::BothLengths => BOTH_LENGTHS,
            Finding::Untracked => LOST,
        };
        self.framing.store(code, Ordering::Relaxed);
    }

    fn framing(&self) -> Finding {
        match self.framing.load(Ordering::Relaxed) {
            BOTH_LENGTHS => Finding::BothLengths,
            LOST => Finding::Untracked,
            _ => Finding::None,
        }
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    pub(super) fn begun(&self) -> usize {
        self.begun.load(Ordering::Acquire)
    }

    /// Waits until the connection should take no further requests.
    pub(super) async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    fn ask_to_leave(&self) {
        if !self.leaving.swap(true, Ordering::AcqRel) {
            self.leave.notify_one();
        }
    }

    fn enter(self: &Arc<Self>) -> RunningRequest {
        self.begun.fetch_add(1, Ordering::AcqRel);
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        RunningRequest { link: Arc::clone(self), answered: false }
    }
}

/// One request in flight on a connection, until the end of its body.
#[derive(Debug)]
struct RunningRequest {
    link: Arc<ConnectionState>,
    answered: bool,
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        let link = &self.link;
        link.in_flight.fetch_sub(1, Ordering::AcqRel);
        if !self.answered {
            let taken_back = link.taken_back.fetch_add(1, Ordering::AcqRel) + 1;
            if taken_back >= RESETS_BEFORE_JUDGED && taken_back * 2 > link.begun() {
                link.ask_to_leave();
            }
        }
    }
}

/// The application as a hyper service.
#[derive(Debug)]
pub(super) struct ConnectionService<S> {
    pub(super) app: S,
    pub(super) link: Arc<ConnectionState>,
    pub(super) drain: Drain,
    /// Maximum bytes of a request head.
    pub(super) longest_head: usize,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for ConnectionService<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
{
    type Response = Response<ConnectionBody<B>>;
    type Error = Infallible;
    type Future = AnswerFuture<S>;

    fn call(&self, request: Request<Incoming>) -> AnswerFuture<S> {
        let version = request.version();
        let phase = self.drain.phase();
        if phase >= DrainPhase::Refusing {
            self.link.ask_to_leave();
        }
        let last = phase != DrainPhase::Running && version < Version::HTTP_2;
        let permit = Some(self.link.enter());
        let (mut parts, body) = request.into_parts();
        let fault = framing::fault(&parts, self.link.framing());
        let dialect = || Dialect::at(parts.uri.path());
        let state = match fault {
            Some(fault) => {
                AnswerState::Malformed { status: StatusCode::BAD_REQUEST, fault, dialect: dialect() }
            }
            // Hyper limits only incomplete heads: a long head that arrives at once passes it.
            None if framing::head_length(&parts) > self.longest_head => AnswerState::Malformed {
                status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                fault: framing::LONG_HEAD,
                dialect: dialect(),
            },
            None => {
                parts.extensions.insert(self.link.peer);
                // Called here, not at the first poll: hyper may drop the future before that if the
                // client left, and the application should see every request.
                AnswerState::Asked { answer: self.app.clone().call(Request::from_parts(parts, body)) }
            }
        };
        AnswerFuture { state, permit, last }
    }
}

pin_project! {
    /// The application's answer, or the listener's own to a malformed request.
    pub(super) struct AnswerFuture<S>
    where
        S: Service<Request<Incoming>>,
    {
        #[pin]
        state: AnswerState<S>,
        permit: Option<RunningRequest>,
        last: bool,
    }
}

pin_project! {
    #[project = StateProj]
    enum AnswerState<S>
    where
        S: Service<Request<Incoming>>,
    {
        Malformed { status: StatusCode, fault: &'static str, dialect: Dialect },
        Asked { #[pin] answer: S::Future },
    }
}

impl<S, B> Future for AnswerFuture<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
{
    type Output = Result<Response<ConnectionBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match this.state.project() {
            StateProj::Malformed { status, fault, dialect } => {
                let OwnError { body, id } = OwnError::new(*dialect, Reason::BadRequest, fault);
                let mut response = Response::new(ConnectionBody::Own { text: Some(body) });
                *response.status_mut() = *status;
                let headers = response.headers_mut();
                if let Some(id) = id.and_then(|id| HeaderValue::from_str(&id).ok()) {
                    headers.insert("x-request-id", id.clone());
                    headers.insert(REQUEST_ID, id);
                }
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                headers.insert("x-traffic-dam-reason", HeaderValue::from_static(Reason::BadRequest.as_str()));
                // The start of the next request on this connection is unreliable now.
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
                response
            }
            StateProj::Asked { answer } => {
                let response = match ready!(answer.poll(cx)) {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                let permit = this.permit.take();
                if let Some(permit) = &permit
                    && response.status() == StatusCode::SWITCHING_PROTOCOLS
                {
                    permit.link.upgraded.store(true, Ordering::Relaxed);
                }
                let permit =
                    permit.map(|permit| InFlightBody { _permit: answered(permit), turn: current_turn() });
                response.map(|body| ConnectionBody::App { body, permit })
            }
        };
        // Marked as answered, so that our own answer does not count as a reset.
        drop(this.permit.take().map(answered));
        if *this.last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response))
    }
}

fn answered(mut permit: RunningRequest) -> RunningRequest {
    permit.answered = true;
    permit
}

#[derive(Debug)]
pub(super) struct InFlightBody {
    _permit: RunningRequest,
    turn: Option<Arc<StreamProgress>>,
}

pin_project! {
    #[project = OutgoingProj]
    pub(super) enum ConnectionBody<B> {
        /// From the application; counted until it is dropped.
        App { #[pin] body: B, permit: Option<InFlightBody> },
        Own { text: Option<Bytes> },
    }
}

impl<B: Body<Data = Bytes>> Body for ConnectionBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project() {
            OutgoingProj::Own { text } => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            OutgoingProj::App { body, permit } => {
                let frame = body.poll_frame(cx);
                if let Some(InFlightBody { turn: Some(turn), .. }) = permit {
                    if frame.is_pending() { turn.idle() } else { turn.handed() }
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::App { body, .. } => body.is_end_stream(),
            Self::Own { text } => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::App { body, .. } => body.size_hint(),
            Self::Own { text } => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
        }
    }
}

/// An error that the listener itself answers with: no layer sees a malformed request.
pub(super) struct OwnError {
    /// JSON, in the words of the dialect.
    pub(super) body: Bytes,
    /// The id in it, which clients of this dialect also read in [`REQUEST_ID`] and in `x-request-id`.
    pub(super) id: Option<String>,
}

impl OwnError {
    pub(super) fn new(dialect: Dialect, reason: Reason, message: &'static str) -> Self {
        let id = (dialect == Dialect::Anthropic).then(|| format!("{:032x}", fastrand::u128(..)));
        let body = dialect.body(&Refusal::new(reason, message), id.as_deref().unwrap_or_default());
        Self { body, id }
    }
}
