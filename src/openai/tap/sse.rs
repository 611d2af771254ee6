//! Reading along in an event stream.

use super::event::Event;
use super::json::JsonTap;
use super::lines::{Lines, Step, field, without_mark};
use super::usage::Usage;
use super::{LINE_BOUND, empty};

/// What a stream has said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The first content has come: the stream is worth committing to.
    pub content: bool,
    /// Output tokens seen: one for each delta that bears content, of any choice.
    pub tokens: u64,
    /// Choices that have ended.
    pub finished: u32,
    /// The usage that the worker reported, the latest if several.
    pub usage: Option<Usage>,
    /// The stream said that it is complete (`[DONE]`, `response.completed`, `response.incomplete`).
    pub done: bool,
    /// The stream said that it failed.
    pub error: bool,
}

/// Reads along in an event stream (`text/event-stream`).
///
/// It speaks chat, completions and responses by the shape of each event; in any other stream every event with data
/// counts as content.
#[derive(Debug, Default)]
pub struct SseTap {
    seen: Seen,
    lines: Lines,
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
            self.seen.usage = long.usage().or(self.seen.usage);
        } else if self.carry.len() + end.len() > LINE_BOUND {
            let mut long = self.too_long();
            long.feed(end);
            self.seen.usage = long.usage().or(self.seen.usage);
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
        self.count(Event::UNKNOWN);
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
        } else if field(line, b"event") == Some(b"error") {
            self.seen.error = true;
        }
    }

    fn data(&mut self, data: &[u8]) {
        if self.spilt {
            return;
        }
        if self.data.len() + data.len() >= LINE_BOUND {
            self.count(Event::UNKNOWN);
            self.spilt = true;
        } else if !self.data.is_empty() {
            self.data.push(b'\n');
            self.data.extend_from_slice(data);
        } else if let Some(event) = Event::read(data) {
            self.count(event);
        } else {
            self.data.extend_from_slice(data);
        }
    }

    fn end_event(&mut self) {
        if !self.spilt && !self.data.is_empty() {
            self.count(Event::read(&self.data).unwrap_or(Event::UNKNOWN));
        }
        self.spilt = false;
        empty(&mut self.data);
    }

    fn count(&mut self, event: Event) {
        self.seen.content |= event.deltas > 0;
        self.seen.tokens += event.deltas;
        self.seen.finished = self.seen.finished.saturating_add(event.finished);
        self.seen.usage = event.usage.or(self.seen.usage);
        self.seen.done |= event.done;
        self.seen.error |= event.error;
    }
}
