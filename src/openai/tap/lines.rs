//! Finds the lines of an event stream: they end at LF, CR or CRLF, also across chunks.

use memchr::memchr2;

/// Meaning of the next bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineStep {
    /// One LF that belongs to the CR at the end of the chunk before.
    Rest,
    /// The rest of a line; `total` is its length with the line end.
    Line {
        content: usize,
        total: usize,
    },
    Open,
}

/// Finds line ends. A CR ends a line at once, so nothing waits for an LF that may never come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LineFinder {
    after_cr: bool,
}

impl LineFinder {
    /// Returns the first step in `bytes`, which must be non-empty and follow the previous step.
    pub(super) fn step(&mut self, bytes: &[u8]) -> LineStep {
        if std::mem::take(&mut self.after_cr) && bytes.first() == Some(&b'\n') {
            return LineStep::Rest;
        }
        let Some(content) = memchr2(b'\n', b'\r', bytes) else { return LineStep::Open };
        let cr = bytes.get(content) == Some(&b'\r');
        let crlf = cr && bytes.get(content + 1) == Some(&b'\n');
        self.after_cr = cr && content + 1 == bytes.len();
        LineStep::Line { content, total: content + 1 + usize::from(crlf) }
    }
}

/// Returns the value if the line is the field `name`, without the one space after the colon.
pub(super) fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    if rest.is_empty() {
        return Some(rest);
    }
    let value = rest.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// Removes a UTF-8 byte order mark, which some systems write. JSON does not allow it.
pub(crate) fn without_mark(line: &[u8]) -> &[u8] {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
}
