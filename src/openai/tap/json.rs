//! Observer of JSON responses: finds usage, the error if the response is one, and the end of JSON lines.

use memchr::memchr2;

use super::event::error;
use super::usage::Usage;
use crate::openai::scan::Scanner;
use crate::request::Blame;

/// Longest `usage` or `error` object that is read, in bytes; beyond it the response has no usage.
const BOUND: usize = 16 * 1024;
/// Bytes of a name that are kept: more than the longest name searched for.
const NAME_BOUND: usize = 20;

/// Finds `usage` and `error` of a JSON response as it passes, in constant memory.
///
/// `error` is a member of the response, `usage` a member of it, of its `response` or `message` or of a
/// vendor's own (`x_groq`); `prompt_eval_count` and `eval_count` are Ollama's. The observer tracks strings and brackets and checks nothing else: it does
/// not validate responses. Each document of a sequence, as in JSON lines, is read in the same way.
#[derive(Debug, Default)]
pub struct JsonTap {
    /// Number of open arrays and objects.
    depth: u32,
    /// Depth of the object whose members are read: 1 for the response, 2 within `response`.
    level: u32,
    place: JsonPlace,
    /// Latest name at this level.
    name: Vec<u8>,
    /// Bytes of `usage` or `error` so far, while inside it.
    found: Option<Vec<u8>>,
    usage: Option<Usage>,
    error: Option<Blame>,
    /// `true` once a document with `"done": true` has ended: the last line of a response of Ollama's
    /// API.
    done: bool,
    /// `true` if the open document has `"done": true`.
    says_done: bool,
    /// `true` if a document had `"done": false`: one with `true` will be the last.
    promises_end: bool,
    /// `true` if the error is a string of which no byte has come.
    error_begins: bool,
    /// `true` once an object had a member.
    has_members: bool,
    /// Tokens of the open document as Ollama's API names them.
    own_counts: Usage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum JsonPlace {
    /// Before the first bracket of a document.
    #[default]
    Before,
    /// Outside of strings, where a name of this level may follow.
    Names,
    /// Outside of strings, elsewhere.
    Values,
    /// In a string: `name` if it is a name of this level, `escaped` after a backslash.
    Text { name: bool, escaped: bool },
    /// In a document that is not an object: the rest is not read.
    Ignored,
}

/// Returns `true` for bytes outside of strings that matter; within a value (`deep`) fewer do.
const fn is_structure(byte: u8, deep: bool) -> bool {
    matches!(byte, b'"' | b'{' | b'}' | b'[' | b']')
        || (!deep && matches!(byte, b',' | b't' | b'f' | b'0'..=b'9'))
}

/// Returns `true` for members of a response that may hold its usage.
fn holds_usage(name: &[u8]) -> bool {
    matches!(name, b"response" | b"message") || name.starts_with(b"x_")
}

impl JsonTap {
    /// Creates an observer for the start of a response.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the usage found so far.
    #[must_use]
    pub const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Returns who caused the error that the response reports, if it is one.
    #[must_use]
    pub(crate) const fn error(&self) -> Option<Blame> {
        self.error
    }

    /// Returns `true` if a document with `"done": true` has ended: the answer is complete.
    #[must_use]
    pub(crate) const fn done(&self) -> bool {
        self.done
    }

    /// Returns `true` if a document has shown that one with `"done": true` will be the last.
    #[must_use]
    pub(crate) const fn promises_end(&self) -> bool {
        self.promises_end
    }

    /// Returns `true` once an object had a member: `{}`, `null`, `[]` and plain text say nothing.
    #[must_use]
    pub(crate) const fn has_members(&self) -> bool {
        self.has_members
    }

    /// Reads the next bytes, cut anywhere.
    pub fn feed(&mut self, chunk: &[u8]) {
        let from = self.scan(chunk);
        if self.found.is_some() {
            self.keep(chunk.get(from..).unwrap_or_default());
        }
    }

    /// Reads the bytes. If they end inside `usage` or `error`, returns the index of the first byte that
    /// is not kept yet.
    fn scan(&mut self, chunk: &[u8]) -> usize {
        let (mut at, mut from) = (0, 0);
        while let Some(&byte) = chunk.get(at) {
            match self.place {
                JsonPlace::Ignored => break,
                JsonPlace::Text { .. } if self.error_begins => {
                    self.error_begins = false;
                    if byte != b'"' {
                        self.error = Some(Blame::Worker);
                    }
                    self.text(byte, false, false);
                }
                JsonPlace::Text { name, escaped: false } => {
                    // The bulk of a response: skip to the next byte that could end the string.
                    let rest = chunk.get(at..).unwrap_or_default();
                    let skipped = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                    self.skip_text(rest.get(..skipped).unwrap_or_default(), name);
                    at += skipped;
                    let Some(&end) = rest.get(skipped) else { break };
                    self.text(end, name, false);
                }
                JsonPlace::Text { name, escaped } => self.text(byte, name, escaped),
                JsonPlace::Before => self.before(byte),
                JsonPlace::Names | JsonPlace::Values => {
                    let rest = chunk.get(at..).unwrap_or_default();
                    // Mostly numbers: an embedding has thousands.
                    let deep = self.depth > self.level;
                    let skipped =
                        rest.iter().position(|byte| is_structure(*byte, deep)).unwrap_or(rest.len());
                    at += skipped;
                    let Some(&next) = rest.get(skipped) else { break };
                    let open = self.found.is_some();
                    if open && self.depth == self.level + 1 && matches!(next, b'}' | b']') {
                        self.keep(chunk.get(from..=at).unwrap_or_default());
                    }
                    self.structure(next);
                    if !open {
                        from = at + 1;
                    }
                }
            }
            at += 1;
        }
        from
    }

    fn before(&mut self, byte: u8) {
        match byte {
            b'{' => {
                (self.depth, self.level) = (1, 1);
                self.place = JsonPlace::Names;
            }
            b'[' | b'"' => self.place = JsonPlace::Ignored,
            _ => {}
        }
    }

    fn structure(&mut self, byte: u8) {
        let here = self.depth == self.level;
        match byte {
            b'"' => {
                let name = here && self.place == JsonPlace::Names;
                self.error_begins = here && !name && self.is_error();
                if name {
                    self.name.clear();
                    self.has_members = true;
                }
                self.place = JsonPlace::Text { name, escaped: false };
            }
            b',' => self.place = JsonPlace::Names,
            b'{' | b'[' => self.opened(byte, here),
            b'}' | b']' => self.closed(),
            b'0'..=b'9' if here && self.place == JsonPlace::Values => self.digit(byte - b'0'),
            b't' | b'f' if here && self.place == JsonPlace::Values && self.name == b"done" => {
                self.says_done |= byte == b't';
                self.promises_end |= byte == b'f';
            }
            _ => {}
        }
    }

    /// Reads the next digit of a number that is a value of this level.
    fn digit(&mut self, digit: u8) {
        let count = match self.name.as_slice() {
            b"prompt_eval_count" => &mut self.own_counts.prompt,
            b"eval_count" => &mut self.own_counts.output,
            _ => return,
        };
        *count = count.saturating_mul(10).saturating_add(digit.into());
    }

    fn opened(&mut self, bracket: u8, here: bool) {
        self.depth = self.depth.saturating_add(1);
        if !here || bracket != b'{' {
            return;
        }
        match self.name.as_slice() {
            b"usage" => self.found = Some(vec![bracket]),
            b"error" if self.level == 1 => self.found = Some(vec![bracket]),
            name if self.level == 1 && holds_usage(name) => {
                self.level = 2;
                self.place = JsonPlace::Names;
            }
            _ => {}
        }
    }

    fn closed(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if self.depth == self.level
            && let Some(found) = self.found.take()
        {
            let mut scanner = Scanner::new(&found);
            if self.is_error() {
                self.error = error(&mut scanner).ok().flatten().or(self.error);
            } else {
                self.usage = Usage::read(&mut scanner).ok().flatten().or(self.usage);
            }
        } else if self.depth < self.level {
            self.level = self.depth;
            self.place = JsonPlace::Values;
            if self.depth == 0 {
                self.place = JsonPlace::Before;
                self.name.clear();
                self.done |= self.says_done;
                self.usage = std::mem::take(&mut self.own_counts).plausible().or(self.usage);
            }
        }
    }

    /// Passes over bytes of a string that cannot end it.
    fn skip_text(&mut self, text: &[u8], name: bool) {
        if name {
            let room = (NAME_BOUND + 1).saturating_sub(self.name.len());
            self.name.extend_from_slice(text.get(..room).unwrap_or(text));
        }
    }

    fn text(&mut self, byte: u8, name: bool, escaped: bool) {
        self.place = match byte {
            _ if escaped => JsonPlace::Text { name, escaped: false },
            b'\\' => JsonPlace::Text { name, escaped: true },
            b'"' => JsonPlace::Values,
            _ => JsonPlace::Text { name, escaped: false },
        };
        let ended = self.place == JsonPlace::Values;
        if name && !ended && self.name.len() <= NAME_BOUND {
            self.name.push(byte);
        }
    }

    /// Keeps bytes if inside `usage` or `error`.
    fn keep(&mut self, bytes: &[u8]) {
        if let Some(found) = &mut self.found {
            if found.len() + bytes.len() <= BOUND {
                found.extend_from_slice(bytes);
            } else {
                self.found = None;
                if self.is_error() {
                    self.error = Some(Blame::Worker);
                }
            }
        }
    }

    /// Returns `true` if the latest name is the response's `error`.
    fn is_error(&self) -> bool {
        self.level == 1 && self.name == b"error"
    }
}
