//! Starting a response before there is content.
//!
//! Proxies before the gateway close a connection that is silent for a while, and prefill of a long
//! prompt may take longer. So after `timeouts.hold` the head of a stream is sent, and then the
//! worker's comments and pings. Its first content is still held back, so that another worker can
//! take over before it without the client's notice. From then on an error is sent as an event,
//! because the status has been sent.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Response, response};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use super::body::{BodyError, OpenBody};
use super::closing::{self, CutOffListener};
use super::observer::AnswerObserver;
use super::source::HeldFrames;
use crate::clock::Nanos;
use crate::openai::error::{self, StreamFormat};
use crate::openai::tap::{Pings, Split};
use crate::refusal::{Reason, Refusal};
use crate::request::RequestRecord;

/// Data for the client before the first content, from the attempt loop to the response body.
#[derive(Debug, Default)]
pub(crate) struct EarlyLane(Mutex<EarlyData>);

#[derive(Debug, Default)]
struct EarlyData {
    begun: bool,
    head: Option<response::Parts>,
    keep_alive: Vec<u8>,
    stream_format: StreamFormat,
}

impl EarlyLane {
    /// Takes the head, if the response was started since the last call.
    pub(crate) fn head(&self) -> Option<response::Parts> {
        self.0.lock().head.take()
    }

    fn take_keep_alive(&self) -> Option<Bytes> {
        let mut data = self.0.lock();
        (!data.keep_alive.is_empty()).then(|| std::mem::take(&mut data.keep_alive).into())
    }
}

/// Parameters for starting a response before its content.
pub(crate) struct EarlyAnswer<'a> {
    /// Earliest time to start it.
    pub(crate) at: Nanos,
    pub(crate) lane: &'a EarlyLane,
    /// Head of the worker's response, unchanged.
    pub(crate) head: &'a response::Parts,
    pub(crate) id: &'a HeaderValue,
}

impl EarlyAnswer<'_> {
    pub(crate) fn has_begun(&self) -> bool {
        self.lane.0.lock().begun
    }

    /// Starts the response: prepares its head for the client and hands it over.
    pub(crate) fn begin(&self, observer: &AnswerObserver) {
        let (mut head, ()) = Response::new(()).into_parts();
        head.status = self.head.status;
        head.headers = self.head.headers.clone();
        observer.prepare_head(&mut head.headers, self.id);
        let mut data = self.lane.0.lock();
        (data.begun, data.head) = (true, Some(head));
        data.stream_format = observer.stream_format();
    }

    /// Passes keep-alive bytes to the client; `stream_format` is the stream's error format.
    pub(crate) fn hand_on(&self, keep_alive: Vec<u8>, stream_format: StreamFormat) {
        let mut data = self.lane.0.lock();
        data.stream_format = stream_format;
        if data.keep_alive.is_empty() {
            data.keep_alive = keep_alive;
        } else {
            data.keep_alive.extend_from_slice(&keep_alive);
        }
    }
}

/// Holds back a stream's content and lets comments and pings pass.
#[derive(Debug, Default)]
pub(crate) struct KeepAliveFilter {
    pings: Pings,
    kept: HeldFrames,
}

impl KeepAliveFilter {
    /// Keeps the content of these frames and returns their comments and pings.
    pub(crate) fn split(&mut self, mut frames: HeldFrames) -> Vec<u8> {
        let mut all_keep_alive = Vec::new();
        while let Some(frame) = frames.pop() {
            match frame.into_data() {
                Ok(data) => {
                    let Split { keep_alive, rest } = self.pings.split(&data);
                    all_keep_alive.extend_from_slice(&keep_alive);
                    if !rest.is_empty() {
                        self.kept.push(Frame::data(rest.into()));
                    }
                }
                Err(frame) => self.kept.push(frame),
            }
        }
        all_keep_alive
    }

    /// Memory held, in bytes.
    pub(crate) const fn cost(&self) -> usize {
        self.kept.cost() + self.pings.kept()
    }

    /// Returns the frames held back, followed by `frames`.
    pub(crate) fn with(self, mut frames: HeldFrames) -> HeldFrames {
        let Self { pings, mut kept } = self;
        let open = pings.finish();
        if !open.is_empty() {
            kept.push(Frame::data(open.into()));
        }
        while let Some(frame) = frames.pop() {
            kept.push(frame);
        }
        kept
    }
}

/// Attempt loop that continues after the response head was sent.
pub(crate) type BackgroundForward =
    Pin<Box<dyn Future<Output = Result<Response<Box<OpenBody>>, Refusal>> + Send>>;

/// Body of a worker's response, as a client gets it.
pub struct UpstreamBody {
    state: UpstreamBodyState,
    /// `true` if the gateway itself reads it: errors are then errors, not events for a client.
    for_gateway: bool,
}

enum UpstreamBodyState {
    Open(Box<OpenBody>),
    /// Started before its content.
    Begun {
        run: BackgroundForward,
        lane: Arc<EarlyLane>,
        record: Arc<RequestRecord>,
        /// Fires when the gateway is about to cut off all requests.
        cut_off: CutOffListener,
    },
    /// Failed before its content: the last item is an event for a client, or else an error.
    Failed(Option<Result<Bytes, BodyError>>),
}

impl From<Box<OpenBody>> for UpstreamBody {
    fn from(open: Box<OpenBody>) -> Self {
        Self { state: UpstreamBodyState::Open(open), for_gateway: false }
    }
}

impl UpstreamBody {
    /// Creates the body of a response that was started before its content.
    pub(crate) fn begun(
        run: BackgroundForward,
        lane: Arc<EarlyLane>,
        record: Arc<RequestRecord>,
        cut_off: CutOffListener,
    ) -> Self {
        Self { state: UpstreamBodyState::Begun { run, lane, record, cut_off }, for_gateway: false }
    }

    /// Reports a broken stream as a body error instead of an event, for a reader that is not a client.
    #[must_use]
    pub fn for_gateway(mut self) -> Self {
        self.for_gateway = true;
        if let UpstreamBodyState::Open(open) = &mut self.state {
            open.for_gateway();
        }
        self
    }

    /// Fails a response that was started and has no content yet.
    fn fail(&mut self, refusal: Refusal) {
        let mut event = None;
        if let UpstreamBodyState::Begun { record, lane, .. } = &self.state {
            event = Some(Ok(error::event(&refusal, lane.0.lock().stream_format, &record.id)));
            record.set_reason(refusal.reason);
            record.set_cause(&refusal);
            record.set_ending(refusal.reason.into());
        }
        self.state =
            UpstreamBodyState::Failed(if self.for_gateway { Some(Err(refusal.into())) } else { event });
    }
}

/// Returns the body if it can follow the head already sent: only another event stream can.
fn require_event_stream(answer: Response<Box<OpenBody>>) -> Result<Box<OpenBody>, Refusal> {
    let status = answer.status();
    let body = answer.into_body();
    if body.observer().is_counted() {
        return Ok(body);
    }
    let message = format!(
        "Worker {} answered with status {}, not with an event stream.",
        body.worker(),
        status.as_u16()
    );
    Err(Refusal::new(Reason::UpstreamBroke, message))
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                UpstreamBodyState::Open(open) => return Pin::new(open).poll_frame(cx),
                UpstreamBodyState::Failed(why) => {
                    return Poll::Ready(why.take().map(|why| why.map(Frame::data)));
                }
                UpstreamBodyState::Begun { run, lane, cut_off, .. } => {
                    let done = match lane.take_keep_alive() {
                        Some(keep_alive) => return Poll::Ready(Some(Ok(Frame::data(keep_alive)))),
                        None => run.as_mut().poll(cx),
                    };
                    let keep_alive = lane.take_keep_alive();
                    match done.map(|done| done.and_then(require_event_stream)) {
                        Poll::Pending if !this.for_gateway && cut_off.has_begun(cx) => {
                            this.fail(closing::refusal());
                        }
                        Poll::Pending if keep_alive.is_none() => return Poll::Pending,
                        Poll::Pending => {}
                        Poll::Ready(Ok(mut open)) => {
                            if this.for_gateway {
                                open.for_gateway();
                            }
                            this.state = UpstreamBodyState::Open(open);
                        }
                        Poll::Ready(Err(refusal)) => this.fail(refusal),
                    }
                    if let Some(keep_alive) = keep_alive {
                        return Poll::Ready(Some(Ok(Frame::data(keep_alive))));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            UpstreamBodyState::Open(open) => open.is_end_stream(),
            UpstreamBodyState::Begun { .. } => false,
            UpstreamBodyState::Failed(why) => why.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            UpstreamBodyState::Open(open) => open.size_hint(),
            UpstreamBodyState::Begun { .. } | UpstreamBodyState::Failed(_) => SizeHint::default(),
        }
    }
}

impl fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            UpstreamBodyState::Open(open) => open.fmt(f),
            UpstreamBodyState::Begun { lane, .. } => {
                f.debug_struct("UpstreamBody").field("lane", lane).finish_non_exhaustive()
            }
            UpstreamBodyState::Failed(_) => f.debug_struct("UpstreamBody").finish_non_exhaustive(),
        }
    }
}
