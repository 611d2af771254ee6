//! Requesting usage from a worker: the few bytes added to a client's body, and where.

use std::ops::Range;

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};

use super::shape::span;
use super::{BodyFieldError, Facts};
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
        if *key.name() != *b"include_usage" {
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

/// Returns the body with `stream_options.include_usage` set, in pieces that share its memory.
///
/// The body must be the one that the facts were read from. If [`Facts::lacks_usage`] is false it is
/// returned unchanged.
#[must_use]
pub fn with_include_usage(body: &Bytes, facts: &Facts) -> SmallVec<[Bytes; 3]> {
    match &facts.splice {
        Some(Splice { range, text }) if range.end <= body.len() => {
            smallvec![body.slice(..range.start), Bytes::from_static(text.as_bytes()), body.slice(range.end..)]
        }
        _ => smallvec![body.clone()],
    }
}
