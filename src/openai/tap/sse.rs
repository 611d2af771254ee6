//! Observer of event streams.

use super::event::{StreamEvent, by_kind, by_type};
use super::json::JsonTap;
use super::lines::{LineFinder, LineStep, field, without_mark};
use super::repeated::RepeatedEvent;
use super::usage::{Usage, UsageAccount};
use super::{LINE_BOUND, empty};
use crate::openai::error::StreamFormat;
use crate::request::Blame;

/// Facts that a stream has given so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamFacts {
    /// `true` once content has come: the stream can be committed.
    pub content: bool,
    /// Output tokens seen: one per delta with content, of any choice.
    pub tokens: u64,
    /// Number of choices that have ended.
    pub finished: u32,
    /// Usage reported by the worker, plus tokens after the report; `None` without a report.
    pub usage: Option<Usage>,
    /// `true` once the stream said it is over (`[DONE]`, `message_stop`, `response.completed` …).
    pub done: bool,
    /// `true` once events show that an end will be said: `finish_reason` is there and null.
    pub promised: bool,
    /// Number of choices that have begun.
    pub choices: u32,
    /// `true` once an event has said anything but `[DONE]`.
    pub said: bool,
    /// `true` if the latest event is too long to be read: it may have been the end.
    pub unread: bool,
    /// Reported error, as who caused it.
    pub error: Option<Blame>,
}

/// Observes an event stream (`text/event-stream`).
///
/// It recognizes chat, completions, responses and messages by the shape of each event. In any other
/// stream each event with data counts as content, except those named `ping`.
#[derive(Debug, Default)]
pub struct SseTap {
    seen: StreamFacts,
    account: UsageAccount,
    lines: LineFinder,
    /// Part of the current line from earlier chunks.
    carry: Vec<u8>,
    /// Data lines of the current event that are not yet complete JSON.
    data: Vec<u8>,
    /// Set while the current line is too long to be kept, with what it means once it has ended.
    long: Option<(JsonTap, StreamEvent)>,
    /// `true` if data lines of the current event were too long to be kept.
    spilt: bool,
    /// `true` after the first line, which may have a byte order mark.
    begun: bool,
    /// An event that the next ones may be like.
    repeated: RepeatedEvent,
    /// Meaning of the current event's name.
    name: EventName,
    stream_format: StreamFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum EventName {
    /// Any other name: the data decide.
    #[default]
    Any,
    Ping,
    Error,
    /// An event of the Responses API, as far as its name tells its meaning.
    Known(StreamEvent),
}

impl SseTap {
    /// Creates an observer for the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an observer for a stream that has this format unless its events show another.
    #[must_use]
    pub fn expecting(stream_format: StreamFormat) -> Self {
        Self { stream_format, ..Self::default() }
    }

    /// Reads the next bytes, cut anywhere, and returns the facts so far.
    pub fn feed(&mut self, chunk: &[u8]) -> StreamFacts {
        let mut rest = chunk;
        while !rest.is_empty() {
            match self.lines.step(rest) {
                LineStep::Rest => rest = &rest[1..],
                LineStep::Line { content, total } => {
                    self.line(&rest[..content]);
                    rest = &rest[total..];
                }
                LineStep::Open => {
                    self.part(rest);
                    break;
                }
            }
        }
        self.seen
    }

    /// Returns the facts so far.
    #[must_use]
    pub const fn seen(&self) -> StreamFacts {
        self.seen
    }

    /// Returns the error format that fits the events so far.
    #[must_use]
    pub(crate) const fn stream_format(&self) -> StreamFormat {
        self.stream_format
    }

    /// Keeps part of a line whose end has not come.
    fn part(&mut self, part: &[u8]) {
        if let Some((long, _)) = &mut self.long {
            long.feed(part);
        } else if self.carry.len() + part.len() > LINE_BOUND {
            let (mut long, event) = self.too_long(part);
            long.feed(part);
            self.long = Some((long, event));
        } else {
            self.carry.extend_from_slice(part);
        }
    }

    /// Reads the rest of a line, `end`.
    fn line(&mut self, end: &[u8]) {
        if let Some((mut long, event)) = self.long.take() {
            long.feed(end);
            self.count_long(&long, event);
        } else if self.carry.len() + end.len() > LINE_BOUND {
            let (mut long, event) = self.too_long(end);
            long.feed(end);
            self.count_long(&long, event);
        } else if self.carry.is_empty() {
            self.whole_line(end);
        } else {
            let mut line = std::mem::take(&mut self.carry);
            line.extend_from_slice(end);
            self.whole_line(&line);
            empty(&mut line);
            self.carry = line;
        }
        self.begun = true;
    }

    /// Handles a line beyond the bound, which goes on with `part`: it may hold the text of a whole response
    /// (`response.completed`), so it is searched for usage. Its name, or its `type` if that comes first,
    /// tells whether it is content and what its end means; without either it is content.
    fn too_long(&mut self, part: &[u8]) -> (JsonTap, StreamEvent) {
        let carried = std::mem::take(&mut self.carry);
        let event = self.meaning(if carried.is_empty() { part } else { &carried });
        self.count(StreamEvent { done: false, error: None, ..event });
        empty(&mut self.data);
        self.spilt = true;
        let mut long = JsonTap::new();
        long.feed(&carried);
        (long, StreamEvent { deltas: 0, ..event })
    }

    /// Counts what the end of a line says that was too long to be kept.
    fn count_long(&mut self, long: &JsonTap, event: StreamEvent) {
        self.count(StreamEvent { usage: long.usage(), ..event });
    }

    /// Returns what an event means that is too long to be kept, by its name or its `beginning`.
    fn meaning(&self, beginning: &[u8]) -> StreamEvent {
        match self.name {
            EventName::Known(event) => event,
            _ => by_type(beginning).unwrap_or(StreamEvent { unread: true, ..StreamEvent::UNKNOWN }),
        }
    }

    fn whole_line(&mut self, line: &[u8]) {
        let line = if self.begun { line } else { without_mark(line) };
        if line.is_empty() {
            self.end_event();
        } else if let Some(data) = field(line, b"data") {
            self.data(data);
        } else if let Some(name) = field(line, b"event") {
            self.name = match name.trim_ascii() {
                b"ping" | b"keepalive" => EventName::Ping,
                b"error" => EventName::Error,
                name => by_kind(name).map_or(EventName::Any, EventName::Known),
            };
            if !matches!(self.name, EventName::Ping | EventName::Error)
                && self.stream_format == StreamFormat::Bare
            {
                self.stream_format = StreamFormat::Named;
            }
            if self.name == EventName::Error {
                self.seen.error = self.seen.error.or(Some(Blame::Worker));
            }
        }
    }

    fn data(&mut self, data: &[u8]) {
        if self.spilt {
            return;
        }
        if self.data.len() + data.len() >= LINE_BOUND {
            self.count(self.meaning(&self.data));
            self.spilt = true;
        } else if !self.data.is_empty() {
            self.data.push(b'\n');
            self.data.extend_from_slice(data);
        } else if let Some(event) = self.repeated.read(data) {
            self.count(event);
        } else if let Some((event, text)) = StreamEvent::read_text(data) {
            self.repeated.keep(data, event, text);
            self.count(event);
        } else {
            self.data.extend_from_slice(data);
        }
    }

    fn end_event(&mut self) {
        if !self.spilt && !self.data.is_empty() {
            self.count(StreamEvent::read(&self.data).unwrap_or(StreamEvent::UNKNOWN));
        }
        self.spilt = false;
        self.name = EventName::Any;
        empty(&mut self.data);
    }

    fn count(&mut self, event: StreamEvent) {
        if event.of_message {
            self.stream_format = StreamFormat::Messages;
        }
        let deltas = if matches!(self.name, EventName::Ping | EventName::Error) { 0 } else { event.deltas };
        self.seen.content |= deltas > 0;
        self.seen.tokens += deltas;
        self.seen.finished = self.seen.finished.saturating_add(event.finished);
        if let Some(usage) = event.usage {
            self.account.report(usage, self.seen.tokens);
        }
        self.seen.usage = self.account.until_now(self.seen.tokens);
        self.seen.done |= event.done;
        self.seen.promised |= event.promises;
        self.seen.choices = self.seen.choices.max(event.choices);
        self.seen.said |= !event.bare_end;
        self.seen.unread = event.unread;
        // The data tell more about an error than the event's name.
        self.seen.error = event.error.or(self.seen.error);
    }
}
