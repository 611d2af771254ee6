//! Response bodies: an answer in one piece, or a stream that follows the engine and its faults.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};

use super::driver::SequenceWork;
use super::fault::{Midway, RequestFaults};
use super::mailbox::SequenceCounts;
use super::plan::AnswerPlan;
use super::tally::{EndedAs, InFlightTicket};

/// Trailer sent by the fault `trailers`.
pub(super) const TRAILER: HeaderName = HeaderName::from_static("x-sim-trailer");

/// A fault closed the connection before the end of the answer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a simulated fault cut the connection")]
pub(super) struct BrokenOff;

pub(super) enum WorkerBody {
    Whole(Option<Bytes>),
    /// A body written while it is generated.
    Stream(Box<StreamBody>),
}

impl WorkerBody {
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }
}

pub(super) struct StreamBody {
    /// `None` if `out` already has the whole rest of the body.
    source: Option<BodySource>,
    out: BytesMut,
    chunk: Option<usize>,
    trailers: bool,
    ticket: InFlightTicket,
    phase: BodyPhase,
}

/// Source of a stream's tokens.
struct BodySource {
    work: SequenceWork,
    answer: AnswerPlan,
    midway: Option<Midway>,
    /// Tokens yielded by the engine.
    counts: SequenceCounts,
    written: SequenceCounts,
    total: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyPhase {
    Open,
    /// All is in `out`; a proper end follows.
    Ending,
    Over,
    /// All is in `out`; the connection breaks after it is sent.
    Breaking,
    /// The connection breaks now.
    Broken,
    /// All is in `out`; silence follows.
    Silent,
}

impl StreamBody {
    pub(super) fn follow(
        work: SequenceWork,
        mut answer: AnswerPlan,
        faults: &RequestFaults,
        ticket: InFlightTicket,
    ) -> Self {
        let mut out = BytesMut::new();
        let mut phase = BodyPhase::Open;
        match faults.midway {
            Some(Midway::DieAfterHeaders) => phase = BodyPhase::Breaking,
            _ => answer.begin(&mut out),
        }
        let written = smallvec::smallvec![0; work.cut.len()];
        let counts = SequenceCounts::clone(&written);
        let source = BodySource { work, answer, midway: faults.midway, counts, written, total: 0 };
        let mut stream =
            Self { source: Some(source), out, chunk: faults.chunk, trailers: faults.trailers, ticket, phase };
        stream.strike();
        stream
    }

    /// Creates a body of the first half of an answer, followed by the break or silence of `midway`.
    pub(super) fn half(mut whole: BytesMut, midway: Midway, ticket: InFlightTicket) -> Self {
        whole.truncate(whole.len() / 2);
        let phase = if matches!(midway, Midway::Stall(_)) { BodyPhase::Silent } else { BodyPhase::Breaking };
        Self { source: None, out: whole, chunk: None, trailers: false, ticket, phase }
    }

    /// Applies the fault if enough tokens are written.
    fn strike(&mut self) {
        let Some(source) = self.source.as_mut().filter(|_| self.phase == BodyPhase::Open) else { return };
        match source.midway {
            Some(Midway::Break(after)) if source.total >= after => self.phase = BodyPhase::Breaking,
            Some(Midway::Stall(after)) if source.total >= after => self.phase = BodyPhase::Silent,
            Some(Midway::ErrorEvent(after)) if source.total >= after => {
                source.answer.error_event(&mut self.out);
                self.phase = BodyPhase::Ending;
            }
            _ => {}
        }
    }

    /// Writes the tokens that the engine has yielded since the last call.
    fn fill(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(source) = &mut self.source else {
            self.phase = BodyPhase::Ending;
            return Poll::Ready(());
        };
        let complete = std::task::ready!(source.work.mailbox.poll_news(cx, &mut source.counts));
        for choice in 0..source.counts.len() {
            while let Some(source) = self.source.as_mut().filter(|_| self.phase == BodyPhase::Open)
                && source.written[choice] < source.counts[choice]
            {
                source.answer.token(choice, source.written[choice], &mut self.out);
                source.written[choice] += 1;
                source.total += 1;
                self.strike();
            }
        }
        if let Some(source) = self.source.as_mut().filter(|_| complete && self.phase == BodyPhase::Open) {
            source.answer.cached = source.work.mailbox.cached();
            source.answer.end(&source.counts, &mut self.out);
            self.phase = BodyPhase::Ending;
        }
        Poll::Ready(())
    }

    /// Takes a piece that may be sent now.
    fn piece(&mut self) -> Option<Bytes> {
        let ready = match self.chunk {
            Some(size) if self.out.len() >= size => size,
            Some(_) if self.phase == BodyPhase::Open => 0,
            _ => self.out.len(),
        };
        (ready > 0).then(|| self.out.split_to(ready).freeze())
    }
}

impl Body for WorkerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let stream = match self.get_mut() {
            Self::Whole(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => stream,
        };
        loop {
            if let Some(bytes) = stream.piece() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            match stream.phase {
                BodyPhase::Open => std::task::ready!(stream.fill(cx)),
                BodyPhase::Ending => {
                    stream.phase = BodyPhase::Over;
                    stream.ticket.set(EndedAs::Finished);
                    if stream.trailers {
                        let done = HeaderMap::from_iter([(TRAILER, HeaderValue::from_static("done"))]);
                        return Poll::Ready(Some(Ok(Frame::trailers(done))));
                    }
                }
                BodyPhase::Over => return Poll::Ready(None),
                BodyPhase::Breaking => {
                    // One more executor turn lets the server flush before it sees the break.
                    stream.phase = BodyPhase::Broken;
                    stream.ticket.set(EndedAs::Cut);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                BodyPhase::Broken => return Poll::Ready(Some(Err(BrokenOff))),
                BodyPhase::Silent => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
