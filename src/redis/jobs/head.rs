//! Headers passed to a worker with a job, and those passed back from its reply.
//!
//! Both are allow lists, because a job is written to disk and visible to every reader of Redis.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, response};
use serde::Deserialize;

use crate::fleet::side;

/// Request headers passed to workers.
const FOR_WORKERS: [&str; 7] = [
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "traceparent",
    "tracestate",
    "x-request-id",
];
/// Bytes of a reply head that are parsed; a longer one is invalid.
const LONGEST: usize = 16 * 1024;
/// Bytes of a name: a colour, `@`, a version, `:` and a worker.
const NAME: usize = 194;

/// Returns the headers that go with the job of a request, as JSON.
#[must_use]
pub(crate) fn for_worker(headers: &HeaderMap) -> String {
    let known: BTreeMap<&str, &str> =
        FOR_WORKERS.into_iter().filter_map(|name| Some((name, headers.get(name)?.to_str().ok()?))).collect();
    // Serializing a map of strings cannot fail.
    serde_json::to_string(&known).unwrap_or_default()
}

/// Writes the head of an answer that is stored, with the headers that [`read_head`] lets through.
#[must_use]
pub(crate) fn write_head(head: &response::Parts) -> Bytes {
    let passed = head.headers.iter().filter(|(name, _)| may_pass(name.as_str()));
    let headers: BTreeMap<&str, &str> =
        passed.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect();
    serde_json::json!({ "status": head.status.as_u16(), "headers": headers }).to_string().into()
}

/// The worker that an answer names. Each name is one that could also come in a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AnsweredBy {
    /// Its name.
    pub worker: Option<Arc<str>>,
    /// Its version.
    pub version: Option<Arc<str>>,
    /// The side whose job it took, as it says.
    pub colour: Option<Arc<str>>,
    /// How long the job waited in the stream of that side.
    pub waited: Option<Duration>,
}

impl AnsweredBy {
    /// Returns how long a job that waited in the worker's own stream for at most `wait` did so; `None`
    /// if the worker does not tell.
    #[must_use]
    pub(crate) fn waited_alone(&self, wait: Duration) -> Option<Duration> {
        let colour = self.colour.as_deref()?;
        if side::without_worker(colour) == colour { Some(wait) } else { self.waited }
    }
}

#[derive(Deserialize)]
struct AnswerHead {
    status: u16,
    #[serde(default)]
    worker: Option<String>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    colour: Option<String>,
    #[serde(default)]
    waited_ms: Option<u64>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

fn may_pass(name: &str) -> bool {
    name == "content-type" || name == "retry-after" || name.starts_with("openai-")
}

/// Returns a name that goes to logs, headers and metrics; others are dropped.
fn label(text: Option<String>) -> Option<Arc<str>> {
    let is_plain = |text: &String| {
        (1..=NAME).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@+:".contains(&byte))
    };
    text.filter(is_plain).map(Into::into)
}

/// Parses the head of a reply, and who sent it; `None` if it is invalid.
#[must_use]
pub(crate) fn read_head(data: &[u8]) -> Option<(response::Parts, AnsweredBy)> {
    let AnswerHead { status, worker, version, colour, waited_ms, headers } =
        serde_json::from_slice(data.get(..data.len().min(LONGEST))?).ok()?;
    let (worker, version, colour) = (label(worker), label(version), label(colour));
    let by = AnsweredBy { worker, version, colour, waited: waited_ms.map(Duration::from_millis) };
    // A status below 200 has no body, and another response would follow.
    let status = StatusCode::from_u16(status).ok().filter(|status| status.as_u16() >= 200)?;
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = status;
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        if may_pass(name.as_str()) {
            head.headers.insert(name, HeaderValue::from_str(&value).ok()?);
        }
    }
    Some((head, by))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_goes_with_a_job() {
        let mut headers = HeaderMap::new();
        for name in [
            "authorization",
            "cookie",
            "x-api-key",
            "content-type",
            "x-request-id",
            "x-forwarded-for",
            "anthropic-version",
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
        }
        let known = r#"{"anthropic-version":"v","content-type":"v","x-request-id":"v"}"#;
        assert_eq!(for_worker(&headers), known);
    }

    #[test]
    fn a_head_is_read_as_it_is_written() {
        let (mut head, ()) = Response::new(()).into_parts();
        head.status = StatusCode::IM_A_TEAPOT;
        for name in ["content-type", "openai-version", "set-cookie", "x-request-id"] {
            head.headers.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
        }
        let (read, by) = read_head(&write_head(&head)).unwrap();
        let names: Vec<&str> = read.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!((read.status, names), (head.status, vec!["content-type", "openai-version"]));
        assert_eq!(by, AnsweredBy::default());
    }

    #[test]
    fn a_head_brings_its_status_and_few_headers() {
        let text = r#"{"worker":"w1","status":429,"headers":{"Content-Type":"application/json","set-cookie":"a=b","OpenAI-Version":"1","x-traffic-dam-reason":"x"}}"#;
        let (head, by) = read_head(text.as_bytes()).unwrap();
        assert_eq!(by, AnsweredBy { worker: Some("w1".into()), ..AnsweredBy::default() });
        let names: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!((head.status.as_u16(), names), (429, vec!["content-type", "openai-version"]));
        let text = r#"{"status":200,"worker":"w 1","version":"2.0+a","colour":"blue@2.0","waited_ms":20}"#;
        let (_, by) = read_head(text.as_bytes()).unwrap();
        let (version, colour) = (Some("2.0+a".into()), Some("blue@2.0".into()));
        let waited = Some(Duration::from_millis(20));
        assert_eq!(by, AnsweredBy { worker: None, version, colour, waited }, "what is no name is dropped");
        for wrong in [
            "",
            "{}",
            r#"{"status":99}"#,
            r#"{"status":101}"#,
            r#"{"status":200,"headers":{"content-type":"a\nb"}}"#,
        ] {
            assert!(read_head(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
