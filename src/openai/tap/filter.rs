//! Removes from a stream what a worker added because the gateway asked for usage.

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;

use super::lines::{LineFinder, LineStep, field, without_mark};
use super::{LINE_BOUND, empty};
use crate::openai::scan::{JsonError, Scanner};

/// Removes from a chat or completion stream what `stream_options.include_usage` adds: the `usage`
/// of the last chunk, which has no choices, and `"usage":null` of all others. The last chunk is
/// dropped if only members common to all chunks remain; its others (timings) pass, as all other
/// bytes.
///
/// An event is held from its first field to its end. This costs nothing: the reader cannot use it
/// earlier. Events beyond `LINE_BOUND`, or with several data lines, pass unchanged.
#[derive(Debug)]
pub struct UsageFilter {
    lines: LineFinder,
    finder: memmem::Finder<'static>,
    /// Part of the current event from earlier chunks.
    held: Vec<u8>,
    /// `true` if a field of the current event has begun.
    in_event: bool,
    /// `true` if the current event is too long to be held.
    passing: bool,
    /// `true` if part of the current line has come.
    in_line: bool,
    /// `true` if the last event was dropped; so is then an LF that completes its CR.
    taken: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum EventVerdict {
    Keep,
    Take,
    Cut(Range<usize>),
}

impl Default for UsageFilter {
    fn default() -> Self {
        Self::new()
    }
}

impl UsageFilter {
    /// Creates a filter for the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            lines: LineFinder::default(),
            finder: memmem::Finder::new(b"\"usage\""),
            held: Vec::new(),
            in_event: false,
            passing: false,
            in_line: false,
            taken: false,
        }
    }

    /// Takes the next bytes, cut anywhere, and returns those to pass on: none while an event is
    /// held. A chunk that needs no change is returned as it is.
    pub fn feed(&mut self, chunk: &Bytes) -> Bytes {
        let mut out = Out { chunk, kept_from: 0, built: Vec::new() };
        let (mut at, mut event) = (0, 0);
        while at < chunk.len() {
            match self.lines.step(&chunk[at..]) {
                LineStep::Rest => {
                    if self.taken {
                        out.cut(at..at + 1);
                    }
                    at += 1;
                }
                LineStep::Line { content, total } => {
                    let blank = content == 0 && !self.in_line;
                    if self.in_event && blank {
                        self.end_event(&mut out, event..at, at + total);
                    } else {
                        self.begin_line(chunk[at], at, &mut event, blank);
                    }
                    self.in_line = false;
                    at += total;
                }
                LineStep::Open => {
                    self.begin_line(chunk[at], at, &mut event, false);
                    self.in_line = true;
                    break;
                }
            }
        }
        if self.in_event && !self.passing {
            self.hold(&mut out, event);
        }
        out.finish()
    }

    /// Ends the stream: returns what is held. An event without its blank line counts as whole.
    pub(crate) fn finish(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        let verdict = self.judge(&held);
        *self = Self::new();
        apply(&held, verdict).into()
    }

    /// Marks the start of an event: its first line that is neither blank nor a comment.
    fn begin_line(&mut self, first: u8, at: usize, event: &mut usize, blank: bool) {
        self.taken = false;
        if !self.in_event && !self.in_line && !blank && first != b':' {
            self.in_event = true;
            *event = at;
        }
    }

    /// Ends the event: its blank line ends at `end`, `fields` is its part in this chunk before.
    fn end_event(&mut self, out: &mut Out<'_>, fields: Range<usize>, end: usize) {
        self.taken = false;
        if self.passing {
            self.passing = false;
        } else if self.held.len() + fields.len() > LINE_BOUND {
            out.insert(&self.held, fields.start);
        } else if self.held.is_empty() {
            let at = fields.start;
            match self.judge(&out.chunk[fields]) {
                EventVerdict::Keep => {}
                EventVerdict::Take => {
                    out.cut(at..end);
                    self.taken = true;
                }
                EventVerdict::Cut(range) => out.cut(at + range.start..at + range.end),
            }
        } else {
            self.held.extend_from_slice(&out.chunk[fields.start..end]);
            let verdict = self.judge(&self.held);
            self.taken = verdict == EventVerdict::Take;
            out.insert(&apply(&self.held, verdict), fields.start);
            out.cut(fields.start..end);
        }
        empty(&mut self.held);
        self.in_event = false;
    }

    /// Holds the open event, whose part here starts at `event`; passes it if it is too long.
    fn hold(&mut self, out: &mut Out<'_>, event: usize) {
        let part = event..out.chunk.len();
        if self.held.len() + part.len() > LINE_BOUND {
            self.passing = true;
            out.insert(&self.held, event);
            empty(&mut self.held);
        } else {
            self.held.extend_from_slice(&out.chunk[part.clone()]);
            out.cut(part);
        }
    }

    fn judge(&self, event: &[u8]) -> EventVerdict {
        if self.finder.find(event).is_none() {
            return EventVerdict::Keep;
        }
        let mut lines = LineFinder::default();
        let mut data: Option<Range<usize>> = None;
        let mut at = 0;
        while at < event.len() {
            let (content, total) = match lines.step(&event[at..]) {
                LineStep::Line { content, total } => (content, total),
                LineStep::Rest => (0, 1),
                LineStep::Open => (event.len() - at, event.len() - at),
            };
            let line = &event[at..at + content];
            if let Some(value) = field(without_mark(line), b"data") {
                let end = at + content;
                if data.replace(end - value.len()..end).is_some() {
                    return EventVerdict::Keep;
                }
            }
            at += total;
        }
        let Some(data) = data else { return EventVerdict::Keep };
        match judge_chunk(&event[data.clone()]) {
            Ok(EventVerdict::Cut(range)) => {
                EventVerdict::Cut(data.start + range.start..data.start + range.end)
            }
            Ok(verdict) => verdict,
            Err(_) => EventVerdict::Keep,
        }
    }
}

/// Members common to all chunks: a chunk with no others says nothing.
const FRAME: [&[u8]; 9] = [
    b"id",
    b"object",
    b"created",
    b"model",
    b"system_fingerprint",
    b"service_tier",
    b"choices",
    b"usage",
    b"obfuscation",
];

/// Judges the JSON of an event. A cut covers the member `usage`, one comma, and the white space
/// around it: the rest is what a worker would have written without it.
fn judge_chunk(data: &[u8]) -> Result<EventVerdict, JsonError> {
    let mut scanner = Scanner::new(data);
    // Some workers leave the choices out of the last chunk, or write null.
    let (mut no_choices, mut usage, mut null, mut more) = (true, None, None, false);
    // End of the previous value; start of a `usage` that was the first member.
    let (mut before, mut first) = (None, None);
    if scanner.peek()? != b'{' {
        return Ok(EventVerdict::Keep);
    }
    scanner.object::<JsonError>(|scanner, key| {
        if let Some((start, is_null)) = first.take() {
            *(if is_null { &mut null } else { &mut usage }) = Some(start..key.at);
        }
        let value = scanner.peek()?;
        let start = scanner.at();
        scanner.skip()?;
        let end = scanner.at();
        match (key.raw, value) {
            (b"choices", b'[') => {
                no_choices = data[start + 1..end - 1].trim_ascii().is_empty();
            }
            (b"choices", first) => no_choices = first == b'n',
            (b"usage", b'{' | b'n') => match before {
                Some(comma) => *(if value == b'n' { &mut null } else { &mut usage }) = Some(comma..end),
                None => first = Some((key.at, value == b'n')),
            },
            (name, _) => more |= !FRAME.contains(&name),
        }
        before = Some(end);
        Ok(())
    })?;
    scanner.finish()?;
    Ok(match (usage, null) {
        (Some(_), _) if no_choices && !more => EventVerdict::Take,
        (Some(range), _) if no_choices => EventVerdict::Cut(range),
        (_, Some(range)) => EventVerdict::Cut(range),
        _ => EventVerdict::Keep,
    })
}

fn apply(event: &[u8], verdict: EventVerdict) -> Vec<u8> {
    match verdict {
        EventVerdict::Keep => event.to_vec(),
        EventVerdict::Take => Vec::new(),
        EventVerdict::Cut(range) => [&event[..range.start], &event[range.end..]].concat(),
    }
}

/// Output for one chunk: the chunk itself until something changes.
struct Out<'a> {
    chunk: &'a Bytes,
    /// Bytes of the chunk before this offset are in `built`, or cut.
    kept_from: usize,
    built: Vec<u8>,
}

impl Out<'_> {
    /// Removes a range, which must follow all earlier ones.
    fn cut(&mut self, range: Range<usize>) {
        self.built.extend_from_slice(&self.chunk[self.kept_from..range.start]);
        self.kept_from = range.end;
    }

    /// Inserts bytes before the offset `at`.
    fn insert(&mut self, bytes: &[u8], at: usize) {
        self.cut(at..at);
        self.built.extend_from_slice(bytes);
    }

    fn finish(mut self) -> Bytes {
        if self.built.is_empty() {
            return self.chunk.slice(self.kept_from..);
        }
        self.built.extend_from_slice(&self.chunk[self.kept_from..]);
        self.built.into()
    }
}
