//! Response bodies: an answer in one piece, or a stream that follows the engine and fails where it was told to.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};

use super::answer::Answer;
use super::fault::{Faults, Midway};
use super::mailbox::Counts;
use super::station::Work;
use super::tally::{Outcome, Ticket};

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
    Stream(Box<Stream>),
}

impl WorkerBody {
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }
}

/// A body that is being written.
pub(super) struct Stream {
    /// None in a body that has all it will ever say in `out`.
    source: Option<Source>,
    out: BytesMut,
    chunk: Option<usize>,
    trailers: bool,
    ticket: Ticket,
    phase: Phase,
}

/// Where a stream's tokens come from.
struct Source {
    work: Work,
    answer: Answer,
    midway: Option<Midway>,
    /// What the engine has yielded.
    counts: Counts,
    /// What is written of it.
    written: Counts,
    total: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
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

impl Stream {
    /// A stream that follows `work`.
    pub(super) fn follow(work: Work, mut answer: Answer, faults: &Faults, ticket: Ticket) -> Self {
        let mut out = BytesMut::new();
        let mut phase = Phase::Open;
        match faults.midway {
            Some(Midway::DieAfterHeaders) => phase = Phase::Breaking,
            _ => answer.begin(&mut out),
        }
        let written = smallvec::smallvec![0; work.cut.len()];
        let counts = Counts::clone(&written);
        let source = Source { work, answer, midway: faults.midway, counts, written, total: 0 };
        let mut stream =
            Self { source: Some(source), out, chunk: faults.chunk, trailers: faults.trailers, ticket, phase };
        stream.strike();
        stream
    }

    /// An answer of which only the first half comes, and then the break or the silence of `midway`.
    pub(super) fn half(mut whole: BytesMut, midway: Midway, ticket: Ticket) -> Self {
        whole.truncate(whole.len() / 2);
        let phase = if matches!(midway, Midway::Stall(_)) { Phase::Silent } else { Phase::Breaking };
        Self { source: None, out: whole, chunk: None, trailers: false, ticket, phase }
    }

    /// Lets the fault happen when its time has come.
    fn strike(&mut self) {
        let Some(source) = self.source.as_mut().filter(|_| self.phase == Phase::Open) else { return };
        match source.midway {
            Some(Midway::Break(after)) if source.total >= after => self.phase = Phase::Breaking,
            Some(Midway::Stall(after)) if source.total >= after => self.phase = Phase::Silent,
            Some(Midway::ErrorEvent(after)) if source.total >= after => {
                Answer::error_event(&mut self.out);
                self.phase = Phase::Ending;
            }
            _ => {}
        }
    }

    /// Writes what the engine has yielded since the last time.
    fn fill(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(source) = &mut self.source else {
            self.phase = Phase::Ending;
            return Poll::Ready(());
        };
        let complete = std::task::ready!(source.work.mailbox.poll_news(cx, &mut source.counts));
        for choice in 0..source.counts.len() {
            while let Some(source) = self.source.as_mut().filter(|_| self.phase == Phase::Open)
                && source.written[choice] < source.counts[choice]
            {
                source.answer.token(choice, source.written[choice], &mut self.out);
                source.written[choice] += 1;
                source.total += 1;
                self.strike();
            }
        }
        if let Some(source) = self.source.as_mut().filter(|_| complete && self.phase == Phase::Open) {
            source.answer.end(&source.counts, &mut self.out);
            self.phase = Phase::Ending;
        }
        Poll::Ready(())
    }

    /// A piece that may go out now.
    fn piece(&mut self) -> Option<Bytes> {
        let ready = match self.chunk {
            Some(size) if self.out.len() >= size => size,
            Some(_) if self.phase == Phase::Open => 0,
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
                Phase::Open => std::task::ready!(stream.fill(cx)),
                Phase::Ending => {
                    stream.phase = Phase::Over;
                    stream.ticket.set(Outcome::Finished);
                    if stream.trailers {
                        let done = HeaderMap::from_iter([(TRAILER, HeaderValue::from_static("done"))]);
                        return Poll::Ready(Some(Ok(Frame::trailers(done))));
                    }
                }
                Phase::Over => return Poll::Ready(None),
                Phase::Breaking => {
                    // Once more around the executor, so that the server flushes before it learns of the break.
                    stream.phase = Phase::Broken;
                    stream.ticket.set(Outcome::Cut);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Phase::Broken => return Poll::Ready(Some(Err(Cut))),
                Phase::Silent => return Poll::Pending,
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
