//! Members with one value: null counts as absent, another type is an error.

use std::borrow::Cow;

use super::{BodyFieldError, MAX_OUTPUT_TOKENS};
use crate::openai::scan::{JsonError, Scanner};

/// Reads a string of at most `most` bytes.
pub(super) fn text<'a>(
    scanner: &mut Scanner<'a>,
    param: Cow<'static, str>,
    most: u64,
) -> Result<Option<Cow<'a, str>>, BodyFieldError> {
    match scanner.peek()? {
        b'n' => null(scanner),
        b'"' => {
            let text = scanner.string()?;
            if text.decoded_len as u64 > most {
                return Err(BodyFieldError::TooLong { param, most, what: "bytes" });
            }
            let text = text
                .decode()
                .ok_or(BodyFieldError::WrongType { param, expected: "a string of Unicode text" })?;
            Ok(Some(text))
        }
        _ => Err(BodyFieldError::WrongType { param, expected: "a string" }),
    }
}

/// Reads a whole number from `least` to `most`, written without fraction or exponent.
pub(super) fn whole(
    scanner: &mut Scanner<'_>,
    param: Cow<'static, str>,
    least: u64,
    most: u64,
) -> Result<Option<u64>, BodyFieldError> {
    match scanner.peek()? {
        b'n' => null(scanner),
        b'-' | b'0'..=b'9' => {
            let digits = scanner.number()?;
            if digits.contains(['.', 'e', 'E']) {
                return Err(BodyFieldError::WrongType { param, expected: "a whole number" });
            }
            // A number that does not fit is below 0 or above `u64::MAX`, so out of bounds.
            match digits.parse() {
                Ok(value) if (least..=most).contains(&value) => Ok(Some(value)),
                _ => Err(BodyFieldError::OutOfRange { param, least, most }),
            }
        }
        _ => Err(BodyFieldError::WrongType { param, expected: "a whole number" }),
    }
}

/// Bound on output tokens in a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScalarBound {
    Absent,
    /// Explicitly unbounded: -1, as in llama.cpp and LM Studio, or -2, llama.cpp's "until the context is
    /// full".
    None,
    /// Greatest number of output tokens.
    Tokens(u64),
}

pub(super) fn output_bound(
    scanner: &mut Scanner<'_>,
    param: Cow<'static, str>,
) -> Result<ScalarBound, BodyFieldError> {
    if scanner.peek()? == b'-' {
        let (at, depth) = (scanner.at(), scanner.depth());
        if matches!(scanner.number()?, "-1" | "-2") {
            return Ok(ScalarBound::None);
        }
        scanner.rewind(at, depth);
    }
    let tokens = whole(scanner, param, 0, MAX_OUTPUT_TOKENS)?;
    Ok(tokens.map_or(ScalarBound::Absent, ScalarBound::Tokens))
}

pub(super) fn boolean(
    scanner: &mut Scanner<'_>,
    param: Cow<'static, str>,
) -> Result<Option<bool>, BodyFieldError> {
    match scanner.peek()? {
        b'n' => null(scanner),
        first @ (b't' | b'f') => {
            scanner.skip()?;
            Ok(Some(first == b't'))
        }
        _ => Err(BodyFieldError::WrongType { param, expected: "a boolean" }),
    }
}

fn null<T>(scanner: &mut Scanner<'_>) -> Result<Option<T>, BodyFieldError> {
    scanner.skip()?;
    Ok(None)
}

impl From<JsonError> for BodyFieldError {
    fn from(flaw: JsonError) -> Self {
        match flaw {
            JsonError::End => Self::Unfinished,
            JsonError::Syntax(at) => Self::Syntax { at },
            JsonError::Deep(at) => Self::TooDeep { at },
        }
    }
}
