//! Reads a stream of chat chunks: when content comes, and whether the stream ended properly.
//!
//! Searches for markers instead of parsing JSON, so that the generator costs little.

use memchr::{memchr, memmem};

/// Longest line that is buffered until its end arrives; the rest of a longer line is ignored.
const LONGEST_LINE: usize = 16 << 10;

/// State of a stream.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Start of a line that is not complete yet.
    line: Vec<u8>,
    /// Pieces of content so far; the simulated worker sends one per token.
    pub(crate) tokens: u32,
    /// `true` if `[DONE]` was read.
    pub(crate) done: bool,
    /// `true` if an error was read instead of content.
    pub(crate) failed: bool,
}

impl Reader {
    /// Consumes the next bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (head, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.line.is_empty() {
                self.read(head);
            } else {
                self.keep(head);
                let line = std::mem::take(&mut self.line);
                self.read(&line);
            }
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LONGEST_LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn read(&mut self, line: &[u8]) {
        const CONTENT: &[u8] = b"\"content\":\"";
        let Some(data) = line.strip_prefix(b"data: ") else { return };
        let data = data.trim_ascii_end();
        if data == b"[DONE]" {
            self.done = true;
        } else if data.starts_with(b"{\"error\"") {
            self.failed = true;
        } else if let Some(at) = memmem::find(data, CONTENT)
            && data.get(at + CONTENT.len()) != Some(&b'"')
        {
            // The first chunk, which gives the role, has empty content and is not a token.
            self.tokens += 1;
        }
    }
}

/// Returns the tokens of a non-streamed answer from its `usage`; `None` without one.
pub(crate) fn completion_tokens(answer: &[u8]) -> Option<u32> {
    const MARK: &[u8] = b"\"completion_tokens\":";
    let from = memmem::find(answer, MARK)? + MARK.len();
    let digits = answer[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&answer[from..from + digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"one \"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"two\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn however_it_is_cut_a_stream_reads_the_same() {
        for size in 1..STREAM.len() {
            let mut reader = Reader::default();
            STREAM.as_bytes().chunks(size).for_each(|piece| reader.feed(piece));
            assert_eq!((reader.tokens, reader.done, reader.failed), (2, true, false), "pieces of {size}");
        }
    }

    #[test]
    fn the_role_is_no_content_and_an_error_is_no_end() {
        let mut reader = Reader::default();
        reader.feed(&STREAM.as_bytes()[..60]);
        reader.feed(b"\n\n");
        assert_eq!(reader.tokens, 0);
        reader.feed(b"data: {\"error\":{\"message\":\"the worker broke off\"}}\n\n");
        assert_eq!((reader.tokens, reader.done, reader.failed), (0, false, true));
    }

    #[test]
    fn usage_is_found() {
        assert_eq!(
            completion_tokens(br#"{"usage":{"prompt_tokens":7,"completion_tokens":41,"total_tokens":48}}"#),
            Some(41)
        );
        assert_eq!(completion_tokens(b"{}"), None);
    }
}
