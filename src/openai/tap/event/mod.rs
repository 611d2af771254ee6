//! Reads one event of a stream.

use std::ops::Range;

use super::usage::Usage;
use crate::openai::scan::{JsonError, Scanner};
use crate::request::Blame;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamEvent {
    pub(super) deltas: u64,
    pub(super) finished: u32,
    /// Reported usage.
    pub(super) usage: Option<Usage>,
    /// Reported error, as who caused it.
    pub(super) error: Option<Blame>,
    /// `true` if it ends the stream.
    pub(super) done: bool,
    /// `true` if it belongs to the Messages API.
    pub(super) of_message: bool,
    /// `true` if a later event will say that the stream is over.
    pub(super) promises: bool,
    /// Number of choices, as far as this event shows them.
    pub(super) choices: u32,
    /// `true` if it is too long to be read.
    pub(super) unread: bool,
    /// `true` for `[DONE]`: it ends a stream and says nothing of an answer.
    pub(super) bare_end: bool,
}

impl StreamEvent {
    /// Data in an unknown format: counts as one token.
    pub(super) const UNKNOWN: Self = Self {
        deltas: 1,
        finished: 0,
        usage: None,
        error: None,
        done: false,
        of_message: false,
        promises: false,
        choices: 0,
        unread: false,
        bare_end: false,
    };

    /// Reads an event's data. `None` if it starts as an object but ends too early.
    pub(super) fn read(data: &[u8]) -> Option<Self> {
        Self::read_text(data).map(|(event, _)| event)
    }

    /// Like [`StreamEvent::read`]; also returns where the latest text is that is content, if any.
    pub(super) fn read_text(data: &[u8]) -> Option<(Self, Range<usize>)> {
        let event = match data.trim_ascii() {
            b"" => Self::default(),
            b"[DONE]" => Self { done: true, bare_end: true, ..Self::default() },
            [b'{', ..] => match EventReading::of(data) {
                Ok(read) => return Some(read),
                Err(JsonError::End) => return None,
                Err(_) => Self::UNKNOWN,
            },
            _ => Self::UNKNOWN,
        };
        Some((event, 0..0))
    }
}

/// Facts from the members of an event, in any order.
#[derive(Debug, Default)]
struct EventReading<'a> {
    event: StreamEvent,
    has_choices: bool,
    /// `true` if it has members.
    has_any: bool,
    kind: &'a [u8],
    has_delta: bool,
    /// `true` if a block begins that is neither text nor thinking: its start is content.
    opens: bool,
    /// `true` if it has the stop reason of the whole message.
    stops: bool,
    /// `true` if its error is `{}`: beside choices it was never set, alone it says that there is one.
    unset_error: bool,
    /// Cause by the code next to an error.
    code: Option<Blame>,
    /// The latest text that is content, without its quotes.
    text: Range<usize>,
}

impl<'a> EventReading<'a> {
    fn of(data: &'a [u8]) -> Result<(StreamEvent, Range<usize>), JsonError> {
        let mut reading = Self::default();
        let mut scanner = Scanner::new(data);
        scanner.object::<JsonError>(|scanner, key| {
            reading.has_any = true;
            match key.raw {
                b"choices" => reading.choices(scanner)?,
                b"usage" => reading.event.usage = Usage::read(scanner)?.or(reading.event.usage),
                b"type" => reading.kind = string(scanner)?,
                b"delta" => reading.delta(scanner)?,
                b"content_block" => reading.opens = starts_with_content(scanner)?,
                b"response" | b"message" => reading.inner(scanner)?,
                // A vendor's own member, in which some put usage.
                name if name.starts_with(b"x_") => reading.inner(scanner)?,
                b"error" => {
                    let is_object = scanner.peek()? == b'{';
                    let error = error(scanner)?;
                    reading.unset_error |= is_object && error.is_none();
                    reading.event.error = error.or(reading.event.error);
                }
                b"code" => reading.code = code(scanner)?,
                b"object" => {
                    let is_error = string(scanner)? == b"error";
                    reading.event.error = reading.event.error.or(is_error.then_some(Blame::Worker));
                }
                _ => scanner.skip()?,
            }
            Ok(())
        })?;
        scanner.finish()?;
        let text = std::mem::take(&mut reading.text);
        Ok((reading.finish(), text))
    }

    /// Reads a value that is content if it is not empty, and returns whether it is.
    fn content(&mut self, scanner: &mut Scanner<'_>) -> Result<bool, JsonError> {
        let (first, start) = (scanner.peek()?, scanner.at());
        let full = is_full(scanner)?;
        if full && first == b'"' {
            self.text = start + 1..scanner.at() - 1;
        }
        Ok(full)
    }

    /// Returns `true` if a member of a delta is content: not empty, and not just a label of its part.
    fn is_content(&mut self, name: &[u8], scanner: &mut Scanner<'_>) -> Result<bool, JsonError> {
        match name {
            b"role" | b"type" | b"index" => scanner.skip().map(|()| false),
            _ => self.content(scanner),
        }
    }

    /// Returns `true` if any member of a delta is content.
    fn bears_content(&mut self, scanner: &mut Scanner<'_>) -> Result<bool, JsonError> {
        if scanner.peek()? != b'{' {
            return self.content(scanner);
        }
        let mut content = false;
        scanner.object::<JsonError>(|scanner, key| {
            content |= self.is_content(key.raw, scanner)?;
            Ok(())
        })?;
        Ok(content)
    }

    /// Reads chat and completions: one delta per choice with content.
    fn choices(&mut self, scanner: &mut Scanner<'a>) -> Result<(), JsonError> {
        self.has_choices = true;
        if scanner.peek()? != b'[' {
            return scanner.skip();
        }
        let mut place = 0;
        scanner.array(|scanner| {
            if scanner.peek()? != b'{' {
                return scanner.skip();
            }
            place += 1;
            let (mut full, mut finished, mut number) = (false, false, place);
            scanner.object::<JsonError>(|scanner, key| {
                match key.raw {
                    b"text" => full |= self.content(scanner)?,
                    b"finish_reason" => {
                        self.event.promises |= scanner.peek()? == b'n';
                        finished |= !string(scanner)?.is_empty();
                    }
                    b"delta" | b"message" => full |= self.bears_content(scanner)?,
                    b"index" => number = index(scanner)?.map_or(place, |index| index.saturating_add(1)),
                    b"usage" => self.event.usage = Usage::read(scanner)?.or(self.event.usage),
                    _ => scanner.skip()?,
                }
                Ok(())
            })?;
            self.event.deltas += u64::from(full);
            self.event.finished += u32::from(finished);
            self.event.choices = self.event.choices.max(number);
            Ok(())
        })
    }

    /// Reads the delta of a response's or a message's event.
    fn delta(&mut self, scanner: &mut Scanner<'a>) -> Result<(), JsonError> {
        if scanner.peek()? != b'{' {
            self.has_delta = self.content(scanner)?;
            return Ok(());
        }
        scanner.object(|scanner, key| match key.raw {
            b"stop_reason" => {
                self.stops = !string(scanner)?.is_empty();
                Ok(())
            }
            _ => {
                self.has_delta |= self.is_content(key.raw, scanner)?;
                Ok(())
            }
        })
    }

    /// Reads the response or message so far.
    fn inner(&mut self, scanner: &mut Scanner<'a>) -> Result<(), JsonError> {
        if scanner.peek()? != b'{' {
            return scanner.skip();
        }
        scanner.object(|scanner, key| {
            match key.raw {
                b"usage" => self.event.usage = Usage::read(scanner)?.or(self.event.usage),
                // Set for a response that failed, else null.
                b"error" => self.event.error = error(scanner)?.or(self.event.error),
                _ => scanner.skip()?,
            }
            Ok(())
        })
    }

    fn finish(self) -> StreamEvent {
        let mut event = self.event;
        if self.unset_error && !self.has_choices {
            event.error = event.error.or(Some(Blame::Worker));
        }
        event.of_message = self.kind.starts_with(b"message_") || self.kind.starts_with(b"content_block_");
        event.promises |= event.of_message;
        match self.kind {
            kind if let Some(known) = by_kind(kind) => {
                let empty = kind.ends_with(b".delta") && !self.has_delta;
                event.deltas += if empty { 0 } else { known.deltas };
                event.done = known.done;
                event.promises = known.promises;
                event.error = event.error.or(known.error);
            }
            b"error" => event.error = event.error.or(Some(Blame::Worker)),
            b"content_block_start" => event.deltas += u64::from(self.opens),
            b"content_block_delta" => event.deltas += u64::from(self.has_delta),
            b"message_delta" => event.finished += u32::from(self.stops),
            b"message_stop" => event.done = true,
            b"message_start" | b"content_block_stop" | b"ping" | b"keepalive" => {}
            _ if self.has_any && !self.has_choices && event.error.is_none() && event.usage.is_none() => {
                event.deltas = 1;
            }
            _ => {}
        }
        if let (Some(_), Some(blame)) = (event.error, self.code) {
            event.error = Some(blame);
        }
        event
    }
}

/// Returns what the kind of an event says by itself, of the kinds of the Responses API and of those that
/// end a stream of sound, of its text or of a picture; `None` of all others.
pub(super) fn by_kind(kind: &[u8]) -> Option<StreamEvent> {
    let (deltas, done, error) = match kind {
        b"response.completed" | b"response.incomplete" => (0, true, None),
        b"response.failed" | b"response.cancelled" => (0, true, Some(Blame::Worker)),
        b"transcript.text.done" | b"speech.audio.done" => (0, true, None),
        b"image_generation.completed" | b"image_edit.completed" => (1, true, None),
        kind if kind.starts_with(b"response.") => {
            let content = kind.ends_with(b".delta") || kind.ends_with(b".partial_image");
            (u64::from(content), false, None)
        }
        _ => return None,
    };
    let promises = kind.starts_with(b"response.");
    Some(StreamEvent { deltas, done, error, promises, ..StreamEvent::default() })
}

/// As [`by_kind`], for the beginning of an event's data or of its line, if `type` is its first member.
pub(super) fn by_type(beginning: &[u8]) -> Option<StreamEvent> {
    let mut rest = beginning.strip_prefix(b"data:").unwrap_or(beginning);
    for part in [&b"{"[..], b"\"type\"", b":", b"\""] {
        rest = rest.trim_ascii_start().strip_prefix(part)?;
    }
    by_kind(rest.split(|byte| *byte == b'"').next()?)
}

/// Reads a value and returns `true` if it is not empty: null, `""`, `[]` and `{}` are.
fn is_full(scanner: &mut Scanner<'_>) -> Result<bool, JsonError> {
    let first = scanner.peek()?;
    let start = scanner.at();
    scanner.skip()?;
    let value = scanner.since(start);
    let inside = value.get(1..value.len().saturating_sub(1)).unwrap_or_default();
    Ok(match first {
        b'"' => !inside.is_empty(),
        b'[' | b'{' => !inside.trim_ascii().is_empty(),
        b'n' => false,
        _ => true,
    })
}

/// Reads the number of a choice, which begins with 0; `None` if it is no such number.
fn index(scanner: &mut Scanner<'_>) -> Result<Option<u32>, JsonError> {
    match scanner.peek()? {
        b'0'..=b'9' => Ok(scanner.number()?.parse().ok()),
        _ => scanner.skip().map(|()| None),
    }
}

/// Returns `true` if the start of a block is content, as of a tool call; text comes later.
fn starts_with_content(scanner: &mut Scanner<'_>) -> Result<bool, JsonError> {
    if scanner.peek()? != b'{' {
        return scanner.skip().map(|()| false);
    }
    let mut kind: &[u8] = b"";
    scanner.object::<JsonError>(|scanner, key| {
        match key.raw {
            b"type" => kind = string(scanner)?,
            _ => scanner.skip()?,
        }
        Ok(())
    })?;
    Ok(!matches!(kind, b"text" | b"thinking" | b""))
}

/// Reads the value of `error` and returns who caused it; `None` if it holds no error.
pub(super) fn error(scanner: &mut Scanner<'_>) -> Result<Option<Blame>, JsonError> {
    match scanner.peek()? {
        b'{' => {}
        b'f' => return scanner.skip().map(|()| None),
        _ => return Ok(is_full(scanner)?.then_some(Blame::Worker)),
    }
    // An object without members is an error that was never set.
    let (mut is_set, mut blame) = (false, None);
    scanner.object::<JsonError>(|scanner, key| {
        is_set = true;
        match key.raw {
            b"code" | b"status" | b"status_code" => blame = code(scanner)?.or(blame),
            b"type" => {
                let kind = string(scanner)?;
                let asked =
                    matches!(kind, b"invalid_request_error" | b"BadRequestError" | b"not_found_error");
                blame = asked.then_some(Blame::Client).or(blame);
            }
            _ => scanner.skip()?,
        }
        Ok(())
    })?;
    Ok(is_set.then(|| blame.unwrap_or(Blame::Worker)))
}

/// Returns who caused an error status, a number or string; `None` if it is no such status.
fn code(scanner: &mut Scanner<'_>) -> Result<Option<Blame>, JsonError> {
    let digits = match scanner.peek()? {
        b'"' => scanner.string()?.raw,
        b'0'..=b'9' => scanner.number()?.as_bytes(),
        _ => return scanner.skip().map(|()| None),
    };
    let status = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u16>().ok());
    Ok(match status {
        // 429 and 408 are about the worker's own state.
        Some(408 | 429 | 500..=599) => Some(Blame::Worker),
        Some(400..=499) => Some(Blame::Client),
        _ => None,
    })
}

/// Reads a value and returns the bytes between its quotes; empty if it is no string.
fn string<'a>(scanner: &mut Scanner<'a>) -> Result<&'a [u8], JsonError> {
    match scanner.peek()? {
        b'"' => Ok(scanner.string()?.raw),
        _ => scanner.skip().map(|()| &b""[..]),
    }
}

#[cfg(test)]
mod tests;
