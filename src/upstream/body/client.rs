//! The body that a client reads: that of a committed response, or of one that was started before
//! there is content.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};

use super::early::EarlyLane;
use super::open::{BodyError, OpenBody};
use crate::openai::error;
use crate::refusal::{Reason, Refusal};
use crate::request::RequestRecord;
use crate::upstream::closing::{self, CutOffListener};

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
            event = Some(Ok(error::event(&refusal, lane.stream_format(), &record.id)));
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
