//! A JSON scanner over bytes in memory: it checks the grammar, tracks positions, builds nothing.
//!
//! `serde_json` could read the same documents. But it unescapes every string with a `\n` into a
//! buffer (a copy of most prompts), does not bound the depth of ignored values, and has no
//! positions, which splicing a member into a body needs. The scanner follows RFC 8259: it accepts
//! nothing that a worker's parser reads differently (no `NaN`, comments, trailing commas or byte
//! order mark). Bytes from 0x80 on pass unchecked: callers that need UTF-8 check it first.

use std::borrow::Cow;

/// Nesting depth at which a document is rejected, as by `serde_json`.
pub(super) const MAX_DEPTH: u32 = 128;

/// Error in a document. Positions are byte offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JsonError {
    /// The document ends too early; more bytes could complete it.
    End,
    /// The byte at this offset is not allowed there.
    Syntax(usize),
    /// The array or object at this offset is nested too deep.
    Deep(usize),
}

/// A string as written in the document.
#[derive(Clone, Copy, Debug)]
pub(super) struct JsonText<'a> {
    /// Offset of its opening quote.
    pub(super) at: usize,
    /// Bytes between the quotes, escapes included.
    pub(super) raw: &'a [u8],
    /// Length without escapes, in bytes of UTF-8.
    pub(super) decoded_len: usize,
}

impl<'a> JsonText<'a> {
    /// Returns the unescaped string; `None` if it is not UTF-8 or has half a surrogate pair.
    pub(super) fn decode(&self) -> Option<Cow<'a, str>> {
        if self.is_plain() {
            return std::str::from_utf8(self.raw).ok().map(Cow::Borrowed);
        }
        let quoted = [b"\"", self.raw, b"\""].concat();
        serde_json::from_slice::<String>(&quoted).ok().map(Cow::Owned)
    }

    /// Returns the bytes to compare with a name: unescaped if possible.
    pub(super) fn name(&self) -> Cow<'a, [u8]> {
        if self.is_plain() {
            return Cow::Borrowed(self.raw);
        }
        self.decode().map_or(Cow::Borrowed(self.raw), |text| Cow::Owned(text.into_owned().into_bytes()))
    }

    /// Returns `true` if it has no escapes. Every escape is longer than what it stands for.
    fn is_plain(&self) -> bool {
        self.raw.len() == self.decoded_len
    }
}

#[derive(Debug)]
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Scanner<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0 }
    }

    /// Returns the offset of the next byte.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// Returns the bytes read since the offset `start`.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    /// Returns to an offset that [`Scanner::at`] gave at the same depth.
    pub(super) const fn rewind(&mut self, at: usize, depth: u32) {
        self.at = at;
        self.depth = depth;
    }

    /// Returns the number of open arrays and objects.
    pub(super) const fn depth(&self) -> u32 {
        self.depth
    }

    /// Returns the first byte of the next token, at [`Scanner::at`], without consuming it.
    pub(super) fn peek(&mut self) -> Result<u8, JsonError> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                Some(&byte) => return Ok(byte),
                None => return Err(JsonError::End),
            }
        }
    }

    /// Checks that only white space follows.
    pub(super) fn finish(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Err(_) => Ok(()),
            Ok(_) => Err(JsonError::Syntax(self.at)),
        }
    }

    /// Reads an object. `member` is called after each key and must read exactly the value.
    pub(super) fn object<E: From<JsonError>>(
        &mut self,
        mut member: impl FnMut(&mut Self, JsonText<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.open(b'{')?;
        if self.peek()? == b'}' {
            self.close();
            return Ok(());
        }
        loop {
            let key = self.string()?;
            self.take(b':')?;
            member(self, key)?;
            if self.closed_or_comma(b'}')? {
                return Ok(());
            }
        }
    }

    /// Reads an array. `item` is called before each item and must read exactly that.
    pub(super) fn array<E: From<JsonError>>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.open(b'[')?;
        if self.peek()? == b']' {
            self.close();
            return Ok(());
        }
        loop {
            item(self)?;
            if self.closed_or_comma(b']')? {
                return Ok(());
            }
        }
    }

    pub(super) fn string(&mut self) -> Result<JsonText<'a>, JsonError> {
        self.take(b'"')?;
        let start = self.at;
        let mut shorter = 0;
        loop {
            self.at = plain_until(self.bytes, self.at);
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    let raw = self.bytes.get(start..self.at).unwrap_or_default();
                    self.at += 1;
                    return Ok(JsonText { at: start - 1, raw, decoded_len: raw.len() - shorter });
                }
                Some(b'\\') => shorter += self.escape()?,
                Some(_) => return Err(JsonError::Syntax(self.at)),
                None => return Err(JsonError::End),
            }
        }
    }

    pub(super) fn number(&mut self) -> Result<&'a str, JsonError> {
        let start = self.at;
        self.at += usize::from(self.bytes.get(self.at) == Some(&b'-'));
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            self.at += usize::from(matches!(self.bytes.get(self.at), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(self.bytes.get(start..self.at).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default())
    }

    /// Reads a value of any kind and discards it.
    pub(super) fn skip(&mut self) -> Result<(), JsonError> {
        match self.peek()? {
            b'{' => self.object(|scanner, _| scanner.skip()),
            b'[' => self.array(Self::skip),
            b'"' => self.string().map(drop),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            b'-' | b'0'..=b'9' => self.number().map(drop),
            _ => Err(JsonError::Syntax(self.at)),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), JsonError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.starts_with(word) {
            self.at += word.len();
            Ok(())
        } else if word.starts_with(rest) {
            Err(JsonError::End)
        } else {
            Err(JsonError::Syntax(self.at))
        }
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match rest.iter().take_while(|byte| byte.is_ascii_digit()).count() {
            0 if rest.is_empty() => Err(JsonError::End),
            0 => Err(JsonError::Syntax(self.at)),
            count => {
                self.at += count;
                Ok(())
            }
        }
    }

    /// Reads an escape and returns how many bytes longer it is than its meaning.
    fn escape(&mut self) -> Result<usize, JsonError> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(1)
            }
            Some(b'u') => {
                let mut code = 0;
                for at in self.at + 2..self.at + 6 {
                    let byte = *self.bytes.get(at).ok_or(JsonError::End)?;
                    let digit = char::from(byte).to_digit(16).ok_or(JsonError::Syntax(at))?;
                    code = code << 4 | digit;
                }
                self.at += 6;
                Ok(match code {
                    0..0x80 => 5,
                    // The two halves of a surrogate pair make four bytes.
                    0x80..0x800 | 0xd800..0xe000 => 4,
                    _ => 3,
                })
            }
            Some(_) => Err(JsonError::Syntax(self.at + 1)),
            None => Err(JsonError::End),
        }
    }

    fn take(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.peek()? == byte {
            self.at += 1;
            Ok(())
        } else {
            Err(JsonError::Syntax(self.at))
        }
    }

    fn open(&mut self, bracket: u8) -> Result<(), JsonError> {
        self.take(bracket)?;
        self.depth += 1;
        if self.depth >= MAX_DEPTH { Err(JsonError::Deep(self.at - 1)) } else { Ok(()) }
    }

    const fn close(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    fn closed_or_comma(&mut self, bracket: u8) -> Result<bool, JsonError> {
        let byte = self.peek()?;
        if byte == bracket {
            self.close();
            Ok(true)
        } else if byte == b',' {
            self.at += 1;
            Ok(false)
        } else {
            Err(JsonError::Syntax(self.at))
        }
    }
}

/// Returns the offset of the first quote, backslash or control character from `at` on, or the end.
///
/// Checks eight bytes at a time, as most are plain. In each comparison only bytes above a true hit
/// can be marked wrongly (by the subtraction's borrow), so the lowest mark is exact.
pub(super) fn plain_until(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let word = u64::from_le_bytes(*word);
        let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word & HIGHS;
        let marks = below(word ^ (ONES * 0x22), 1) | below(word ^ (ONES * 0x5c), 1) | below(word, 0x20);
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < 0x20).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests;
