//! Heads of answers (RFC 9112 §4, §6.3).

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, response};
use hyper::ext::ReasonPhrase;

use super::decoder::{FIELDS_MAX, Framing};
use super::error::Http1Error;
use crate::net::fields::says_close;

/// A parsed head.
#[derive(Debug)]
pub(super) struct WorkerAnswerHead {
    pub(super) parts: response::Parts,
    pub(super) framing: Framing,
    /// `true` if the connection can carry another request after the body.
    pub(super) kept: bool,
}

/// Parses the head at the front of `bytes`, of an answer to a request with `method`. Returns its length too;
/// `None` if it is not complete.
///
/// # Errors
/// If the bytes are no head, or it does not say clearly where the body ends.
pub(super) fn parse(bytes: &[u8], method: &Method) -> Result<Option<(usize, WorkerAnswerHead)>, Http1Error> {
    let mut room = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut room);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Http1Error::Malformed("its head")),
    };
    let (mut parts, ()) = response::Response::new(()).into_parts();
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    parts.status = status.ok_or(Http1Error::Malformed("its status"))?;
    parts.version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    if let Some(reason) = parsed.reason.filter(|reason| Some(*reason) != parts.status.canonical_reason())
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        parts.extensions.insert(reason);
    }
    // One piece of memory for all values.
    let text = Bytes::copy_from_slice(bytes.get(..length).unwrap_or_default());
    parts.headers.reserve(parsed.headers.len());
    for field in parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_name| Http1Error::Malformed("the name of a field"))?;
        let value = match field.value {
            [] => Some(HeaderValue::from_static("")),
            value => value_within(&text, bytes, value),
        };
        parts.headers.append(name, value.ok_or(Http1Error::Malformed("the value of a field"))?);
    }
    let framing = framing(&parts, method)?;
    let kept = framing != Framing::UntilClose && is_kept(&parts);
    Ok(Some((length, WorkerAnswerHead { parts, framing, kept })))
}

/// Returns the part of `text`, a copy of the start of `bytes`, that is at the place of `value` in `bytes`.
fn value_within(text: &Bytes, bytes: &[u8], value: &[u8]) -> Option<HeaderValue> {
    let start = value.as_ptr().addr().checked_sub(bytes.as_ptr().addr())?;
    let end = start.checked_add(value.len()).filter(|end| *end <= text.len())?;
    HeaderValue::from_maybe_shared(text.slice(start..end)).ok()
}

/// Returns how the end of the body is found.
fn framing(parts: &response::Parts, method: &Method) -> Result<Framing, Http1Error> {
    let (status, headers) = (parts.status, &parts.headers);
    let without_body = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || *method == Method::HEAD
        || (*method == Method::CONNECT && status.is_success());
    if without_body {
        return Ok(Framing::Empty);
    }
    if let Some(coding) = headers.get_all(TRANSFER_ENCODING).iter().next_back() {
        if parts.version == Version::HTTP_10 {
            return Err(Http1Error::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        let chunked = coding.to_str().is_ok_and(|coding| {
            coding.rsplit(',').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"))
        });
        return Ok(if chunked { Framing::Chunked } else { Framing::UntilClose });
    }
    if !headers.contains_key(CONTENT_LENGTH) {
        return Ok(Framing::UntilClose);
    }
    one_length(headers).map(Framing::Length).ok_or(Http1Error::Malformed("its Content-Length"))
}

/// Returns the length if all fields and elements name the same.
fn one_length(headers: &HeaderMap) -> Option<u64> {
    /// The largest that hyper accepts: it uses the values above for other purposes.
    const LONGEST: u64 = u64::MAX - 2;
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for element in value.to_str().ok()?.split(',') {
            let digits = element.trim();
            // The parser of the standard library allows a sign.
            let number =
                digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok())??;
            if length.is_some_and(|length| length != number) {
                return None;
            }
            length = Some(number);
        }
    }
    length.filter(|length| *length <= LONGEST)
}

fn is_kept(parts: &response::Parts) -> bool {
    // A worker that speaks HTTP/1.0 would have to be asked in HTTP/1.0.
    parts.version == Version::HTTP_11 && !says_close(&parts.headers)
}
