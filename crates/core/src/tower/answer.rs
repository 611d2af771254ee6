//! The HTTP answer to a refusal.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response};
use http_body_util::{Either, Full};

use crate::refusal::Refusal;

/// The body of the inner service, or the text of a refusal.
pub type LayerBody<B> = Either<B, Full<Bytes>>;

/// Name of the header with the reason.
const REASON: HeaderName = HeaderName::from_static("x-traffic-dam-reason");

/// Answers with the refusal's reason, time to retry in whole seconds, and message.
pub(super) fn answer<B>(refusal: Refusal) -> Response<LayerBody<B>> {
    let text = match refusal.message {
        Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
        Cow::Owned(text) => Bytes::from(text),
    };
    let mut response = Response::new(Either::Right(Full::new(text)));
    *response.status_mut() = refusal.reason.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(REASON, HeaderValue::from_static(refusal.reason.as_str()));
    if let Some(wait) = refusal.retry_after {
        // Rounded up, so that a client which follows it is never early.
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        headers.insert(RETRY_AFTER, u64::try_from(seconds).unwrap_or(u64::MAX).into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Reason;
    use std::time::Duration;

    #[test]
    fn a_refusal_says_why_and_when_to_return() {
        for (reason, wait, status, told) in [
            (Reason::TokenLimited, Some(1200), 429, Some("2")),
            (Reason::Overloaded, Some(3), 503, Some("1")),
            (Reason::RequestTooLarge, None, 400, None),
        ] {
            let mut refusal = Refusal::new(reason, "No.");
            refusal.retry_after = wait.map(Duration::from_millis);
            let answer = answer::<Full<Bytes>>(refusal);
            assert_eq!(answer.status().as_u16(), status, "{reason}");
            assert_eq!(answer.headers()[&REASON], reason.as_str());
            let header = answer.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!(header, told, "{reason}");
        }
    }
}
