//! Observer of forms (`multipart/form-data`), as they pass: which part names the model.
//!
//! A form holds a file of any size, so it is neither kept nor rebuilt. The observer keeps the head
//! of one part, and the value of `model`. It goes on after that: a second `model` could mean one
//! thing to the gateway and another to a worker.

mod parameters;

use std::ops::Range;

use memchr::memmem;

use self::parameters::parameter;
use super::body::MAX_MODEL_BYTES;

/// Greatest number of parts: the API has some ten fields.
const MAX_PARTS: u32 = 32;
/// Longest head of a part, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// Longest boundary (RFC 2046 §5.1.1), in bytes.
const MAX_BOUNDARY: usize = 70;

/// Error in a form. Messages are for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormError {
    /// No boundary, or an invalid one.
    #[error("The content type `multipart/form-data` needs one `boundary` of 1 to {MAX_BOUNDARY} bytes.")]
    NoBoundary,
    /// Too many parts.
    #[error("The form has more than {MAX_PARTS} parts.")]
    TooManyParts,
    /// The head of a part is too long.
    #[error("A part of the form has a head of more than {MAX_HEAD} bytes.")]
    LongHead,
    /// Bytes before the first delimiter, in which some parsers find a delimiter of their own.
    #[error("The form must begin with its first delimiter.")]
    Preamble,
    /// The head of a part that parsers read differently.
    #[error("A part of the form has a head that is not made of lines `name: value`.")]
    Head,
    /// A part whose name parsers read differently.
    #[error(
        "Each part of the form must have one well-formed `content-disposition`, with one `name` and \
         no `name*`."
    )]
    Name,
    /// A delimiter that is neither followed by a part nor by the end.
    #[error("The form has a malformed delimiter.")]
    Delimiter,
    /// More than one model.
    #[error("'model' is given more than once.")]
    TwoModels,
    /// The model's name is too long, or no text.
    #[error("'model' must be text of at most {MAX_MODEL_BYTES} bytes.")]
    Model,
}

/// Observes a form.
#[derive(Debug)]
pub(crate) struct FormTap {
    /// `\r\n--boundary`.
    delimiter: memmem::Finder<'static>,
    place: FormPlace,
    /// End of the bytes before, as long as a delimiter may begin in it.
    carry: Vec<u8>,
    /// Bytes of a part's head, or of the model's name, so far.
    kept: Vec<u8>,
    parts: u32,
    model: Option<Box<str>>,
    /// Bytes before the chunk that is being read.
    before: usize,
    /// Where the model's name is in the form.
    model_at: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FormPlace {
    /// Before the first part.
    Preamble,
    /// Right after a delimiter.
    Delimited,
    Head,
    Value {
        model: bool,
    },
    /// After the last part.
    Over,
}

/// Returns the boundary in a content type, if that is a form.
///
/// # Errors
/// `NoBoundary` for a form without a usable boundary.
pub(crate) fn boundary(content_type: &str) -> Result<Option<String>, FormError> {
    let media_type = content_type.split(';').next().unwrap_or_default();
    if !media_type.trim().eq_ignore_ascii_case("multipart/form-data") {
        return Ok(None);
    }
    let boundary = parameter(content_type, "boundary", FormError::NoBoundary)?;
    match boundary.filter(|boundary| (1..=MAX_BOUNDARY).contains(&boundary.len())) {
        Some(boundary) => Ok(Some(boundary)),
        None => Err(FormError::NoBoundary),
    }
}

impl FormTap {
    /// Creates an observer for the start of a form.
    #[must_use]
    pub(crate) fn new(boundary: &str) -> Self {
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        Self {
            delimiter: memmem::Finder::new(&delimiter).into_owned(),
            place: FormPlace::Preamble,
            // The first delimiter may stand at the very beginning, without a line end.
            carry: b"\r\n".to_vec(),
            kept: Vec::new(),
            parts: 0,
            model: None,
            before: 0,
            model_at: 0..0,
        }
    }

    /// Returns the model, once its part has ended.
    #[must_use]
    pub(crate) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Returns where the form has the model's name, in bytes from its beginning; empty without one.
    #[must_use]
    pub(crate) fn model_at(&self) -> Range<usize> {
        self.model_at.clone()
    }

    /// Returns `true` after the last part.
    #[must_use]
    pub(crate) fn is_over(&self) -> bool {
        self.place == FormPlace::Over
    }

    /// Reads the next bytes, cut anywhere.
    ///
    /// # Errors
    /// If the form exceeds its bounds or names two models. It must not be fed after that.
    pub(crate) fn feed(&mut self, chunk: &[u8]) -> Result<(), FormError> {
        let mut rest = chunk;
        while !rest.is_empty() {
            rest = match self.place {
                FormPlace::Over => return Ok(()),
                FormPlace::Delimited => self.delimited(rest)?,
                FormPlace::Head => self.head(rest)?,
                FormPlace::Preamble => self.preamble(rest)?,
                FormPlace::Value { model } => {
                    let at = self.before + chunk.len() - rest.len();
                    self.value(rest, model.then_some(at))?
                }
            };
        }
        self.before += chunk.len();
        Ok(())
    }

    /// Reads up to the first delimiter, and returns what follows. Nothing is before it but a line end.
    fn preamble<'c>(&mut self, chunk: &'c [u8]) -> Result<&'c [u8], FormError> {
        let after = self.value(chunk, None)?;
        let read = self.before + chunk.len() - after.len();
        if read > self.delimiter.needle().len() { Err(FormError::Preamble) } else { Ok(after) }
    }

    /// Reads a value up to the delimiter after it, and returns what follows. `model` is where the chunk
    /// is in the form, if the value is the model's name.
    fn value<'c>(&mut self, chunk: &'c [u8], model: Option<usize>) -> Result<&'c [u8], FormError> {
        let end = self.find(chunk);
        if let Some(at) = model {
            let more = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
            self.kept.extend_from_slice(more);
            let name = self.kept.len().saturating_sub(self.delimiter.needle().len());
            if name as u64 > MAX_MODEL_BYTES {
                return Err(FormError::Model);
            }
            if let Some(end) = end {
                self.kept.truncate(name);
                let end = (at + end).saturating_sub(self.delimiter.needle().len());
                self.model_at = end.saturating_sub(name)..end;
                let name = std::str::from_utf8(&self.kept).map_err(|_| FormError::Model)?;
                self.model = Some(name.into());
            }
        }
        let Some(end) = end else {
            self.keep_tail(chunk);
            return Ok(&[]);
        };
        self.carry.clear();
        self.kept.clear();
        self.place = FormPlace::Delimited;
        Ok(chunk.get(end..).unwrap_or_default())
    }

    /// Returns where the next delimiter ends in `chunk`. It may begin in an earlier one.
    fn find(&self, chunk: &[u8]) -> Option<usize> {
        let length = self.delimiter.needle().len();
        let seam = [&*self.carry, chunk.get(..length - 1).unwrap_or(chunk)].concat();
        match self.delimiter.find(&seam) {
            Some(at) => Some(at + length - self.carry.len()),
            None => self.delimiter.find(chunk).map(|at| at + length),
        }
    }

    /// Keeps the end of a value in which a delimiter may begin.
    fn keep_tail(&mut self, chunk: &[u8]) {
        let most = self.delimiter.needle().len() - 1;
        self.carry.extend_from_slice(chunk.get(chunk.len().saturating_sub(most)..).unwrap_or_default());
        let surplus = self.carry.len().saturating_sub(most);
        self.carry.drain(..surplus);
    }

    /// Reads what follows a delimiter: a line end, or two dashes after the last part.
    fn delimited<'c>(&mut self, chunk: &'c [u8]) -> Result<&'c [u8], FormError> {
        for (at, byte) in chunk.iter().enumerate() {
            self.kept.push(*byte);
            match self.kept.as_slice() {
                b"--" => {
                    self.place = FormPlace::Over;
                    return Ok(&[]);
                }
                [padding @ .., b'\r', b'\n'] if padding.iter().all(|byte| matches!(byte, b' ' | b'\t')) => {
                    self.kept.clear();
                    // The head of a part may be empty; then its end is the next line end.
                    self.kept.extend_from_slice(b"\r\n");
                    self.place = FormPlace::Head;
                    self.parts += 1;
                    return if self.parts > MAX_PARTS {
                        Err(FormError::TooManyParts)
                    } else {
                        Ok(chunk.get(at + 1..).unwrap_or_default())
                    };
                }
                [b'-'] | [.., b'\r' | b' ' | b'\t'] if self.kept.len() <= MAX_BOUNDARY => {}
                _ => return Err(FormError::Delimiter),
            }
        }
        Ok(&[])
    }

    /// Reads the head of a part, and returns what follows.
    fn head<'c>(&mut self, chunk: &'c [u8]) -> Result<&'c [u8], FormError> {
        const END: &[u8] = b"\r\n\r\n";
        let before = self.kept.len();
        let room = chunk.get(..chunk.len().min(MAX_HEAD)).unwrap_or_default();
        self.kept.extend_from_slice(room);
        let from = before.saturating_sub(END.len() - 1);
        let Some(at) = self.kept.get(from..).and_then(|recent| memmem::find(recent, END)) else {
            return if self.kept.len() > MAX_HEAD { Err(FormError::LongHead) } else { Ok(&[]) };
        };
        let end = from + at + END.len();
        if end > MAX_HEAD {
            return Err(FormError::LongHead);
        }
        let head = self.kept.get(..end).unwrap_or_default();
        let model = field_name(head)?.is_some_and(|name| name == "model");
        if model && self.model.is_some() {
            return Err(FormError::TwoModels);
        }
        self.kept.clear();
        self.carry.clear();
        // The line end of an empty value is that of the head.
        self.carry.extend_from_slice(b"\r\n");
        self.place = FormPlace::Value { model };
        Ok(chunk.get(end - before..).unwrap_or_default())
    }
}

/// Returns the name of the field in a part with this head.
fn field_name(head: &[u8]) -> Result<Option<String>, FormError> {
    let head = String::from_utf8_lossy(head);
    let mut disposition = None;
    for line in head.split("\r\n").filter(|line| !line.is_empty()) {
        // Some parsers join such a line with the one before, or read it as two.
        if line.starts_with([' ', '\t']) || line.contains(['\r', '\n']) {
            return Err(FormError::Head);
        }
        let (field, value) = line.split_once(':').ok_or(FormError::Head)?;
        if field.trim().eq_ignore_ascii_case("content-disposition") && disposition.replace(value).is_some() {
            return Err(FormError::Name);
        }
    }
    disposition.map_or(Ok(None), |value| parameter(value, "name", FormError::Name))
}

#[cfg(test)]
mod tests;
