//! Where the lines of an event stream end: at LF, CR or CRLF, over chunk boundaries.

use memchr::memchr2;

/// What the next bytes of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// One LF that belongs to the CR at the end of the chunk before.
    Rest,
    /// The rest of a line, and how many bytes it is with its line end.
    Line { content: usize, total: usize },
    /// No line ends in these bytes.
    Open,
}

/// Finds line ends. A CR ends a line at once, so that nothing waits for a LF that may never come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LineFinder {
    after_cr: bool,
}

impl LineFinder {
    /// The first step in `bytes`, which must not be empty and follow right on the step before.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Step {
        if std::mem::take(&mut self.after_cr) && bytes.first() == Some(&b'\n') {
            return Step::Rest;
        }
        let Some(content) = memchr2(b'\n', b'\r', bytes) else { return Step::Open };
        let cr = bytes.get(content) == Some(&b'\r');
        let crlf = cr && bytes.get(content + 1) == Some(&b'\n');
        self.after_cr = cr && content + 1 == bytes.len();
        Step::Line { content, total: content + 1 + usize::from(crlf) }
    }
}

/// The value of a line's field `name`, when it is that field: without the one space that may follow the colon.
pub(super) fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    if rest.is_empty() {
        return Some(rest);
    }
    let value = rest.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// A text without the byte order mark that some systems write before UTF-8. JSON has no place for it.
pub(crate) fn without_mark(line: &[u8]) -> &[u8] {
    line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
}
