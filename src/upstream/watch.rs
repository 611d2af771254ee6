//! What the gateway learns from an answer while it passes: first content, tokens, usage, and how it ended.

use std::sync::Arc;

use bytes::Bytes;
use http_body::Frame;

use super::source::Held;
use crate::clock::Nanos;
use crate::openai::tap::{JsonTap, Seen, SseTap, Usage, UsageFilter};
use crate::refusal::Reason;
use crate::request::{Ending, Flight};
use crate::shed::Permit;

/// How an answer is read along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// An event stream. With `filtered`, what a worker adds because *we* asked for its usage is taken out.
    Stream { filtered: bool },
    /// A JSON answer that may report its usage.
    Json,
    /// Nothing in it concerns us.
    Blind,
}

#[derive(Debug)]
enum Tap {
    // Boxed: most small answers are no streams, and theirs would carry its buffers around.
    Stream(Box<Stream>),
    Json(JsonTap),
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
    /// What was written down already.
    noted: Seen,
    /// Set by the first ending, which is the true one.
    ended: bool,
}

impl Watch {
    pub(crate) fn new(
        flight: Arc<Flight>,
        permit: Option<Permit>,
        worker: &Arc<str>,
        reading: Reading,
    ) -> Self {
        let tap = match reading {
            Reading::Stream { filtered } => {
                let filter = filtered.then(UsageFilter::new);
                Tap::Stream(Box::new(Stream { tap: SseTap::new(), filter }))
            }
            Reading::Json => Tap::Json(JsonTap::new()),
            Reading::Blind => Tap::Blind,
        };
        Self { flight, permit, worker: Arc::clone(worker), tap, noted: Seen::default(), ended: false }
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
            }
            Tap::Json(tap) => {
                tap.feed(&data);
                if let Some(usage) = tap.usage() {
                    note_usage(&self.flight, self.permit.as_ref(), usage);
                }
                out.push(Frame::data(data));
            }
            Tap::Blind => out.push(Frame::data(data)),
        }
    }

    fn note(&mut self, seen: Seen, now: Nanos) {
        let noted = std::mem::replace(&mut self.noted, seen);
        if seen.content && !noted.content {
            self.flight.set_first_token(now);
            if let Some(permit) = &self.permit {
                permit.first_token();
            }
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
            Tap::Stream(_) => self.noted.content || self.noted.error || self.noted.done,
            Tap::Json(_) | Tap::Blind => true,
        }
    }

    /// Whether this is an event stream.
    pub(crate) const fn is_stream(&self) -> bool {
        matches!(self.tap, Tap::Stream(_))
    }

    /// The request ended, by a fault of `reason` if there is one. Frees the seat; only the first ending counts.
    pub(crate) fn end(&mut self, ending: Ending, reason: Option<Reason>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.flight.set_ending(ending);
        if let Some(reason) = reason {
            self.flight.set_reason(reason);
        }
        if let Some(permit) = self.permit.take() {
            permit.end(ending);
        }
    }
}

fn note_usage(flight: &Flight, permit: Option<&Permit>, usage: Usage) {
    flight.set_usage(usage.prompt, usage.output);
    if let Some(permit) = permit {
        permit.tokens(usage.output);
    }
}
