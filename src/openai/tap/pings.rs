//! Separates keep-alive bytes of a stream from its content.

use super::lines::{LineFinder, LineStep, field};
use crate::openai::scan::{JsonError, Scanner};

/// Splits an event stream in two: keep-alive (comments, and events named `ping`) and all else, each
/// in order. Returns whole lines and whole events only.
#[derive(Debug, Default)]
pub(crate) struct Pings {
    lines: LineFinder,
    /// Current line as far as it has come.
    line: Vec<u8>,
    /// Whole lines of the current event.
    event: Vec<u8>,
    is_ping: bool,
    last: LineSide,
}

/// Destination of the latest line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LineSide {
    KeepAlive,
    #[default]
    Rest,
    Event,
}

/// The two parts of a piece of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    /// Comments and pings.
    pub keep_alive: Vec<u8>,
    /// Everything else.
    pub rest: Vec<u8>,
}

impl Pings {
    /// Splits the next bytes, cut anywhere. Keeps a line or event that is not complete.
    pub(crate) fn split(&mut self, chunk: &[u8]) -> Split {
        let mut parted = Split::default();
        let mut rest = chunk;
        while !rest.is_empty() {
            match self.lines.step(rest) {
                LineStep::Rest => {
                    self.side(&mut parted, self.last).push(b'\n');
                    rest = &rest[1..];
                }
                LineStep::Line { content, total } => {
                    let mut line = std::mem::take(&mut self.line);
                    let length = line.len() + content;
                    line.extend_from_slice(&rest[..total]);
                    self.whole_line(&line, length, &mut parted);
                    line.clear();
                    self.line = line;
                    rest = &rest[total..];
                }
                LineStep::Open => {
                    self.line.extend_from_slice(rest);
                    break;
                }
            }
        }
        parted
    }

    /// Returns the bytes kept, when the stream need no longer be split.
    #[must_use]
    pub(crate) fn finish(self) -> Vec<u8> {
        [self.event, self.line].concat()
    }

    /// Returns the number of bytes kept.
    #[must_use]
    pub(crate) const fn kept(&self) -> usize {
        self.event.len() + self.line.len()
    }

    const fn side<'s>(&'s mut self, parted: &'s mut Split, side: LineSide) -> &'s mut Vec<u8> {
        match side {
            LineSide::KeepAlive => &mut parted.keep_alive,
            LineSide::Rest => &mut parted.rest,
            LineSide::Event => &mut self.event,
        }
    }

    /// Takes a line whose content is its first `length` bytes.
    fn whole_line(&mut self, line: &[u8], length: usize, parted: &mut Split) {
        let content = &line[..length];
        let outside = self.event.is_empty();
        self.last = match content.first() {
            Some(b':') if outside => LineSide::KeepAlive,
            // The empty line after a comment belongs to it.
            None if outside && self.last == LineSide::KeepAlive => LineSide::KeepAlive,
            None if outside => LineSide::Rest,
            _ => LineSide::Event,
        };
        if let Some(name) = field(content, b"event") {
            self.is_ping = name.trim_ascii() == b"ping";
        } else if let Some(data) = field(content, b"data") {
            self.is_ping |= is_ping(data);
        }
        let last = self.last;
        self.side(parted, last).extend_from_slice(line);
        if content.is_empty() && !outside {
            self.last = if std::mem::take(&mut self.is_ping) { LineSide::KeepAlive } else { LineSide::Rest };
            let event = std::mem::take(&mut self.event);
            let last = self.last;
            self.side(parted, last).extend_from_slice(&event);
        }
    }
}

/// Returns `true` if the data themselves say that they are a ping.
fn is_ping(data: &[u8]) -> bool {
    let mut scanner = Scanner::new(data);
    let mut ping = false;
    let read = scanner.object::<JsonError>(|scanner, key| match (key.raw, scanner.peek()?) {
        (b"type", b'"') => {
            ping = scanner.string()?.raw == b"ping";
            Ok(())
        }
        _ => scanner.skip(),
    });
    read.is_ok() && ping
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMENT: &str = ": still here\n\n";
    const PING: &str = "event: ping\ndata: {\"type\":\"ping\"}\n\n";
    const DATED: &str = "event: ping\ndata: 2026-01-01\n\n";
    const BARE: &str = "data: {\"at\":1,\"type\":\"ping\"}\n\n";
    const ROLE: &str = "id: 1\n: within\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n";
    const START: &str = "event: message_start\ndata: {\"type\":\"message_start\"}\n\n";

    #[test]
    fn comments_and_pings_are_parted_from_all_else_for_every_cut() {
        let stream = [COMMENT, ROLE, PING, COMMENT, DATED, START, BARE, "\n", COMMENT].concat();
        let keep_alive = [COMMENT, PING, COMMENT, DATED, BARE, "\n", COMMENT].concat();
        let rest = [ROLE, START].concat();
        for end in ["\n", "\r", "\r\n"] {
            let [stream, keep_alive, rest] =
                [&stream, &keep_alive, &rest].map(|text| text.replace('\n', end));
            for length in 1..stream.len() {
                let (mut pings, mut whole) = (Pings::default(), Split::default());
                for piece in stream.as_bytes().chunks(length) {
                    let Split { keep_alive, rest } = pings.split(piece);
                    whole.keep_alive.extend(keep_alive);
                    whole.rest.extend(rest);
                }
                assert_eq!(pings.kept(), 0);
                assert_eq!(
                    String::from_utf8(whole.keep_alive).unwrap(),
                    keep_alive,
                    "{end:?} in pieces of {length}"
                );
                assert_eq!(String::from_utf8(whole.rest).unwrap(), rest, "{end:?} in pieces of {length}");
            }
        }
    }

    #[test]
    fn what_is_not_over_is_kept() {
        let mut pings = Pings::default();
        assert_eq!(pings.split(b": half a com"), Split::default());
        assert_eq!(pings.split(b"ment\nevent: ping\nda").keep_alive, b": half a comment\n");
        assert_eq!(pings.kept(), 14);
        assert_eq!(pings.finish(), b"event: ping\nda");
    }
}
