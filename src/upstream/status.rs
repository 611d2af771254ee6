//! What a worker says with the status of its answer (pure).

use std::time::Duration;

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, StatusCode, response};

use crate::models::FallbackReason;
use crate::openai::anthropic;
use crate::shed::WorkerFailure;

/// Returns the failure if the status is a refusal that may hold for this worker only.
pub(crate) fn refusal_status(head: &response::Parts) -> Option<WorkerFailure> {
    match head.status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | anthropic::OVERLOADED => {
            Some(WorkerFailure::Busy(retry_after(&head.headers)))
        }
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Some(WorkerFailure::Refused),
        // They are about what was asked, and any worker of this kind would say the same.
        StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => None,
        status if status.is_server_error() => Some(WorkerFailure::Error),
        _ => None,
    }
}

/// Returns why another model may answer instead of a worker with this answer; `None` if the request
/// itself is to blame.
pub(crate) fn fallback_reason(head: &response::Parts) -> Option<FallbackReason> {
    match refusal_status(head) {
        Some(WorkerFailure::Busy(_)) => Some(FallbackReason::Overloaded),
        _ if head.status.is_server_error() => Some(FallbackReason::Failed),
        _ => None,
    }
}

/// Returns the time in `Retry-After`: seconds, or a date. A date is by the worker's clock, so it is compared with
/// the worker's own `Date`, and ignored without one.
pub(crate) fn retry_after(fields: &HeaderMap) -> Option<Duration> {
    let text = fields.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let sent = httpdate::parse_http_date(fields.get(DATE)?.to_str().ok()?).ok()?;
    Some(until.duration_since(sent).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_for_which_the_client_is_to_blame_is_its_own() {
        for (status, reason) in [
            (200, None),
            (400, None),
            (401, None),
            (404, None),
            (422, None),
            (429, Some(FallbackReason::Overloaded)),
            (500, Some(FallbackReason::Failed)),
            (502, Some(FallbackReason::Failed)),
            (503, Some(FallbackReason::Overloaded)),
        ] {
            let mut head = response::Response::new(()).into_parts().0;
            head.status = StatusCode::from_u16(status).unwrap();
            assert_eq!(fallback_reason(&head), reason, "{status}");
        }
    }

    #[test]
    fn every_server_error_is_the_workers_but_those_about_what_was_asked() {
        for (status, failure) in [
            (500, Some(WorkerFailure::Error)),
            (501, None),
            (502, Some(WorkerFailure::Refused)),
            (505, None),
            (507, Some(WorkerFailure::Error)),
            (520, Some(WorkerFailure::Error)),
            (529, Some(WorkerFailure::Busy(None))),
            (599, Some(WorkerFailure::Error)),
            (404, None),
            (302, None),
        ] {
            let mut head = response::Response::new(()).into_parts().0;
            head.status = StatusCode::from_u16(status).unwrap();
            assert_eq!(refusal_status(&head), failure, "{status}");
        }
    }

    #[test]
    fn a_worker_says_in_seconds_or_by_a_date_of_its_own_clock_how_long_it_is_busy() {
        let noon = "Sun, 06 Nov 1994 12:00:00 GMT";
        for (said, date, expected) in [
            ("7", None, Some(7)),
            (" 7 ", Some(noon), Some(7)),
            ("Sun, 06 Nov 1994 12:00:30 GMT", Some(noon), Some(30)),
            ("Sun, 06 Nov 1994 11:59:00 GMT", Some(noon), Some(0)),
            ("Sun, 06 Nov 1994 12:00:30 GMT", None, None),
            ("-7", Some(noon), None),
            ("soon", Some(noon), None),
        ] {
            let mut head = response::Response::new(()).into_parts().0;
            head.status = StatusCode::SERVICE_UNAVAILABLE;
            head.headers.insert(RETRY_AFTER, said.parse().unwrap());
            if let Some(date) = date {
                head.headers.insert(DATE, date.parse().unwrap());
            }
            let expected = expected.map(Duration::from_secs);
            assert_eq!(refusal_status(&head), Some(WorkerFailure::Busy(expected)), "{said} {date:?}");
        }
    }
}
