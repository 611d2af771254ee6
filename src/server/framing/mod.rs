//! Finds the ends of HTTP/1.1 requests, and framing that two parsers could read differently.
//!
//! Request smuggling exploits such differences. Hyper refuses most of them (folded lines, blanks
//! before a colon, lengths that are no plain number or contradict each other, `Transfer-Encoding`
//! in HTTP/1.0 or without a final `chunked`). One it resolves silently: given `Transfer-Encoding`
//! and `Content-Length`, it drops the length, so the application cannot see it. [`FramingScanner`]
//! follows the raw bytes and reports that; [`fault`] checks the parsed head. If the scanner loses
//! track, the connection takes no more requests with `Transfer-Encoding`: they might have had a
//! length.
//!
//! On HTTP/2 the scanner follows frames instead, for the head timeout ([`super::head_timeout`]).

mod fault;
mod host;

pub(super) use fault::fault;

use http::request::Parts;
use memchr::memchr;
use smallvec::SmallVec;

use super::frames::Frames;
use crate::openai::dialect::Dialect;

/// Bytes kept of a line split between reads: enough for the longest relevant name and its value.
const KEPT_OF_A_LINE: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScanState {
    /// In a head, or before one.
    Head,
    /// In a line with a chunk's size.
    Size,
    /// In the line end after a chunk.
    ChunkEnd,
    /// In the lines after the last chunk.
    Trailers,
    Body {
        left: u64,
        chunked: bool,
    },
    Frames,
    /// Not scanning any more: an upgrade, or unintelligible bytes.
    Off,
}

/// Framing problem in the bytes read last that the application cannot see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    None,
    BothLengths,
    /// Framing that the scanner cannot follow.
    Untracked,
}

/// Maximum number of header fields in a head of HTTP/1.1. It is hyper's own: more would cost it an
/// allocation per request, and no client sends as many.
pub(super) const MAX_FIELDS: usize = 100;
/// Largest `Content-Length` that hyper follows. One that 64 bits cannot hold it takes for no number.
const MAX_LENGTH: u64 = u64::MAX - 2;

/// Why hyper refuses a head that is not longer than `bounds.headers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadExcess {
    /// More than [`MAX_FIELDS`] header fields.
    Fields,
    /// A `Content-Length` above [`MAX_LENGTH`].
    Length,
}

/// Follows the raw bytes of an HTTP/1.1 connection from head to head.
#[derive(Debug)]
pub(super) struct FramingScanner {
    at: ScanState,
    line: SmallVec<[u8; KEPT_OF_A_LINE]>,
    /// `true` if `line` is truncated.
    truncated: bool,
    head_timeout: u64,
    begun: bool,
    has_transfer_encoding: bool,
    sized: Option<Option<u64>>,
    /// Complete header fields of the head that has begun.
    fields: usize,
    /// Of the first head that has one: hyper takes no request after it.
    excess: Option<HeadExcess>,
    /// In whose words the last head is refused that has begun.
    dialect: Dialect,
    frames: Frames,
}

impl FramingScanner {
    pub(super) fn new() -> Self {
        Self {
            at: ScanState::Head,
            line: SmallVec::new(),
            truncated: false,
            head_timeout: 0,
            begun: false,
            has_transfer_encoding: false,
            sized: None,
            fields: 0,
            excess: None,
            dialect: Dialect::OpenAi,
            frames: Frames::default(),
        }
    }

    pub(super) fn stop(&mut self) {
        self.at = ScanState::Off;
    }

    /// Returns `true` if a head has begun and is not complete.
    pub(super) fn in_head(&self) -> bool {
        match self.at {
            ScanState::Head => self.begun || !self.line.is_empty(),
            ScanState::Frames => self.frames.in_head(),
            _ => false,
        }
    }

    /// Returns `true` if more of a request may follow, or if the scanner has lost track.
    pub(super) fn may_have_more(&self) -> bool {
        self.at != ScanState::Head || self.in_head()
    }

    /// Returns `true` if no head is complete yet.
    pub(super) fn is_first(&self) -> bool {
        self.at == ScanState::Head && self.head_timeout == 0
    }

    /// Returns why hyper refuses the last head that it read, if the reason is not its length in bytes.
    pub(super) fn excess(&self) -> Option<HeadExcess> {
        // Hyper does not wait for the end of a field that is one too many.
        let begun = usize::from(self.begun && !self.line.is_empty());
        self.excess.or((self.fields + begun > MAX_FIELDS).then_some(HeadExcess::Fields))
    }

    /// Returns in whose words the last head is refused; its path may still be incomplete.
    pub(super) fn dialect(&self) -> Dialect {
        let is_first_line = self.at == ScanState::Head && !self.begun && !self.line.is_empty();
        if is_first_line { dialect_of(&self.line) } else { self.dialect }
    }

    /// Takes the bytes read next.
    pub(super) fn scan(&mut self, mut bytes: &[u8]) -> Finding {
        while !bytes.is_empty() {
            match self.at {
                ScanState::Off => break,
                ScanState::Frames => {
                    self.frames.scan(bytes);
                    break;
                }
                ScanState::Body { left, chunked } => {
                    let here = left.min(bytes.len() as u64);
                    bytes = bytes.get(here as usize..).unwrap_or_default();
                    self.at = match (left - here, chunked) {
                        (0, true) => ScanState::ChunkEnd,
                        (0, false) => ScanState::Head,
                        (left, chunked) => ScanState::Body { left, chunked },
                    };
                    continue;
                }
                ScanState::Head | ScanState::Size | ScanState::ChunkEnd | ScanState::Trailers => {}
            }
            let Some(end) = memchr(b'\n', bytes) else {
                self.keep(bytes);
                break;
            };
            let (line, rest) =
                (bytes.get(..end).unwrap_or_default(), bytes.get(end + 1..).unwrap_or_default());
            bytes = rest;
            let finding = if self.line.is_empty() {
                self.finish_line(line, false)
            } else {
                self.keep(line);
                let (whole, cut) = (std::mem::take(&mut self.line), std::mem::take(&mut self.truncated));
                self.finish_line(&whole, cut)
            };
            if finding != Finding::None {
                self.stop();
                return finding;
            }
        }
        Finding::None
    }

    fn keep(&mut self, part: &[u8]) {
        let room = KEPT_OF_A_LINE - self.line.len();
        self.truncated |= part.len() > room;
        self.line.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
    }

    /// `cut`: `line` is truncated. A length in it is then unknown.
    fn finish_line(&mut self, line: &[u8], cut: bool) -> Finding {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.at {
            ScanState::Head if !self.begun => {
                // Empty lines before a request line are skipped, as hyper does.
                self.begun = !line.is_empty();
                if self.begun {
                    self.dialect = dialect_of(line);
                }
                if line == b"PRI * HTTP/2.0" && self.head_timeout == 0 {
                    self.begun = false;
                    self.at = ScanState::Frames;
                }
            }
            ScanState::Head if line.is_empty() => return self.finish_head(),
            ScanState::Head => self.note_field(line, cut),
            ScanState::Size => return self.note_size(line, cut),
            ScanState::ChunkEnd => self.at = ScanState::Size,
            ScanState::Trailers if line.is_empty() => self.at = ScanState::Head,
            ScanState::Trailers | ScanState::Body { .. } | ScanState::Frames | ScanState::Off => {}
        }
        Finding::None
    }

    fn note_field(&mut self, line: &[u8], cut: bool) {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            self.excess.get_or_insert(HeadExcess::Fields);
        }
        // Most lines begin with another letter and cost only this check.
        match line.first().map(u8::to_ascii_lowercase) {
            Some(b't') => self.has_transfer_encoding |= value_of(line, "transfer-encoding").is_some(),
            Some(b'c') => {
                if let Some(value) = value_of(line, "content-length") {
                    let digits = std::str::from_utf8(value).ok().filter(|_| !cut);
                    let length: Option<u64> = digits.and_then(|digits| digits.parse().ok());
                    if length.is_some_and(|length| length > MAX_LENGTH) {
                        self.excess.get_or_insert(HeadExcess::Length);
                    }
                    self.sized = Some(length);
                }
            }
            _ => {}
        }
    }

    fn finish_head(&mut self) -> Finding {
        self.head_timeout += 1;
        (self.begun, self.fields) = (false, 0);
        let (coded, sized) = (std::mem::take(&mut self.has_transfer_encoding), self.sized.take());
        self.at = match (coded, sized) {
            (true, Some(_)) => return Finding::BothLengths,
            (true, None) => ScanState::Size,
            (false, Some(Some(0)) | None) => ScanState::Head,
            (false, Some(Some(left))) => ScanState::Body { left, chunked: false },
            (false, Some(None)) => return Finding::Untracked,
        };
        Finding::None
    }

    fn note_size(&mut self, line: &[u8], cut: bool) -> Finding {
        let digits = line.split(|byte| !byte.is_ascii_hexdigit()).next().unwrap_or_default();
        // A line cut within its digits may have more of them.
        let whole = !cut || digits.len() < line.len();
        let digits = std::str::from_utf8(digits).ok().filter(|_| whole);
        self.at = match digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
            Some(0) => ScanState::Trailers,
            Some(left) => ScanState::Body { left, chunked: true },
            None => return Finding::Untracked,
        };
        Finding::None
    }
}

/// Returns the dialect of the path in a request line.
fn dialect_of(line: &[u8]) -> Dialect {
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    std::str::from_utf8(path).map_or(Dialect::OpenAi, Dialect::at)
}

fn value_of<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (field, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    field.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
}

/// Error message for a head beyond [`MAX_FIELDS`].
pub(super) const MANY_FIELDS: &str = "the request has more than 100 header fields";
/// Error message for a `Content-Length` beyond [`MAX_LENGTH`].
pub(super) const LARGE_BODY: &str = "the body that Content-Length announces is too large";
/// Error message for a head beyond `bounds.headers`.
pub(super) const LONG_HEAD: &str = "the request's head exceeds bounds.headers";

/// Returns the bytes of a parsed head as written in HTTP/1.1, without optional blanks.
pub(super) fn head_length(parts: &Parts) -> usize {
    const LINE: usize = "  HTTP/1.1\r\n".len();
    const FIELD: usize = ": \r\n".len();
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    parts.method.as_str().len() + target + LINE + fields.sum::<usize>()
}

#[cfg(test)]
mod tests;
