//! Response headers of the gateway: refusal reason, retry time and timing.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::dialect::Dialect;
use super::quota_headers::{millis, seconds, thousandths};
use crate::refusal::{Refusal, with_jitter};

/// Header with the reason of a refusal.
const REASON: HeaderName = HeaderName::from_static("x-traffic-dam-reason");

/// Header with the worker that answered.
pub(crate) const WORKER: HeaderName = HeaderName::from_static("x-traffic-dam-worker");

const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// A longer wait tells OpenAI's clients not to retry; a forecast is never longer.
const LONG_WAIT: Duration = Duration::from_secs(60);
/// Wait of a 429 or 503 if unknown: the least that the header can express.
const UNKNOWN_WAIT: Duration = Duration::from_secs(1);

/// Writes the headers of a refusal: reason, retry time (429, 503, and 502 if known) and quota
/// status of the rules. The statuses are OpenAI's; another dialect may have its own for them.
///
/// The wait is rounded up, so a client that follows it is never early. Only the wait of a 502 or
/// 503 is cut to one minute, if it is a forecast. `wall` tells the time of day.
pub(crate) fn refused(
    headers: &mut HeaderMap,
    refusal: &Refusal,
    dialect: Dialect,
    wall: impl FnOnce() -> SystemTime,
) {
    headers.insert(REASON, HeaderValue::from_static(refusal.reason.as_str()));
    let wait = refusal.retry_after.unwrap_or_else(|| with_jitter(UNKNOWN_WAIT));
    match refusal.reason.status() {
        StatusCode::TOO_MANY_REQUESTS => may_be_long(headers, wait),
        StatusCode::SERVICE_UNAVAILABLE if refusal.wait_is_exact => may_be_long(headers, wait),
        StatusCode::SERVICE_UNAVAILABLE => retry_after(headers, wait.min(LONG_WAIT)),
        StatusCode::BAD_GATEWAY if refusal.retry_after.is_some() => retry_after(headers, wait.min(LONG_WAIT)),
        _ => {}
    }
    // A 405 lists the allowed methods (RFC 9110 §15.5.6).
    if let Some(allow) = refusal.allow.as_deref().and_then(|methods| HeaderValue::try_from(methods).ok()) {
        headers.insert(header::ALLOW, allow);
    }
    dialect.quota_headers(headers, &refusal.quotas, wall);
}

/// Writes a wait that is no forecast.
fn may_be_long(headers: &mut HeaderMap, wait: Duration) {
    retry_after(headers, wait);
    if wait > LONG_WAIT {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
}

fn retry_after(headers: &mut HeaderMap, wait: Duration) {
    headers.insert(header::RETRY_AFTER, seconds(wait).max(1).into());
    headers.insert(RETRY_AFTER_MS, millis(wait).max(1).into());
}

/// Adds `Server-Timing`: time in the gateway before forwarding, and its part in the queue.
///
/// A worker's own `Server-Timing` is kept.
pub fn server_timing(headers: &mut HeaderMap, dam: Duration, queue: Duration) {
    let mut text = String::with_capacity(48);
    // Whole microseconds: formatting a float exactly is ten times as slow.
    for (name, length) in [("dam;dur=", dam), (", queue;dur=", queue)] {
        text.push_str(name);
        let micros = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        text.push_str(itoa::Buffer::new().format(micros / 1000));
        thousandths(&mut text, micros % 1000);
    }
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.append(SERVER_TIMING, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::quota_headers::tests::{pairs, told};
    use crate::refusal::Reason;
    use proptest::prelude::*;

    fn tell(refusal: &Refusal) -> Vec<(String, String)> {
        told(|headers| refused(headers, refusal, Dialect::OpenAi, || SystemTime::UNIX_EPOCH))
    }

    fn refusal(reason: Reason, wait: Duration) -> Vec<(String, String)> {
        tell(&Refusal::new(reason, "").with_retry_after(wait))
    }

    #[test]
    fn a_refusal_says_why_and_when() {
        let short = refusal(Reason::RateLimited, Duration::from_micros(1_200_001));
        let reason = ("x-traffic-dam-reason", "rate_limited");
        assert_eq!(short, pairs([("retry-after", "2"), ("retry-after-ms", "1201"), reason]));
        let long = refusal(Reason::RateLimited, Duration::from_nanos(60_000_000_001));
        let expected =
            [("retry-after", "61"), ("retry-after-ms", "60001"), ("x-should-retry", "false"), reason];
        assert_eq!(long, pairs(expected));
        let none = refusal(Reason::RateLimited, Duration::ZERO);
        assert_eq!(none, pairs([("retry-after", "1"), ("retry-after-ms", "1"), reason]));
    }

    #[test]
    fn a_502_or_503_never_says_more_than_a_minute_and_other_errors_say_nothing() {
        for reason in Reason::ALL {
            let told = refusal(reason, Duration::MAX);
            let waits = told.iter().filter(|(name, _)| name.starts_with("retry-after")).count();
            let says = matches!(reason.status().as_u16(), 429 | 502 | 503);
            assert_eq!(waits, if says { 2 } else { 0 }, "{reason}");
            if matches!(reason.status().as_u16(), 502 | 503) {
                assert_eq!(told[..2], pairs([("retry-after", "60"), ("retry-after-ms", "60000")]));
            }
        }
        let exact = Refusal::new(Reason::Overloaded, "").with_exact_retry_after(Duration::from_secs(540));
        let expected = [
            ("retry-after", "540"),
            ("retry-after-ms", "540000"),
            ("x-should-retry", "false"),
            ("x-traffic-dam-reason", "overloaded"),
        ];
        assert_eq!(tell(&exact), pairs(expected), "unless it is no forecast");
        let unknown = tell(&Refusal::new(Reason::NoWorker, ""));
        let millis: u64 = unknown[1].1.parse().unwrap();
        assert_eq!((&*unknown[1].0, (1000..=1500).contains(&millis)), ("retry-after-ms", true));
    }

    #[test]
    fn timing_is_added_to_what_the_worker_says() {
        let mut headers = HeaderMap::new();
        headers.insert("server-timing", HeaderValue::from_static("gpu;dur=7"));
        server_timing(&mut headers, Duration::from_micros(12_345), Duration::ZERO);
        let all: Vec<_> = headers.get_all("server-timing").iter().collect();
        assert_eq!(all, ["gpu;dur=7", "dam;dur=12.345, queue;dur=0.000"]);
    }

    proptest! {
        #[test]
        fn a_client_that_waits_as_told_is_never_early(nanos in any::<u64>()) {
            let wait = Duration::from_nanos(nanos);
            let told = refusal(Reason::TokenLimited, wait);
            let number = |at: usize| told[at].1.parse::<u64>().unwrap();
            prop_assert!(Duration::from_secs(number(0)) >= wait);
            prop_assert!(Duration::from_millis(number(1)) >= wait);
            prop_assert!(Duration::from_millis(number(1) - 1) < wait.max(Duration::from_nanos(1)));
        }
    }
}
