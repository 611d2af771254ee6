//! Reads the JSON body of a write.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde_json::error::Category;
use tokio::time::timeout;

use super::answer::AdminError;

/// Write requests are short.
const LARGEST_BODY: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(10);

/// Reads `body` as JSON, within its size and time.
///
/// # Errors
/// It is announced as something else, too large, too slow, or not what it should be.
pub(super) async fn read_json<T, B>(headers: &HeaderMap, body: B) -> Result<T, AdminError>
where
    T: for<'de> Deserialize<'de>,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message = "a write needs `Content-Type: application/json`";
        return Err(AdminError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    let bytes = match timeout(BODY_TIME, Limited::new(body, LARGEST_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the body exceeds {LARGEST_BODY} bytes");
            return Err(AdminError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
        }
        Ok(Err(_)) => {
            return Err(AdminError::new(StatusCode::BAD_REQUEST, "bad_request", "the body ended early"));
        }
        Err(_) => {
            let message = format!("the body did not arrive within {BODY_TIME:?}");
            return Err(AdminError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message));
        }
    };
    parse(&bytes).map_err(|message| AdminError::new(StatusCode::BAD_REQUEST, "bad_request", message))
}

/// Reads a JSON object.
///
/// # Errors
/// Returns what is wrong, the field, and what would be right.
fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, String> {
    let syntax = |error: serde_json::Error| format!("the body is not valid JSON: {error}");
    // Serde would read a list as an object without names.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err("the body must be a JSON object, such as `{\"field\": 1}`".to_owned());
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value =
        serde_path_to_error::deserialize(&mut json).map_err(|error| match error.inner().classify() {
            Category::Data => explained(&error.path().to_string(), &error.inner().to_string()),
            Category::Io | Category::Syntax | Category::Eof => syntax(error.into_inner()),
        })?;
    json.end().map_err(syntax)?;
    Ok(value)
}

/// Returns serde's message about a field, with the names of JSON's types in place of Rust's.
fn explained(field: &str, message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let parts = message
        .split_once(", expected ")
        .and_then(|(found, expected)| Some((found.strip_prefix("invalid ")?, expected)));
    let Some((found, expected)) = parts else { return message.to_owned() };
    let found = match found.split_once(": ") {
        Some((_, "sequence")) | None => "a list",
        Some((_, "map")) => "an object",
        Some((_, found)) => match found.strip_prefix("floating point ").or(found.strip_prefix("integer ")) {
            Some(number) => number,
            None => found,
        },
    };
    let expected = match expected {
        "u64" => "a whole number of at least 0",
        "u32" => "a whole number from 0 to 4294967295",
        "a boolean" => "`true` or `false`",
        "a map" => "an object",
        "a sequence" => "a list",
        expected if expected.starts_with("struct ") => "an object",
        expected => expected,
    };
    format!("`{field}` must be {expected}; found {found}")
}

#[cfg(test)]
mod tests {
    use super::super::callers::CallerBody;
    use super::super::limits::LimitBody;
    use super::*;

    #[test]
    fn a_wrong_body_is_explained_without_words_of_rust() {
        let limit = |body: &str| parse::<LimitBody>(body.as_bytes()).unwrap_err();
        let caller = |body: &str| parse::<CallerBody>(body.as_bytes()).unwrap_err();
        let number = "must be a whole number of at least 0; found";
        for (fault, expected) in [
            (limit(r#"{"burst":"5"}"#), format!("`burst` {number} string \"5\"")),
            (limit(r#"{"burst":1.5}"#), format!("`burst` {number} `1.5`")),
            (limit(r#"{"burst":5,"ttl":-1}"#), format!("`ttl` {number} `-1`")),
            (limit(r#"{"rate":5}"#), "`rate` must be a string; found `5`".to_owned()),
            (
                caller(r#"{"weight":4294967296}"#),
                "`weight` must be a whole number from 0 to 4294967295; found `4294967296`".to_owned(),
            ),
            (
                caller(r#"{"external":"yes"}"#),
                "`external` must be `true` or `false`; found string \"yes\"".to_owned(),
            ),
            (caller(r#"{"models":"*"}"#), "`models` must be a list; found string \"*\"".to_owned()),
            (caller(r#"{"limits":["a"]}"#), "`limits` must be an object; found a list".to_owned()),
            (caller(r#"{"limits":{"a":5}}"#), "`limits.a` must be an object; found `5`".to_owned()),
            (caller(r#"{"limits":{"a":{"burst":"9"}}}"#), format!("`limits.a.burst` {number} string \"9\"")),
        ] {
            assert_eq!(fault, expected);
        }
        for (body, words) in [
            ("[]", "must be a JSON object"),
            (r#"["1/s"]"#, "must be a JSON object"),
            ("5", "must be a JSON object"),
            ("", "must be a JSON object"),
            (r#"{"burst":5"#, "not valid JSON"),
            (r#"{"burst":5} x"#, "not valid JSON"),
            (r#"{"bursts":5}"#, "unknown field `bursts`, expected one of `rate`"),
            (r#"{"burst":5,"burst":6}"#, "duplicate field `burst`"),
        ] {
            let fault = limit(body);
            assert!(fault.contains(words), "{fault}");
        }
        assert!(parse::<LimitBody>(b" {\"burst\":5}\n").is_ok());
    }
}
