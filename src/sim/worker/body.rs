//! Response bodies: an answer in one piece, or a stream that follows the engine and fails where it was told to.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};

use super::answer::AnswerPlan;
use super::fault::{Midway, RequestFaults};
use super::mailbox::SequenceCounts;
use super::station::SequenceWork;
use super::tally::{EndedAs, InFlightTicket};

/// The trailer that the fault `trailers` sends.
pub(super) const TRAILER: HeaderName = HeaderName::from_static("x-sim-trailer");

/// The worker breaks off: the connection closes without a proper end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a simulated fault cut the connection")]
pub(super) struct Cut;

/// The body of every response.
pub(super) enum WorkerBody {
    /// All of it.
    Whole(Option<Bytes>),
    /// As it is generated.
    Stream(Box<StreamBody>),
}

impl WorkerBody {
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }
}

/// A body that is being written.
pub(super) struct StreamBody {
    /// None in a body that has all it will ever say in `out`.
    source: Option<BodySource>,
    out: BytesMut,
    chunk: Option<usize>,
    trailers: bool,
    ticket: InFlightTicket,
    phase: BodyPhase,
}

/// Where a stream's tokens come from.
struct BodySource {
    work: SequenceWork,
    answer: AnswerPlan,
    midway: Option<Midway>,
    /// What the engine has yielded.
    counts: SequenceCounts,
    /// What is written of it.
    written: SequenceCounts,
    total: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyPhase {
    /// More may come.
    Open,
    /// All is in `out`; then a proper end.
    Ending,
    /// The end was said.
    Over,
    /// All is in `out`; then the connection breaks, once what was written is on its way.
    Breaking,
    /// Nothing more is written.
    Broken,
    /// All is in `out`; then silence.
    Silent,
}

impl StreamBody {
    /// A stream that follows `work`.
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

    /// An answer of which only the first half comes, and then the break or the silence of `midway`.
    pub(super) fn half(mut whole: BytesMut, midway: Midway, ticket: InFlightTicket) -> Self {
        whole.truncate(whole.len() / 2);
        let phase = if matches!(midway, Midway::Stall(_)) { BodyPhase::Silent } else { BodyPhase::Breaking };
        Self { source: None, out: whole, chunk: None, trailers: false, ticket, phase }
    }

    /// Lets the fault happen when its time has come.
    fn strike(&mut self) {
        let Some(source) = self.source.as_mut().filter(|_| self.phase == BodyPhase::Open) else { return };
        match source.midway {
            Some(Midway::Break(after)) if source.total >= after => self.phase = BodyPhase::Breaking,
            Some(Midway::Stall(after)) if source.total >= after => self.phase = BodyPhase::Silent,
            Some(Midway::ErrorEvent(after)) if source.total >= after => {
                AnswerPlan::error_event(&mut self.out);
                self.phase = BodyPhase::Ending;
            }
            _ => {}
        }
    }

    /// Writes what the engine has yielded since the last time.
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
            source.answer.end(&source.counts, &mut self.out);
            self.phase = BodyPhase::Ending;
        }
        Poll::Ready(())
    }

    /// A piece that may go out now.
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
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
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
                    // Once more around the executor, so that the server flushes before it learns of the break.
                    stream.phase = BodyPhase::Broken;
                    stream.ticket.set(EndedAs::Cut);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                BodyPhase::Broken => return Poll::Ready(Some(Err(Cut))),
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
