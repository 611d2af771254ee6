//! The response observer: records first content, tokens, usage and ending as a response passes.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;

use super::held::HeldFrames;
use crate::clock::Nanos;
use crate::openai::error::{self, StreamFormat};
use crate::openai::tap::{JsonTap, SseTap, StreamFacts, Usage, UsageFilter};
use crate::refusal::{Reason, Refusal};
use crate::request::{Blame, Ending, RequestRecord};
use crate::shed::Permit;
use crate::upstream::closing::{CutOff, CutOffListener};
use crate::upstream::headers::{self, AnswerNames};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerReading {
    /// Event stream of a model; `filtered` removes the usage that only the gateway asked for, and
    /// `format` is that of its kind.
    Stream { filtered: bool, format: StreamFormat },
    /// Model output in a format that is not parsed: its content begins with its first byte.
    Unread,
    /// Model output in JSON lines: its content begins with its first byte, and a line may end it.
    Lines,
    /// JSON response that may report its usage. With `object` every answer of its kind is an object.
    Json { object: bool },
    /// Other stream, whose silence means nothing. With `events`, an SSE event can be inserted.
    OtherStream { events: bool },
    /// Response that is passed without being read.
    Opaque,
}

#[derive(Debug)]
enum AnswerTap {
    // Boxed: most small responses are no streams, and would carry its buffers around.
    Stream(Box<StreamTap>),
    Lines(JsonTap),
    Json { tap: JsonTap, object: bool },
    Unread,
    Feed { events: bool },
    Blind,
}

#[derive(Debug)]
struct StreamTap {
    tap: SseTap,
    filter: Option<UsageFilter>,
}

/// Reads one response as it passes and reports to the request record and to the gate.
#[derive(Debug)]
pub(crate) struct AnswerObserver {
    record: Arc<RequestRecord>,
    /// `None` once the request has ended: dropping it frees the permit.
    permit: Option<Permit>,
    worker: Arc<str>,
    tap: AnswerTap,
    names: AnswerNames,
    sequences: u32,
    recorded: StreamFacts,
    /// Set by the first ending; later ones are ignored.
    ended: bool,
    /// Shutdown signal.
    closing: CutOff,
}

impl AnswerObserver {
    pub(crate) fn new(
        record: Arc<RequestRecord>,
        permit: Option<Permit>,
        worker: &Arc<str>,
        reading: AnswerReading,
        sequences: u32,
        closing: CutOff,
    ) -> Self {
        let tap = match reading {
            AnswerReading::Stream { filtered, format } => {
                let filter = filtered.then(UsageFilter::new);
                AnswerTap::Stream(Box::new(StreamTap { tap: SseTap::expecting(format), filter }))
            }
            AnswerReading::Lines => AnswerTap::Lines(JsonTap::new()),
            AnswerReading::Json { object } => AnswerTap::Json { tap: JsonTap::new(), object },
            AnswerReading::Unread => AnswerTap::Unread,
            AnswerReading::OtherStream { events } => AnswerTap::Feed { events },
            AnswerReading::Opaque => AnswerTap::Blind,
        };
        let worker = Arc::clone(worker);
        Self {
            record,
            permit,
            worker,
            tap,
            names: AnswerNames::default(),
            sequences,
            recorded: StreamFacts::default(),
            ended: false,
            closing,
        }
    }

    /// Adds these names to the head of the response.
    pub(crate) fn with_names(mut self, names: AnswerNames) -> Self {
        self.names = names;
        self
    }

    pub(crate) const fn worker(&self) -> &Arc<str> {
        &self.worker
    }

    /// Reads `data` from the worker, received at `now`, and pushes what the client gets to `out`.
    pub(crate) fn pass(&mut self, data: Bytes, now: Nanos, out: &mut HeldFrames) {
        match &mut self.tap {
            AnswerTap::Stream(stream) => {
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
                    // No usage comes after this line, and a client may wait for it alone.
                    self.flush(out);
                }
            }
            AnswerTap::Json { tap, .. } => {
                tap.feed(&data);
                if let Some(usage) = tap.usage() {
                    note_usage(&self.record, self.permit.as_ref(), usage);
                }
                if let Some(blame) = tap.error() {
                    self.record.set_error(blame);
                    self.recorded.error = Some(blame);
                }
                out.push(Frame::data(data));
            }
            AnswerTap::Lines(tap) => {
                tap.feed(&data);
                let seen = StreamFacts {
                    content: self.recorded.content || (!data.is_empty() && tap.error().is_none()),
                    done: tap.done(),
                    promised: tap.promises_end(),
                    error: tap.error(),
                    usage: tap.usage(),
                    ..self.recorded
                };
                self.note(seen, now);
                out.push(Frame::data(data));
            }
            AnswerTap::Unread => {
                if !data.is_empty() {
                    self.note(StreamFacts { content: true, ..self.recorded }, now);
                }
                out.push(Frame::data(data));
            }
            AnswerTap::Feed { .. } | AnswerTap::Blind => out.push(Frame::data(data)),
        }
    }

    /// Records the first content.
    fn begins(&self, now: Nanos) {
        self.record.set_first_token(now);
        if let Some(permit) = &self.permit {
            permit.first_token();
        }
    }

    fn note(&mut self, seen: StreamFacts, now: Nanos) {
        let noted = std::mem::replace(&mut self.recorded, seen);
        if seen.content && !noted.content {
            self.begins(now);
        }
        if let Some(blame) = seen.error {
            self.record.set_error(blame);
        }
        if seen.done || seen.finished > 0 {
            self.record.set_end_mark();
        }
        if seen.tokens != noted.tokens {
            self.record.set_output_tokens(seen.tokens);
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
            note_usage(&self.record, self.permit.as_ref(), usage);
        }
    }

    /// Tells the gate that nothing comes. A committed stream cannot move to another worker.
    pub(crate) fn report_waiting(&self) {
        let _abandoned = self.permit.as_ref().is_some_and(Permit::report_waiting);
    }

    /// Releases what the filter holds of a stream that is over.
    pub(crate) fn flush(&mut self, out: &mut HeldFrames) {
        if let AnswerTap::Stream(stream) = &mut self.tap
            && let Some(filter) = &mut stream.filter
        {
            let rest = filter.finish();
            if !rest.is_empty() {
                out.push(Frame::data(rest));
            }
        }
    }

    /// Returns `true` if the response can be committed: a stream at its first content, others at
    /// their first bytes. A stream that reports an error or its end has no content to come.
    pub(crate) const fn may_commit(&self) -> bool {
        match self.tap {
            AnswerTap::Stream(_) => {
                let StreamFacts { content, done, error, said, .. } = self.recorded;
                content || error.is_some() || (done && said)
            }
            AnswerTap::Lines(_)
            | AnswerTap::Json { .. }
            | AnswerTap::Unread
            | AnswerTap::Feed { .. }
            | AnswerTap::Blind => true,
        }
    }

    /// Returns `true` if the worker reports an error of its own in place of content.
    pub(crate) const fn begins_with_error(&self) -> bool {
        matches!(self.recorded.error, Some(Blame::Worker)) && !self.recorded.content
    }

    /// Returns what a response lacks that is over and of which nothing was passed on; `empty` if it had no
    /// bytes. The answer of a model has content, or says that there is none, or why.
    pub(crate) fn lack(&self, empty: bool) -> Option<&'static str> {
        let StreamFacts { content, done, finished, error, said, .. } = self.recorded;
        match &self.tap {
            AnswerTap::Stream(_) if !content && error.is_none() && !(said && (done || finished > 0)) => {
                Some("a stream without content")
            }
            AnswerTap::Json { .. } | AnswerTap::Lines(_) | AnswerTap::Unread if empty => {
                Some("an empty answer")
            }
            AnswerTap::Json { tap, object: true } if !tap.has_members() => {
                Some("something other than a JSON object with members; check its `url`")
            }
            _ => None,
        }
    }

    /// Returns `true` if a stream that is over was cut short: its events announce an end, as those of all
    /// engines do, and there was none. HTTP does not show it if a connection ends with the worker, or if a
    /// proxy in between ends the answer in good order.
    pub(crate) fn is_cut_short(&self) -> bool {
        let StreamFacts { content, done, finished, error, promised, choices, unread, .. } = self.recorded;
        // An engine may give fewer choices than were asked for.
        let ended = done || unread || finished >= choices.min(self.sequences).max(1);
        !self.ended && content && promised && !ended && error.is_none()
    }

    /// Returns `true` if the response is committed with its head: its content may take any time.
    pub(crate) const fn begins_with_head(&self) -> bool {
        matches!(self.tap, AnswerTap::Feed { .. })
    }

    /// Returns `true` if a model writes this piece by piece.
    pub(crate) const fn is_stream(&self) -> bool {
        matches!(self.tap, AnswerTap::Stream(_) | AnswerTap::Lines(_) | AnswerTap::Unread)
    }

    /// Returns `true` if an SSE event can be inserted.
    pub(crate) const fn takes_events(&self) -> bool {
        matches!(self.tap, AnswerTap::Stream(_) | AnswerTap::Feed { events: true })
    }

    /// Returns a listener for the shutdown signal.
    pub(crate) fn cut_off_listener(&self) -> CutOffListener {
        self.closing.listener()
    }

    /// Records how the response is sent, and prepares its `fields` for the client of request `id`.
    pub(crate) fn prepare_head(&self, fields: &mut HeaderMap, id: &HeaderValue) {
        headers::answer(fields, id);
        self.names.add_to(fields);
        if self.is_stream() {
            self.record.set_streamed();
        }
        if self.is_counted() {
            self.record.set_tokens_counted();
        }
        if self.takes_events() {
            // Something may be removed from it, or an error event inserted.
            fields.remove(CONTENT_LENGTH);
        }
    }

    /// Returns `true` if the tokens of this response are counted as they come.
    pub(crate) const fn is_counted(&self) -> bool {
        matches!(self.tap, AnswerTap::Stream(_))
    }

    /// Returns an event that says why the stream ends.
    pub(crate) fn event(&self, refusal: &Refusal) -> Bytes {
        error::event(refusal, self.stream_format(), &self.record.id)
    }

    pub(crate) const fn stream_format(&self) -> StreamFormat {
        match &self.tap {
            AnswerTap::Stream(stream) => stream.tap.stream_format(),
            // Its name keeps the error event apart from the stream's own events.
            _ => StreamFormat::Named,
        }
    }

    /// Returns `true` if the stream said that it is over, or how each choice ended. What fails later
    /// changes nothing.
    pub(crate) fn is_whole(&self) -> bool {
        self.recorded.done || self.recorded.finished >= self.sequences.max(1)
    }

    /// Notes that all data read so far was sent to the client. If the response is whole by then, it
    /// counts as complete even if the client leaves or the worker breaks off.
    pub(crate) fn mark_flushed(&self) {
        if self.is_whole() && !self.ended {
            let (ending, reason) = self.whole();
            self.report_end(ending, reason);
        }
    }

    fn report_end(&self, ending: Ending, reason: Option<Reason>) {
        self.record.set_ending(ending);
        if let Some(reason) = reason {
            self.record.set_reason(reason);
        }
        if let Some(permit) = &self.permit {
            permit.end(ending);
        }
    }

    const fn whole(&self) -> (Ending, Option<Reason>) {
        match self.recorded.error {
            Some(Blame::Worker) => (Ending::WorkerFailed, Some(Reason::UpstreamBroke)),
            Some(Blame::Client) | None => (Ending::Complete, None),
        }
    }

    /// Ends a response that was read to its end and sent to the client.
    pub(crate) fn complete(&mut self) {
        let (ending, reason) = self.whole();
        self.end(ending, reason);
    }

    /// Records for the log what broke the response off.
    pub(crate) fn blame(&self, refusal: &Refusal) {
        self.record.set_cause(refusal);
    }

    /// Ends the request (`reason`: its error) and frees the permit; only the first ending counts.
    pub(crate) fn end(&mut self, ending: Ending, reason: Option<Reason>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.report_end(ending, reason);
        self.permit = None;
    }
}

impl Drop for AnswerObserver {
    fn drop(&mut self) {
        if !self.ended && self.closing.has_begun() && self.record.ending() == Ending::ClientGone {
            self.end(Ending::Refused, Some(Reason::Draining));
        }
    }
}

fn note_usage(record: &RequestRecord, permit: Option<&Permit>, usage: Usage) {
    record.set_usage(usage.prompt, usage.output);
    if let Some(permit) = permit {
        permit.prompt_counted(usage.prompt);
        permit.tokens(usage.output);
        if let Some(cached) = usage.cached {
            permit.cached(cached);
        }
    }
}
