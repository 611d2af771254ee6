//! Refusals as errors of Anthropic's Messages API, which its clients turn into typed exceptions.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use time::UtcDateTime;

use super::quota_headers::tightest;
use crate::refusal::{QuotaStatus, Reason, Refusal, Unit};

/// Header with the id of the request, besides `x-request-id`.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// "Overloaded": a status that only this API has.
pub(crate) const OVERLOADED: StatusCode = match StatusCode::from_u16(529) {
    Ok(status) => status,
    Err(_) => StatusCode::SERVICE_UNAVAILABLE,
};

/// Limit, remaining and reset of one unit.
type QuotaNames = [HeaderName; 3];

const REQUESTS: QuotaNames = [
    HeaderName::from_static("anthropic-ratelimit-requests-limit"),
    HeaderName::from_static("anthropic-ratelimit-requests-remaining"),
    HeaderName::from_static("anthropic-ratelimit-requests-reset"),
];
/// Rules count prompt and output together, so the three show the same quota.
const TOKENS: [QuotaNames; 3] = [
    [
        HeaderName::from_static("anthropic-ratelimit-tokens-limit"),
        HeaderName::from_static("anthropic-ratelimit-tokens-remaining"),
        HeaderName::from_static("anthropic-ratelimit-tokens-reset"),
    ],
    [
        HeaderName::from_static("anthropic-ratelimit-input-tokens-limit"),
        HeaderName::from_static("anthropic-ratelimit-input-tokens-remaining"),
        HeaderName::from_static("anthropic-ratelimit-input-tokens-reset"),
    ],
    [
        HeaderName::from_static("anthropic-ratelimit-output-tokens-limit"),
        HeaderName::from_static("anthropic-ratelimit-output-tokens-remaining"),
        HeaderName::from_static("anthropic-ratelimit-output-tokens-reset"),
    ],
];

/// Returns the HTTP status of a refusal.
#[must_use]
pub(crate) const fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::Overloaded | Reason::QueueTimeout => OVERLOADED,
        _ => reason.status(),
    }
}

fn error_type(reason: Reason) -> &'static str {
    match reason {
        Reason::RateLimited | Reason::TokenLimited => "rate_limit_error",
        Reason::Overloaded | Reason::QueueTimeout => "overloaded_error",
        Reason::Unauthorized => "authentication_error",
        Reason::NotFound => "not_found_error",
        Reason::BodyTooLarge => "request_too_large",
        Reason::UpstreamTimeout => "timeout_error",
        _ if status(reason).is_client_error() => "invalid_request_error",
        _ => "api_error",
    }
}

#[derive(Serialize)]
struct ErrorMessage<'a> {
    r#type: &'static str,
    error: ErrorDetail<'a>,
    request_id: &'a str,
}

#[derive(Serialize)]
struct ErrorDetail<'a> {
    r#type: &'static str,
    message: &'a str,
}

/// Returns the body of a refusal of the request `id`:
/// `{"type":"error","error":{"type","message"},"request_id"}`.
#[must_use]
pub(crate) fn body(refusal: &Refusal, id: &str) -> Bytes {
    json(refusal, id).into()
}

/// Returns a refusal as an event for a started stream. The empty lines before it end an event that
/// was cut off.
pub(super) fn event(refusal: &Refusal, id: &str) -> Bytes {
    ["\n\nevent: error\ndata: ", &json(refusal, id), "\n\n"].concat().into()
}

fn json(refusal: &Refusal, id: &str) -> String {
    let error = ErrorDetail { r#type: error_type(refusal.reason), message: &refusal.message };
    // Serializing strings to memory cannot fail.
    serde_json::to_string(&ErrorMessage { r#type: "error", error, request_id: id }).unwrap_or_default()
}

/// Writes the tightest quota of each unit; `now` is the time of day.
pub(super) fn quotas(map: &mut HeaderMap, quotas: &[QuotaStatus], now: SystemTime) {
    // These, and the two of the IETF draft.
    map.reserve(REQUESTS.len() + TOKENS.as_flattened().len() + 2);
    if let Some(quota) = tightest(quotas, Unit::Requests) {
        insert(map, REQUESTS, values(quota, now));
    }
    if let Some(quota) = tightest(quotas, Unit::Tokens) {
        let values = values(quota, now);
        let [total, input, output] = TOKENS;
        insert(map, total, values.clone());
        insert(map, input, values.clone());
        insert(map, output, values);
    }
}

/// Returns limit, remaining and reset as header values. A reset that no calendar has is left out.
fn values(quota: &QuotaStatus, now: SystemTime) -> [Option<HeaderValue>; 3] {
    let reset = rfc3339(now, quota.reset).and_then(|at| HeaderValue::from_bytes(&at).ok());
    [Some(quota.limit.into()), Some(quota.remaining.into()), reset]
}

fn insert(map: &mut HeaderMap, names: QuotaNames, values: [Option<HeaderValue>; 3]) {
    for (name, value) in names.into_iter().zip(values) {
        if let Some(value) = value {
            map.insert(name, value);
        }
    }
}

/// Returns the second by which `wait` is over, as in `2026-11-29T14:05:09Z`; `None` after the year
/// 9999. Each answer has it, so the digits are written without the machinery of `format!`.
fn rfc3339(now: SystemTime, wait: Duration) -> Option<[u8; 20]> {
    let at = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().checked_add(wait)?;
    // Rounded up: a client that waits for it is not early.
    let seconds = at.as_secs().checked_add(u64::from(at.subsec_nanos() > 0))?;
    let at = UtcDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
    let ((year, month, day), (hour, minute, second)) = (at.to_calendar_date(), at.as_hms());
    let year = u16::try_from(year).ok()?;
    let century = u8::try_from(year / 100).ok()?;
    let year = u8::try_from(year % 100).ok()?;
    let mut text = *b"0000-00-00T00:00:00Z";
    let parts =
        [(0, century), (2, year), (5, u8::from(month)), (8, day), (11, hour), (14, minute), (17, second)];
    for (at, number) in parts {
        text[at] += number / 10;
        text[at + 1] += number % 10;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::dialect::Dialect;
    use serde_json::{Value, json};

    #[test]
    fn every_reason_has_a_status_and_type_of_the_messages_api() {
        let table = [
            ("rate_limited", 429, "rate_limit_error"),
            ("token_limited", 429, "rate_limit_error"),
            ("request_too_large", 400, "invalid_request_error"),
            ("overloaded", 529, "overloaded_error"),
            ("queue_timeout", 529, "overloaded_error"),
            ("no_worker", 503, "api_error"),
            ("draining", 503, "api_error"),
            ("maintenance", 503, "api_error"),
            ("limiter_unavailable", 503, "api_error"),
            ("upstream_unreachable", 502, "api_error"),
            ("upstream_broke", 502, "api_error"),
            ("upstream_timeout", 504, "timeout_error"),
            ("unauthorized", 401, "authentication_error"),
            ("bad_request", 400, "invalid_request_error"),
            ("body_too_large", 413, "request_too_large"),
            ("body_timeout", 408, "invalid_request_error"),
            ("unsupported_encoding", 415, "invalid_request_error"),
            ("not_found", 404, "not_found_error"),
            ("method_not_allowed", 405, "invalid_request_error"),
            ("conflict", 409, "invalid_request_error"),
            ("key_reused", 422, "invalid_request_error"),
            ("expired", 410, "invalid_request_error"),
            ("unsupported", 501, "api_error"),
            ("internal_error", 500, "api_error"),
        ];
        let ours = Reason::ALL.map(|reason| {
            let body = Dialect::Anthropic.body(&Refusal::new(reason, "no \"x\""), "r1");
            let told: Value = serde_json::from_slice(&body).unwrap();
            let kind = told["error"]["type"].as_str().unwrap().to_owned();
            let error = json!({"type": kind, "message": "no \"x\""});
            assert_eq!(told, json!({"type": "error", "error": error, "request_id": "r1"}));
            (reason.as_str(), Dialect::Anthropic.status(reason).as_u16(), kind)
        });
        assert_eq!(ours, table.map(|(name, status, kind)| (name, status, kind.to_owned())));
    }

    #[test]
    fn an_error_in_a_stream_has_its_name_and_the_same_data() {
        let refusal = Refusal::new(Reason::UpstreamTimeout, "silent");
        let event = event(&refusal, "r1");
        let text = std::str::from_utf8(&event).unwrap();
        let data = text.strip_prefix("\n\nevent: error\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
        assert_eq!(data.as_bytes(), body(&refusal, "r1"));
    }

    #[test]
    fn quotas_are_told_per_unit_and_reset_at_a_time_of_day() {
        let status = |rule: &str, unit, remaining, reset_ms| QuotaStatus {
            rule: rule.into(),
            unit,
            limit: 10,
            remaining,
            reset: Duration::from_millis(reset_ms),
            window: Duration::from_secs(60),
        };
        let mut map = HeaderMap::new();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(951_782_399);
        let quotas = [
            status("wide", Unit::Requests, 9, 60_000),
            status("narrow", Unit::Requests, 1, 1),
            status("tokens", Unit::Tokens, 3, 2000),
        ];
        Dialect::Anthropic.quota_headers(&mut map, &quotas, || now);
        let told = |name: &str| map[format!("anthropic-ratelimit-{name}")].to_str().unwrap();
        assert_eq!((told("requests-limit"), told("requests-remaining")), ("10", "1"));
        assert_eq!(told("requests-reset"), "2000-02-29T00:00:00Z");
        for unit in ["tokens", "input-tokens", "output-tokens"] {
            assert_eq!(told(&format!("{unit}-remaining")), "3");
            assert_eq!(told(&format!("{unit}-reset")), "2000-02-29T00:00:01Z");
        }
        assert!(map.contains_key("ratelimit") && !map.keys().any(|name| name.as_str().starts_with("x-")));
        assert_eq!(rfc3339(now, Duration::MAX), None, "no calendar has this year");
    }
}
