//! External workers: what reaches them, and what of their answers reaches clients.
//!
//! A provider gets the question and nothing about who asked. Both directions have a list of fields
//! that pass: a field that nobody has thought of stays here.

use std::time::{Duration, UNIX_EPOCH};

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE,
    CONTENT_LENGTH, CONTENT_TYPE, DATE, RETRY_AFTER, TRANSFER_ENCODING, VARY,
};
use http::{HeaderMap, HeaderName, StatusCode, Uri, response};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::status::retry_after;
use crate::fleet::provider::ProviderNews;
use crate::shed::WorkerFailure;

/// Anthropic's answer when it is overloaded.
const OVERLOADED: u16 = 529;
/// Longest time that is read from a provider's answer: a day.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Removes from a request all fields that an external worker does not need. The gateway adds the
/// worker's own `headers` afterwards.
pub(crate) fn keep_allowed(fields: &mut HeaderMap) {
    retain(fields, |name| {
        [CONTENT_TYPE, ACCEPT, ACCEPT_ENCODING].contains(name)
            || name == "openai-beta"
            || (name.as_str().starts_with("anthropic-") && !names_somebody(name.as_str()))
    });
}

/// Returns `true` if a field of this name may carry credentials, or say who asks.
fn names_somebody(name: &str) -> bool {
    ["key", "auth", "token", "secret", "cookie", "session", "organization", "workspace", "user"]
        .iter()
        .any(|word| name.contains(word))
}

/// Removes from an answer what concerns the gateway's account with the provider, and cookies.
pub(crate) fn keep_content(fields: &mut HeaderMap) {
    const KEPT: [HeaderName; 10] = [
        CONTENT_TYPE,
        CONTENT_LENGTH,
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
        CONTENT_DISPOSITION,
        CACHE_CONTROL,
        DATE,
        RETRY_AFTER,
        TRANSFER_ENCODING,
        VARY,
    ];
    retain(fields, |name| KEPT.contains(name));
}

fn retain(fields: &mut HeaderMap, keeps: impl Fn(&HeaderName) -> bool) {
    let out: Vec<HeaderName> = fields.keys().filter(|name| !keeps(name)).cloned().collect();
    for name in out {
        fields.remove(name);
    }
}

/// Removes parameters of a query that may carry the caller's credentials.
pub(crate) fn without_credentials(asked: &Uri) -> Option<Uri> {
    let query = asked.query()?;
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
            // An escape could hide a name.
            !name.contains('%') && !names_somebody(&name)
        })
        .collect();
    if kept.len() == query.split('&').count() {
        return None;
    }
    let (path, mark) = (asked.path(), if kept.is_empty() { "" } else { "?" });
    format!("{path}{mark}{}", kept.join("&")).parse().ok()
}

/// Returns the failure if an answer of an external worker is none for the client.
pub(crate) fn refused(head: &response::Parts) -> Option<WorkerFailure> {
    match head.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some(WorkerFailure::Rejected),
        status
            if status == StatusCode::TOO_MANY_REQUESTS
                || status == StatusCode::SERVICE_UNAVAILABLE
                || status.as_u16() == OVERLOADED =>
        {
            let exact = number(&head.headers, "retry-after-ms").map(Duration::from_millis);
            Some(WorkerFailure::Busy(exact.or_else(|| retry_after(&head.headers))))
        }
        _ => None,
    }
}

/// Reads what the fields of an answer tell about the provider's limits.
pub(crate) fn news(head: &response::Parts) -> ProviderNews {
    let fields = &head.headers;
    let least = |names: &[&str]| names.iter().filter_map(|name| number(fields, name)).min();
    let requests = least(&["x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining"]);
    let tokens = least(&[
        "x-ratelimit-remaining-tokens",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-input-tokens-remaining",
        "anthropic-ratelimit-output-tokens-remaining",
    ]);
    // The reset is when the limit is full again; as long as something is left, it says little.
    let reset = |unit: &str| {
        let openai =
            fields.get(format!("x-ratelimit-reset-{unit}")).and_then(|text| span(text.to_str().ok()?));
        openai.or_else(|| until(fields, &format!("anthropic-ratelimit-{unit}-reset")))
    };
    let used_up =
        [(requests, "requests"), (tokens, "tokens")].into_iter().filter(|(left, _)| *left == Some(0));
    ProviderNews {
        requests,
        tokens,
        reset: used_up.filter_map(|(_, unit)| reset(unit)).max(),
        served: head.status.is_success(),
    }
}

fn number(fields: &HeaderMap, name: &str) -> Option<u64> {
    fields.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Reads a span such as `6m0s`, `1h2m3.5s`, `120ms`, or seconds without a unit.
fn span(text: &str) -> Option<Duration> {
    let (mut rest, mut sum) = (text.trim(), 0.0_f64);
    if rest.is_empty() || rest.len() > 32 {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(end);
        let unit_end = after.find(|letter: char| letter.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let seconds = match unit {
            "d" => 86_400.0,
            "h" => 3600.0,
            "m" => 60.0,
            "s" | "" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        sum += digits.parse::<f64>().ok()? * seconds;
        rest = next;
    }
    Duration::try_from_secs_f64(sum).ok().map(|span| span.min(LONGEST))
}

/// Reads the time until a moment in RFC 3339, by the provider's own clock (`Date`).
fn until(fields: &HeaderMap, name: &str) -> Option<Duration> {
    let moment = OffsetDateTime::parse(fields.get(name)?.to_str().ok()?.trim(), &Rfc3339).ok()?;
    let sent = httpdate::parse_http_date(fields.get(DATE)?.to_str().ok()?).ok()?;
    let sent = sent.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let until = u64::try_from(moment.unix_timestamp()).ok()?;
    Some(Duration::from_secs(until.saturating_sub(sent)).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, fields: &[(&'static str, &str)]) -> response::Parts {
        let mut head = http::Response::new(()).into_parts().0;
        head.status = StatusCode::from_u16(status).unwrap();
        for (name, value) in fields {
            head.headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        head
    }

    fn names(fields: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_provider_gets_the_question_and_nothing_about_who_asks() {
        let mut fields = head(
            200,
            &[
                ("content-type", "application/json"),
                ("accept", "text/event-stream"),
                ("accept-encoding", "identity"),
                ("anthropic-version", "2023-06-01"),
                ("anthropic-beta", "a"),
                ("anthropic-beta", "b"),
                ("anthropic-api-key", "k"),
                ("anthropic-organization-id", "o"),
                ("openai-beta", "c"),
                ("openai-organization", "org"),
                ("openai-project", "p"),
                ("authorization", "Bearer k"),
                ("x-api-key", "k"),
                ("cookie", "a=b"),
                ("x-forwarded-for", "192.0.2.1"),
                ("forwarded", "for=192.0.2.1"),
                ("x-request-id", "r1"),
                ("traceparent", "00-1-2-01"),
                ("tracestate", "a=b"),
                ("baggage", "user=ada"),
                ("user-agent", "curl"),
                ("origin", "https://site.example"),
                ("referer", "https://site.example/a"),
                ("x-session-id", "s"),
                ("x-user-id", "ada"),
                ("te", "trailers"),
            ],
        )
        .headers;
        keep_allowed(&mut fields);
        assert_eq!(
            names(&fields),
            [
                "accept",
                "accept-encoding",
                "anthropic-beta",
                "anthropic-version",
                "content-type",
                "openai-beta"
            ]
        );
        assert_eq!(fields.get_all("anthropic-beta").iter().count(), 2);
    }

    #[test]
    fn an_answer_says_nothing_of_the_account_with_the_provider() {
        let mut fields = head(
            200,
            &[
                ("content-type", "application/json"),
                ("content-length", "2"),
                ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
                ("set-cookie", "__cf_bm=1"),
                ("openai-organization", "acme"),
                ("openai-processing-ms", "12"),
                ("anthropic-organization-id", "o"),
                ("anthropic-ratelimit-requests-remaining", "3"),
                ("x-ratelimit-limit-requests", "500"),
                ("request-id", "req_1"),
                ("cf-ray", "1"),
                ("location", "https://api.example/"),
            ],
        )
        .headers;
        keep_content(&mut fields);
        assert_eq!(names(&fields), ["content-length", "content-type", "date"]);
    }

    #[test]
    fn credentials_in_a_query_stay_here() {
        for (asked, sent) in [
            ("/v1/messages?beta=true", None),
            ("/v1/messages", None),
            ("/v1/a?key=k&beta=true", Some("/v1/a?beta=true")),
            ("/v1/a?API_KEY=k", Some("/v1/a")),
            ("/v1/a?access_token=k&b=c&%6bey=k", Some("/v1/a?b=c")),
        ] {
            let sent = sent.map(|sent| sent.parse::<Uri>().unwrap());
            assert_eq!(without_credentials(&asked.parse().unwrap()), sent, "{asked}");
        }
    }

    #[test]
    fn refusals_of_a_provider_are_told_apart() {
        let busy = |seconds| Some(WorkerFailure::Busy(Some(Duration::from_millis(seconds))));
        for (status, fields, expected) in [
            (401, &[][..], Some(WorkerFailure::Rejected)),
            (403, &[], Some(WorkerFailure::Rejected)),
            (429, &[("retry-after", "7")], busy(7000)),
            (429, &[("retry-after", "1"), ("retry-after-ms", "250")], busy(250)),
            (529, &[], Some(WorkerFailure::Busy(None))),
            (503, &[("retry-after", "soon")], Some(WorkerFailure::Busy(None))),
            (400, &[("retry-after", "7")], None),
            (404, &[], None),
            (200, &[], None),
        ] {
            assert_eq!(refused(&head(status, fields)), expected, "{status} {fields:?}");
        }
    }

    #[test]
    fn what_is_left_is_read_in_the_words_of_each_provider() {
        let openai = news(&head(
            200,
            &[
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "6m0s"),
                ("x-ratelimit-remaining-tokens", "149984"),
                ("x-ratelimit-reset-tokens", "1h"),
            ],
        ));
        let reset = Some(Duration::from_secs(360));
        assert_eq!(openai, ProviderNews { requests: Some(0), tokens: Some(149_984), reset, served: true });
        let anthropic = news(&head(
            429,
            &[
                ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
                ("anthropic-ratelimit-requests-remaining", "12"),
                ("anthropic-ratelimit-input-tokens-remaining", "9000"),
                ("anthropic-ratelimit-output-tokens-remaining", "0"),
                ("anthropic-ratelimit-tokens-reset", "1994-11-06T08:49:49Z"),
            ],
        ));
        let reset = Some(Duration::from_secs(12));
        assert_eq!(anthropic, ProviderNews { requests: Some(12), tokens: Some(0), reset, served: false });
        let mad = news(&head(
            200,
            &[
                ("x-ratelimit-remaining-requests", "-1"),
                ("x-ratelimit-remaining-tokens", "18446744073709551616"),
                ("x-ratelimit-reset-tokens", "1e400s"),
            ],
        ));
        assert_eq!(mad, ProviderNews { served: true, ..ProviderNews::default() });
    }

    #[test]
    fn spans_are_read_as_providers_write_them() {
        for (text, millis) in [
            ("1s", Some(1000)),
            ("6m0s", Some(360_000)),
            ("120ms", Some(120)),
            ("1h2m3.5s", Some(3_723_500)),
            ("20", Some(20_000)),
            ("9999999999h", Some(86_400_000)),
            ("", None),
            ("s", None),
            ("1w", None),
            ("-1s", None),
            ("1..2s", None),
        ] {
            assert_eq!(span(text), millis.map(Duration::from_millis), "{text}");
        }
    }
}
