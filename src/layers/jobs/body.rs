//! The bodies of answers about jobs.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::marks::{Mark, Marks};
use crate::openai::error;
use crate::redis::jobs::{self, Entry, Jobs, Kind, Lookout, Reader, read_head};
use crate::redis::link::BACK;
use crate::refusal::{Reason, Refusal, spread};
use crate::request::{Ending, Flight};

pin_project! {
    /// The inner service's body, a text of the gateway's own, or a job's answer.
    #[derive(Debug)]
    pub struct JobBody<B> {
        #[pin]
        inner: Option<B>,
        text: Option<Bytes>,
        // Boxed: most answers are the inner service's, and are moved about a lot.
        answer: Option<Box<Answer>>,
    }
}

impl<B> JobBody<B> {
    pub(super) const fn inner(inner: B) -> Self {
        Self { inner: Some(inner), text: None, answer: None }
    }

    pub(super) const fn text(text: Bytes) -> Self {
        Self { inner: None, text: Some(text), answer: None }
    }

    pub(super) fn answer(answer: Answer) -> Self {
        Self { inner: None, text: None, answer: Some(Box::new(answer)) }
    }
}

/// A job's answer, read anew.
#[derive(Debug)]
pub(super) struct Answer {
    reader: Reader,
    lookout: Lookout,
    /// For streams whose client may come back.
    marks: Option<Marks>,
    /// Where to read on.
    from: Option<Mark>,
    /// The run whose bytes were handed on.
    epoch: Option<u64>,
    /// What the worker sent is no stream, though one was asked for.
    plain: bool,
    /// Something was read already.
    next: Option<Entry>,
    over: bool,
    flight: Option<Arc<Flight>>,
}

impl Answer {
    /// The same, telling how it ends.
    pub(super) fn told(mut self, flight: Option<Arc<Flight>>) -> Self {
        self.flight = flight;
        self
    }

    fn end(&mut self, ending: Ending) {
        self.over = true;
        if let Some(flight) = self.flight.take() {
            flight.set_ending(ending);
        }
    }

    /// The answer as a stream of events with ids, from a mark on.
    pub(super) fn events(reader: Reader, from: Option<Mark>, jobs: &Jobs) -> Self {
        let epoch = from.map(|mark| mark.place.epoch);
        let marks = Some(Marks::default());
        let lookout = Lookout::new(jobs);
        Self { reader, lookout, marks, from, epoch, plain: false, next: None, over: false, flight: None }
    }

    /// The bytes as they were, from `next` on.
    pub(super) fn bytes(reader: Reader, next: Entry, jobs: &Jobs) -> Self {
        let (epoch, next) = (Some(next.place.epoch), Some(next));
        let lookout = Lookout::new(jobs);
        Self {
            reader,
            lookout,
            marks: None,
            from: None,
            epoch,
            plain: false,
            next,
            over: false,
            flight: None,
        }
    }

    /// The next piece; nothing when none can come any more.
    fn poll_entry(&mut self, cx: &mut Context<'_>) -> Poll<Option<Entry>> {
        match self.reader.poll_entry(cx) {
            Poll::Ready(entry) => {
                self.lookout.hear();
                Poll::Ready(Some(entry))
            }
            Poll::Pending => self.lookout.poll_lost(self.reader.job(), cx).map(|()| None),
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while !self.over {
            let entry = match self.next.take() {
                Some(entry) => entry,
                None => match ready!(self.poll_entry(cx)) {
                    Some(entry) => entry,
                    None => return Poll::Ready(Some(self.fail(jobs::Fault::broke("it is gone.")))),
                },
            };
            if self.epoch.is_some_and(|epoch| epoch != entry.place.epoch) && entry.kind != Kind::Error {
                // What another run says cannot be glued to what this one said.
                return Poll::Ready(Some(self.fail(jobs::Fault::broke("it was lost within its answer."))));
            }
            let bytes = match entry.kind {
                Kind::Head => {
                    self.plain = !read_head(&entry.data).is_some_and(|head| is_stream(&head));
                    continue;
                }
                Kind::Data => self.pass(&entry),
                Kind::End => {
                    self.end(Ending::Complete);
                    continue;
                }
                Kind::Error => self.fail(jobs::Fault::read(&entry.data)),
            };
            if !bytes.is_empty() {
                return Poll::Ready(Some(bytes));
            }
        }
        Poll::Ready(None)
    }

    fn pass(&mut self, entry: &Entry) -> Bytes {
        self.epoch = Some(entry.place.epoch);
        let Some(marks) = &mut self.marks else { return entry.data.clone() };
        if self.plain {
            return one_event(entry);
        }
        let from = match self.from.take() {
            Some(mark) if mark.place == entry.place => {
                let last = mark.offset.checked_sub(1).and_then(|at| entry.data.get(at));
                *marks = Marks::after(last.copied());
                mark.offset
            }
            _ => 0,
        };
        marks.feed(entry.place, from, &entry.data)
    }

    fn fail(&mut self, fault: jobs::Fault) -> Bytes {
        self.end(Ending::WorkerFailed);
        error::event(&fault.into_refusal("The job"), error::Tongue::Named, "")
    }
}

/// What is no stream, as an event of one.
fn one_event(entry: &Entry) -> Bytes {
    let mut event = Vec::with_capacity(entry.data.len() + 64);
    for line in entry.data.split(|byte| matches!(byte, b'\n' | b'\r')) {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(line);
        event.push(b'\n');
    }
    event.extend_from_slice(format!("id: {}-{}\n\n", entry.place, entry.data.len()).as_bytes());
    event.into()
}

/// Whether an answer with this head is a stream of events.
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
            return inner.poll_frame(cx);
        }
        let bytes = match this.answer {
            Some(answer) => ready!(answer.poll_bytes(cx)),
            None => this.text.take(),
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Some(inner) => inner.is_end_stream(),
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

/// A refusal because a job's keeper cannot be asked.
pub(super) fn unreachable(loss: &dyn std::fmt::Display) -> Refusal {
    let message = format!("Jobs cannot be reached: {loss}.");
    Refusal::new(Reason::UpstreamUnreachable, message).with_retry_after(spread(BACK))
}
