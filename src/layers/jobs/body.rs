//! Response bodies of the jobs layer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::keep::AnswerKeeper;
use super::marks::{EventId, EventIds};
use crate::openai::error;
use crate::redis::jobs::{self, AnswerPiece, JobQueue, LivenessProbe, PieceKind, Reader, read_head};
use crate::redis::link::BACK;
use crate::refusal::{Reason, Refusal, with_jitter};
use crate::request::{Ending, RequestRecord};

pin_project! {
    /// The inner service's body, a text by the gateway, or a job's answer.
    #[derive(Debug)]
    pub(crate) struct JobBody<B> {
        #[pin]
        inner: Option<B>,
        text: Option<Bytes>,
        // Boxed to keep the body small: most bodies are the inner service's, and are moved often.
        answer: Option<Box<ReplayedAnswer>>,
        // After `inner`, so dropped after it: it reads the ending that the inner body records.
        keeper: Option<Box<AnswerKeeper>>,
    }
}

impl<B> JobBody<B> {
    pub(super) const fn inner(inner: B) -> Self {
        Self { inner: Some(inner), text: None, answer: None, keeper: None }
    }

    /// Creates the inner service's body, of which a copy is kept.
    pub(super) fn kept(inner: B, keeper: AnswerKeeper) -> Self {
        Self { keeper: Some(Box::new(keeper)), ..Self::inner(inner) }
    }

    pub(super) const fn text(text: Bytes) -> Self {
        Self { inner: None, text: Some(text), answer: None, keeper: None }
    }

    pub(super) fn answer(answer: ReplayedAnswer) -> Self {
        Self { inner: None, text: None, answer: Some(Box::new(answer)), keeper: None }
    }
}

/// A job's answer, read from Redis.
#[derive(Debug)]
pub(super) struct ReplayedAnswer {
    reader: Reader,
    liveness_probe: LivenessProbe,
    /// Adds event ids; `Some` for streams, which a client may resume.
    marks: Option<EventIds>,
    /// The event after which to resume.
    from: Option<EventId>,
    /// The run whose bytes were sent to the client.
    epoch: Option<u64>,
    /// `true` if the worker's answer is no stream, though the client asked for one.
    not_a_stream: bool,
    /// An entry that was read in advance.
    next: Option<AnswerPiece>,
    over: bool,
    record: Option<Arc<RequestRecord>>,
}

impl ReplayedAnswer {
    /// Sets the request record that gets the ending.
    pub(super) fn with_record(mut self, record: Option<Arc<RequestRecord>>) -> Self {
        self.record = record;
        self
    }

    fn end(&mut self, ending: Ending) {
        self.over = true;
        if let Some(record) = self.record.take() {
            record.set_ending(ending);
        }
    }

    /// Creates the body as a stream of events with ids, after the event end `from`.
    pub(super) fn events(reader: Reader, from: Option<EventId>, jobs: &JobQueue) -> Self {
        let epoch = from.map(|mark| mark.place.epoch);
        let marks = Some(EventIds::default());
        let liveness_probe = LivenessProbe::new(jobs);
        Self {
            reader,
            liveness_probe,
            marks,
            from,
            epoch,
            not_a_stream: false,
            next: None,
            over: false,
            record: None,
        }
    }

    pub(super) fn bytes(reader: Reader, next: AnswerPiece, jobs: &JobQueue) -> Self {
        let (epoch, next) = (Some(next.place.epoch), Some(next));
        let liveness_probe = LivenessProbe::new(jobs);
        Self {
            reader,
            liveness_probe,
            marks: None,
            from: None,
            epoch,
            not_a_stream: false,
            next,
            over: false,
            record: None,
        }
    }

    /// Polls for the next entry; `None` if no entry can come any more.
    fn poll_entry(&mut self, cx: &mut Context<'_>) -> Poll<Option<AnswerPiece>> {
        match self.reader.poll_entry(cx) {
            Poll::Ready(entry) => {
                self.liveness_probe.record_entry();
                Poll::Ready(Some(entry))
            }
            Poll::Pending => self.liveness_probe.poll_lost(self.reader.place(), cx).map(|()| None),
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while !self.over {
            let entry = match self.next.take() {
                Some(entry) => entry,
                None => match ready!(self.poll_entry(cx)) {
                    Some(entry) => entry,
                    None => {
                        return Poll::Ready(Some(self.fail(jobs::JobError::broke("it no longer exists."))));
                    }
                },
            };
            if self.epoch.is_some_and(|epoch| epoch != entry.place.epoch) && entry.kind != PieceKind::Error {
                // The output of another run does not continue the output of this one.
                return Poll::Ready(Some(
                    self.fail(jobs::JobError::broke("it was lost after part of its response was sent.")),
                ));
            }
            let bytes = match entry.kind {
                PieceKind::Head => {
                    self.not_a_stream = !read_head(&entry.data).is_some_and(|(head, _)| is_stream(&head));
                    continue;
                }
                PieceKind::Data => self.encode(&entry),
                PieceKind::End => {
                    self.end(Ending::Complete);
                    continue;
                }
                PieceKind::Error => self.fail(jobs::JobError::read(&entry.data)),
            };
            if !bytes.is_empty() {
                return Poll::Ready(Some(bytes));
            }
        }
        Poll::Ready(None)
    }

    fn encode(&mut self, entry: &AnswerPiece) -> Bytes {
        self.epoch = Some(entry.place.epoch);
        let Some(marks) = &mut self.marks else { return entry.data.clone() };
        if self.not_a_stream {
            return one_event(entry);
        }
        let from = match self.from.take() {
            Some(mark) if mark.place == entry.place => {
                let last = mark.offset.checked_sub(1).and_then(|at| entry.data.get(at));
                *marks = EventIds::after(last.copied());
                mark.offset
            }
            _ => 0,
        };
        marks.feed(entry.place, from, &entry.data)
    }

    fn fail(&mut self, fault: jobs::JobError) -> Bytes {
        self.end(Ending::WorkerFailed);
        error::event(&fault.into_refusal("The job"), error::StreamFormat::Named, "")
    }
}

fn one_event(entry: &AnswerPiece) -> Bytes {
    let mut event = Vec::with_capacity(entry.data.len() + 64);
    for line in entry.data.split(|byte| matches!(byte, b'\n' | b'\r')) {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(line);
        event.push(b'\n');
    }
    event.extend_from_slice(format!("id: {}-{}\n\n", entry.place, entry.data.len()).as_bytes());
    event.into()
}

pub(super) fn is_stream(head: &http::response::Parts) -> bool {
    let kind = head.headers.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream"))
}

impl<B: Body<Data = Bytes>> Body for JobBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(inner) = this.inner.as_pin_mut() {
            return match this.keeper {
                Some(keeper) => keeper.poll_frame(inner, cx),
                None => inner.poll_frame(cx),
            };
        }
        let bytes = match this.answer {
            Some(answer) => ready!(answer.poll_bytes(cx)),
            None => this.text.take(),
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Some(inner) => {
                inner.is_end_stream() && self.keeper.as_ref().is_none_or(|keeper| keeper.is_over())
            }
            None => self.text.is_none() && self.answer.as_ref().is_none_or(|answer| answer.over),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.inner, &self.answer) {
            (Some(inner), _) => inner.size_hint(),
            (None, Some(_)) => SizeHint::default(),
            (None, None) => SizeHint::with_exact(self.text.as_ref().map_or(0, |text| text.len() as u64)),
        }
    }
}

/// Builds the refusal for jobs that cannot be read or written in Redis.
pub(super) fn unreachable(loss: &dyn std::fmt::Display) -> Refusal {
    let message = format!("The job store cannot be reached: {loss}.");
    Refusal::new(Reason::UpstreamUnreachable, message).with_retry_after(with_jitter(BACK))
}
