//! What the gateway learns from an answer while it passes: first content, tokens, usage, and how it ended.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;

use super::closing::{Bell, Closing};
use super::headers;
use super::source::Held;
use crate::clock::Nanos;
use crate::openai::error::{self, Tongue};
use crate::openai::tap::{JsonTap, Seen, SseTap, Usage, UsageFilter};
use crate::refusal::{Reason, Refusal};
use crate::request::{Blame, Ending, Flight};
use crate::shed::Permit;

/// How an answer is read along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// An event stream of a model. With `filtered`, what a worker adds because *we* asked for its usage is taken out.
    Stream { filtered: bool },
    /// What a model writes in a form that is not read: it begins with its first byte.
    Unread,
    /// A JSON answer that may report its usage.
    Json,
    /// A stream of something else, whose silence means nothing. Where it is `events`, one more can be put in.
    Feed { events: bool },
    /// Nothing in it concerns us.
    Blind,
}

#[derive(Debug)]
enum Tap {
    // Boxed: most small answers are no streams, and theirs would carry its buffers around.
    Stream(Box<Stream>),
    Json(JsonTap),
    Unread,
    Feed { events: bool },
    Blind,
}

#[derive(Debug, Default)]
struct Stream {
    tap: SseTap,
    filter: Option<UsageFilter>,
}

/// Follows one answer and writes down what it says, for the record and for the gate.
#[derive(Debug)]
pub(crate) struct Watch {
    flight: Arc<Flight>,
    /// Gone when the request ended: that frees the seat.
    permit: Option<Permit>,
    worker: Arc<str>,
    tap: Tap,
    /// Sequences that were asked for.
    sequences: u32,
    /// What was written down already.
    noted: Seen,
    /// Set by the first ending, which is the true one.
    ended: bool,
    /// When the gateway is about to cut off what is under way.
    closing: Closing,
}

impl Watch {
    pub(crate) fn new(
        flight: Arc<Flight>,
        permit: Option<Permit>,
        worker: &Arc<str>,
        reading: Reading,
        sequences: u32,
        closing: Closing,
    ) -> Self {
        let tap = match reading {
            Reading::Stream { filtered } => {
                let filter = filtered.then(UsageFilter::new);
                Tap::Stream(Box::new(Stream { tap: SseTap::new(), filter }))
            }
            Reading::Json => Tap::Json(JsonTap::new()),
            Reading::Unread => Tap::Unread,
            Reading::Feed { events } => Tap::Feed { events },
            Reading::Blind => Tap::Blind,
        };
        let worker = Arc::clone(worker);
        Self { flight, permit, worker, tap, sequences, noted: Seen::default(), ended: false, closing }
    }

    /// The worker's id.
    pub(crate) const fn worker(&self) -> &Arc<str> {
        &self.worker
    }

    /// Reads what the worker sent at `now` and hands on what the client gets of it.
    pub(crate) fn pass(&mut self, data: Bytes, now: Nanos, out: &mut Held) {
        match &mut self.tap {
            Tap::Stream(stream) => {
                let seen = stream.tap.feed(&data);
                let data = match &mut stream.filter {
                    Some(filter) => filter.feed(&data),
                    None => data,
                };
                if !data.is_empty() {
                    out.push(Frame::data(data));
                }
                self.note(seen, now);
                if seen.done {
                    // Nothing that we asked for comes after it, and a client may wait for no more than its line.
                    self.flush(out);
                }
            }
            Tap::Json(tap) => {
                tap.feed(&data);
                if let Some(usage) = tap.usage() {
                    note_usage(&self.flight, self.permit.as_ref(), usage);
                }
                if let Some(blame) = tap.error() {
                    self.flight.set_erred(blame);
                }
                out.push(Frame::data(data));
            }
            Tap::Unread => {
                if !data.is_empty() {
                    self.note(Seen { content: true, ..self.noted }, now);
                }
                out.push(Frame::data(data));
            }
            Tap::Feed { .. } | Tap::Blind => out.push(Frame::data(data)),
        }
    }

    /// The first content is there.
    fn begins(&self, now: Nanos) {
        self.flight.set_first_token(now);
        if let Some(permit) = &self.permit {
            permit.first_token();
        }
    }

    fn note(&mut self, seen: Seen, now: Nanos) {
        let noted = std::mem::replace(&mut self.noted, seen);
        if seen.content && !noted.content {
            self.begins(now);
        }
        if let Some(blame) = seen.error {
            self.flight.set_erred(blame);
        }
        if seen.done || seen.finished > 0 {
            self.flight.set_over();
        }
        if seen.tokens != noted.tokens {
            self.flight.set_output_tokens(seen.tokens);
            if let Some(permit) = &self.permit {
                permit.tokens(seen.tokens);
            }
        }
        if seen.finished != noted.finished
            && let Some(permit) = &self.permit
        {
            permit.finished(seen.finished);
        }
        if let Some(usage) = seen.usage.filter(|_| seen.usage != noted.usage) {
            note_usage(&self.flight, self.permit.as_ref(), usage);
        }
    }

    /// Tells the gate that nothing comes. What the client has begun to read cannot go elsewhere.
    pub(crate) fn awaits(&self) {
        let _abandoned = self.permit.as_ref().is_some_and(Permit::awaits);
    }

    /// Hands on what was held back of a stream that is over.
    pub(crate) fn flush(&mut self, out: &mut Held) {
        if let Tap::Stream(stream) = &mut self.tap
            && let Some(filter) = &mut stream.filter
        {
            let rest = filter.finish();
            if !rest.is_empty() {
                out.push(Frame::data(rest));
            }
        }
    }

    /// Whether the answer has said enough to be handed over: of a stream its first content, of another its first
    /// bytes. A stream that says it failed or is over has no content to come.
    pub(crate) const fn may_commit(&self) -> bool {
        match self.tap {
            Tap::Stream(_) => self.noted.content || self.noted.error.is_some() || self.noted.done,
            Tap::Json(_) | Tap::Unread | Tap::Feed { .. } | Tap::Blind => true,
        }
    }

    /// Whether the answer is handed over with its head: what comes may take any time.
    pub(crate) const fn begins_with_head(&self) -> bool {
        matches!(self.tap, Tap::Feed { .. })
    }

    /// Whether a model writes this piece by piece.
    pub(crate) const fn is_stream(&self) -> bool {
        matches!(self.tap, Tap::Stream(_) | Tap::Unread)
    }

    /// Whether this is an event stream into which an event can be put.
    pub(crate) const fn takes_events(&self) -> bool {
        matches!(self.tap, Tap::Stream(_) | Tap::Feed { events: true })
    }

    /// Tells when the gateway is about to cut this off.
    pub(crate) fn bell(&self) -> Bell {
        self.closing.bell()
    }

    /// Writes down how the answer is handed over, and makes its `fields` ready for the client of the request `id`.
    pub(crate) fn announce(&self, fields: &mut HeaderMap, id: &HeaderValue) {
        headers::answer(fields, id);
        if self.is_stream() {
            self.flight.set_streamed();
        }
        if self.is_counted() {
            self.flight.set_counted();
        }
        if self.takes_events() {
            // Something may be taken out of it, or an error event put in.
            fields.remove(CONTENT_LENGTH);
        }
    }

    /// Whether the tokens of this answer are seen as they come.
    pub(crate) const fn is_counted(&self) -> bool {
        matches!(self.tap, Tap::Stream(_))
    }

    /// An event that says why the stream ends.
    pub(crate) fn event(&self, refusal: &Refusal) -> Bytes {
        error::event(refusal, self.tongue(), &self.flight.id)
    }

    /// How the stream's events are written.
    pub(crate) const fn tongue(&self) -> Tongue {
        match &self.tap {
            Tap::Stream(stream) => stream.tap.tongue(),
            // Whatever its own events are called, none is taken for one of them.
            _ => Tongue::Named,
        }
    }

    /// Whether the stream said that it is over. What becomes of its connection then changes nothing.
    pub(crate) const fn is_done(&self) -> bool {
        self.noted.done
    }

    /// All that was read is on its way to the client. When that is all there is to say, the client may leave, or the
    /// worker break off: the answer is whole.
    pub(crate) fn handed_on(&self) {
        let whole = self.noted.done || (self.noted.finished >= self.sequences.max(1));
        if whole && !self.ended {
            let (ending, reason) = self.whole();
            self.tell(ending, reason);
        }
    }

    /// Tells how the request ends.
    fn tell(&self, ending: Ending, reason: Option<Reason>) {
        self.flight.set_ending(ending);
        if let Some(reason) = reason {
            self.flight.set_reason(reason);
        }
        if let Some(permit) = &self.permit {
            permit.end(ending);
        }
    }

    /// How an answer ends that was read to its end.
    const fn whole(&self) -> (Ending, Option<Reason>) {
        match self.noted.error {
            Some(Blame::Worker) => (Ending::WorkerFailed, Some(Reason::UpstreamBroke)),
            Some(Blame::Client) | None => (Ending::Complete, None),
        }
    }

    /// The answer was read to its end and is on its way to the client.
    pub(crate) fn complete(&mut self) {
        let (ending, reason) = self.whole();
        self.end(ending, reason);
    }

    /// Keeps for the log what broke the answer off.
    pub(crate) fn blame(&self, refusal: &Refusal) {
        self.flight.set_cause(refusal);
    }

    /// The request ended, by a fault of `reason` if there is one. Frees the seat; only the first ending counts.
    pub(crate) fn end(&mut self, ending: Ending, reason: Option<Reason>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.tell(ending, reason);
        self.permit = None;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.ended && self.closing.has_come() && self.flight.ending() == Ending::ClientGone {
            self.end(Ending::Refused, Some(Reason::Draining));
        }
    }
}

fn note_usage(flight: &Flight, permit: Option<&Permit>, usage: Usage) {
    flight.set_usage(usage.prompt, usage.output);
    if let Some(permit) = permit {
        permit.tokens(usage.output);
    }
}
