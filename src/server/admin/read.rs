//! Reads the JSON body of a write.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
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
    serde_json::from_slice(&bytes)
        .map_err(|error| AdminError::new(StatusCode::BAD_REQUEST, "bad_request", error.to_string()))
}
