//! Changes of a client's body: the usage requested from a worker, and the name of the model.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use super::shape::span;
use super::{BodyFieldError, Facts};
use crate::openai::kinds::folded;
use crate::openai::scan::Scanner;

/// Replaces a range of the body (often empty) with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Splice {
    range: Range<usize>,
    text: &'static str,
}

impl Splice {
    /// Adds `stream_options` at `at`, before the first member. There is one: `stream`.
    pub(super) const fn into_body(at: usize) -> Self {
        Self { range: at..at, text: "\"stream_options\":{\"include_usage\":true}," }
    }
}

/// Whether a body requests its usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AskedUsage {
    /// `include_usage` is true.
    Yes,
    /// It is not; the splice sets it.
    No(Splice),
}

pub(super) fn stream_options(scanner: &mut Scanner<'_>) -> Result<AskedUsage, BodyFieldError> {
    match scanner.peek()? {
        b'n' => Ok(AskedUsage::No(Splice { range: span(scanner)?, text: "{\"include_usage\":true}" })),
        b'{' => members(scanner),
        _ => Err(BodyFieldError::WrongType { param: "stream_options".into(), expected: "an object" }),
    }
}

fn members(scanner: &mut Scanner<'_>) -> Result<AskedUsage, BodyFieldError> {
    const PARAM: &str = "stream_options.include_usage";
    let start = scanner.at() + 1;
    let mut empty = true;
    let mut asked = None;
    scanner.object(|scanner, key| {
        empty = false;
        let name = key.name();
        if *name != *b"include_usage" {
            if folded(&name).is_some_and(|lower| lower == "include_usage") {
                let param = format!("stream_options.{}", String::from_utf8_lossy(&name)).into();
                return Err(BodyFieldError::LetterCase { param, right: PARAM });
            }
            return Ok(scanner.skip()?);
        }
        let value = scanner.peek()?;
        let range = span(scanner)?;
        let says = match value {
            b't' => AskedUsage::Yes,
            b'f' | b'n' => AskedUsage::No(Splice { range, text: "true" }),
            _ => return Err(BodyFieldError::WrongType { param: PARAM.into(), expected: "a boolean" }),
        };
        match asked.replace(says) {
            None => Ok(()),
            Some(_) => Err(BodyFieldError::Duplicate { param: PARAM.into() }),
        }
    })?;
    let text = if empty { "\"include_usage\":true" } else { "\"include_usage\":true," };
    Ok(asked.unwrap_or(AskedUsage::No(Splice { range: start..start, text })))
}

/// How a body's model differs from the one that the client wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelText<'a> {
    /// Nothing.
    Unchanged,
    /// The same, but as a piece of its own, which can be replaced later.
    Apart,
    /// This name, as a piece of its own.
    Named(&'a str),
}

/// A body in pieces that share the client's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplicedBody {
    /// The pieces.
    pub(crate) pieces: SmallVec<[Bytes; 3]>,
    /// Index of the piece that is the model's name, as a JSON string, if there is one.
    pub(crate) model: Option<usize>,
}

/// Returns the body with the model named as `model` says and, if `include_usage`, with
/// `stream_options.include_usage` set.
///
/// The body must be the one that the facts were read from. Without a model in it, or if
/// `Facts::lacks_usage` is false, the respective part is unchanged.
#[must_use]
pub fn spliced(body: &Bytes, facts: &Facts, include_usage: bool, model: ModelText<'_>) -> SplicedBody {
    let usage = facts.splice.as_ref().filter(|_| include_usage);
    let usage =
        usage.map(|Splice { range, text }| (range.clone(), Bytes::from_static(text.as_bytes()), false));
    let range = facts.model_at.clone().filter(|_| model != ModelText::Unchanged);
    let model = range.map(|range| {
        let text = match model {
            ModelText::Named(name) => serde_json::Value::from(name).to_string().into(),
            ModelText::Apart | ModelText::Unchanged => body.slice(range.clone()),
        };
        (range, text, true)
    });
    let mut changes: SmallVec<[_; 2]> = usage.into_iter().chain(model).collect();
    changes.sort_by_key(|(range, ..)| range.start);
    let mut out = SplicedBody { pieces: SmallVec::new(), model: None };
    let mut at = 0;
    for (range, text, is_model) in changes {
        if range.start > at {
            out.pieces.push(body.slice(at..range.start));
        }
        out.model = out.model.or_else(|| is_model.then_some(out.pieces.len()));
        out.pieces.push(text);
        at = range.end;
    }
    if at < body.len() {
        out.pieces.push(body.slice(at..));
    }
    out
}
