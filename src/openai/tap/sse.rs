//! Reading along in an event stream.

use super::event::StreamEvent;
use super::json::JsonTap;
use super::lines::{LineFinder, Step, field, without_mark};
use super::usage::{Usage, UsageAccount};
use super::{LINE_BOUND, empty};
use crate::openai::error::Tongue;
use crate::request::Blame;

/// What a stream has said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The first content has come: the stream is worth committing to.
    pub content: bool,
    /// Output tokens seen: one for each delta that bears content, of any choice.
    pub tokens: u64,
    /// Choices that have ended.
    pub finished: u32,
    /// The usage that the worker reported, and what came after it; nothing when it reported none.
    pub usage: Option<Usage>,
    /// The stream said that it is over (`[DONE]`, `message_stop`, `response.completed` and the like).
    pub done: bool,
    /// The stream said that it failed, and whose fault that is.
    pub error: Option<Blame>,
}

/// Reads along in an event stream (`text/event-stream`).
///
/// It speaks chat, completions, responses and messages by the shape of each event; in any other stream every event with
/// data counts as content, but for those named `ping`.
#[derive(Debug, Default)]
pub struct SseTap {
    seen: Seen,
    account: UsageAccount,
    lines: LineFinder,
    /// The first part of the current line, when it began in a chunk before.
    carry: Vec<u8>,
    /// Data lines of the current event that are no whole JSON yet.
    data: Vec<u8>,
    /// Set while the current line is too long to be kept.
    long: Option<JsonTap>,
    /// The current event had data lines that were too much to be kept.
    spilt: bool,
    /// The first line, which may have a byte order mark, is over.
    begun: bool,
    /// What the current event's name says of its data.
    name: Name,
    tongue: Tongue,
}

/// Names of events that say something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Name {
    /// Whatever the data say.
    #[default]
    Any,
    /// Nothing but that somebody is there.
    Ping,
    /// That the stream failed.
    Error,
}

impl SseTap {
    /// A tap at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next bytes, cut anywhere, and returns what the stream has said up to here.
    pub fn feed(&mut self, chunk: &[u8]) -> Seen {
        let mut rest = chunk;
        while !rest.is_empty() {
            match self.lines.step(rest) {
                Step::Rest => rest = &rest[1..],
                Step::Line { content, total } => {
                    self.line(&rest[..content]);
                    rest = &rest[total..];
                }
                Step::Open => {
                    self.part(rest);
                    break;
                }
            }
        }
        self.seen
    }

    /// What the stream has said up to here.
    #[must_use]
    pub const fn seen(&self) -> Seen {
        self.seen
    }

    /// How its events are written, as far as they have come.
    #[must_use]
    pub const fn tongue(&self) -> Tongue {
        self.tongue
    }

    /// Keeps the part of a line whose end is not there yet.
    fn part(&mut self, part: &[u8]) {
        if let Some(long) = &mut self.long {
            long.feed(part);
        } else if self.carry.len() + part.len() > LINE_BOUND {
            let mut long = self.too_long();
            long.feed(part);
            self.long = Some(long);
        } else {
            self.carry.extend_from_slice(part);
        }
    }

    /// Reads a line, of which `end` is the part that was not there yet.
    fn line(&mut self, end: &[u8]) {
        if let Some(mut long) = self.long.take() {
            long.feed(end);
            self.found(long.usage());
        } else if self.carry.len() + end.len() > LINE_BOUND {
            let mut long = self.too_long();
            long.feed(end);
            self.found(long.usage());
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

    /// The current line is beyond the bound: counts it as content, and looks for a usage in it, for which the text of
    /// a whole answer may stand (as in `response.completed`).
    fn too_long(&mut self) -> JsonTap {
        self.count(StreamEvent::UNKNOWN);
        empty(&mut self.data);
        self.spilt = true;
        let carried = std::mem::take(&mut self.carry);
        let mut long = JsonTap::new();
        long.feed(&carried);
        long
    }

    fn whole_line(&mut self, line: &[u8]) {
        let line = if self.begun { line } else { without_mark(line) };
        if line.is_empty() {
            self.end_event();
        } else if let Some(data) = field(line, b"data") {
            self.data(data);
        } else if let Some(name) = field(line, b"event") {
            self.name = match name.trim_ascii() {
                b"ping" => Name::Ping,
                b"error" => Name::Error,
                _ => Name::Any,
            };
            if self.name == Name::Any && self.tongue == Tongue::Bare {
                self.tongue = Tongue::Named;
            }
            if self.name == Name::Error {
                self.seen.error = self.seen.error.or(Some(Blame::Worker));
            }
        }
    }

    /// A usage within a line that was too long to be kept.
    fn found(&mut self, usage: Option<Usage>) {
        self.count(StreamEvent { usage, ..StreamEvent::default() });
    }

    fn data(&mut self, data: &[u8]) {
        if self.spilt {
            return;
        }
        if self.data.len() + data.len() >= LINE_BOUND {
            self.count(StreamEvent::UNKNOWN);
            self.spilt = true;
        } else if !self.data.is_empty() {
            self.data.push(b'\n');
            self.data.extend_from_slice(data);
        } else if let Some(event) = StreamEvent::read(data) {
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
        self.name = Name::Any;
        empty(&mut self.data);
    }

    fn count(&mut self, event: StreamEvent) {
        if event.of_message {
            self.tongue = Tongue::Messages;
        }
        let deltas = if self.name == Name::Any { event.deltas } else { 0 };
        self.seen.content |= deltas > 0;
        self.seen.tokens += deltas;
        self.seen.finished = self.seen.finished.saturating_add(event.finished);
        if let Some(usage) = event.usage {
            self.account.report(usage, self.seen.tokens);
        }
        self.seen.usage = self.account.until_now(self.seen.tokens);
        self.seen.done |= event.done;
        // What the data say of a fault is more than the event's name.
        self.seen.error = event.error.or(self.seen.error);
    }
}
