//! Finding the usage in a JSON answer that passes by, and the error if it is one.

use memchr::memchr2;

use super::event::error;
use super::usage::Usage;
use crate::openai::scan::Scanner;
use crate::request::Blame;

/// The longest `usage` or `error` object that is read; beyond it the answer counts as having no usage.
const BOUND: usize = 4 * 1024;
/// Longer names than this are none of those we look for.
const NAME_BOUND: usize = 16;

/// Reads along in a JSON answer and finds its `usage` and its `error`, in memory that does not grow with the answer.
///
/// The error stands in the answer itself, and the usage stands in the answer itself, or in its `response` member. The tap follows strings and brackets and
/// checks nothing else: what a worker answers is not ours to judge.
#[derive(Debug, Default)]
pub struct JsonTap {
    /// Arrays and objects that are open.
    depth: u32,
    /// The depth of the object whose members are read: 1 for the answer, 2 within `response`.
    level: u32,
    place: JsonPlace,
    /// The latest name at this level.
    name: Vec<u8>,
    /// The bytes of `usage` or `error` so far, while inside it.
    found: Option<Vec<u8>>,
    usage: Option<Usage>,
    error: Option<Blame>,
    /// The error is a string, of which nothing has come yet.
    error_begins: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum JsonPlace {
    /// Before the answer's first bracket.
    #[default]
    Before,
    /// Outside of strings, where a name of this level may follow.
    Names,
    /// Outside of strings, elsewhere.
    Values,
    /// In a string; `name` if it is one of this level's names, `escaped` behind a backslash.
    Text { name: bool, escaped: bool },
    /// The answer is no object.
    Nothing,
}

impl JsonTap {
    /// A tap at the start of an answer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The usage found so far.
    #[must_use]
    pub const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Whose fault the error is that the answer is, if it is one.
    #[must_use]
    pub const fn error(&self) -> Option<Blame> {
        self.error
    }

    /// Reads the next bytes, cut anywhere.
    pub fn feed(&mut self, chunk: &[u8]) {
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            match self.place {
                JsonPlace::Nothing => return,
                JsonPlace::Text { .. } if self.error_begins => {
                    self.error_begins = false;
                    if byte != b'"' {
                        self.error = Some(Blame::Worker);
                    }
                    self.text(byte, false, false);
                }
                JsonPlace::Text { name: false, escaped: false } if self.found.is_none() => {
                    // The bulk of an answer: on to the next byte that could end the string.
                    let Some(skipped) = chunk.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) else {
                        return;
                    };
                    at += skipped;
                    self.text(chunk.get(at).copied().unwrap_or_default(), false, false);
                }
                JsonPlace::Text { name, escaped } => self.text(byte, name, escaped),
                JsonPlace::Before => self.before(byte),
                JsonPlace::Names | JsonPlace::Values if self.depth > self.level && self.found.is_none() => {
                    // Numbers, mostly: an embedding has thousands.
                    let rest = chunk.get(at..).unwrap_or_default();
                    let Some(skipped) =
                        rest.iter().position(|byte| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']'))
                    else {
                        return;
                    };
                    at += skipped;
                    self.structure(chunk.get(at).copied().unwrap_or_default());
                }
                JsonPlace::Names | JsonPlace::Values => self.structure(byte),
            }
            at += 1;
        }
    }

    fn before(&mut self, byte: u8) {
        match byte {
            b'{' => {
                (self.depth, self.level) = (1, 1);
                self.place = JsonPlace::Names;
            }
            b'[' | b'"' => self.place = JsonPlace::Nothing,
            _ => {}
        }
    }

    fn structure(&mut self, byte: u8) {
        self.keep(byte);
        let here = self.depth == self.level;
        match byte {
            b'"' => {
                let name = here && self.place == JsonPlace::Names;
                self.error_begins = here && !name && self.is_error();
                if name {
                    self.name.clear();
                }
                self.place = JsonPlace::Text { name, escaped: false };
            }
            b',' => self.place = JsonPlace::Names,
            b'{' | b'[' => self.opened(byte, here),
            b'}' | b']' => self.closed(),
            _ => {}
        }
    }

    fn opened(&mut self, bracket: u8, here: bool) {
        self.depth = self.depth.saturating_add(1);
        if !here || bracket != b'{' {
            return;
        }
        match self.name.as_slice() {
            b"usage" => self.found = Some(vec![bracket]),
            b"error" if self.level == 1 => self.found = Some(vec![bracket]),
            b"response" if self.level == 1 => {
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
        }
    }

    fn text(&mut self, byte: u8, name: bool, escaped: bool) {
        self.keep(byte);
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

    /// Keeps a byte of `usage` or `error`, if inside it.
    fn keep(&mut self, byte: u8) {
        if let Some(found) = &mut self.found {
            if found.len() < BOUND {
                found.push(byte);
            } else {
                self.found = None;
                if self.is_error() {
                    self.error = Some(Blame::Worker);
                }
            }
        }
    }

    /// Whether the latest name is that of the answer's error.
    fn is_error(&self) -> bool {
        self.level == 1 && self.name == b"error"
    }
}
