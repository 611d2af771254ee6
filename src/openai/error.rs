//! Refusals as OpenAI errors, which its clients turn into typed exceptions.

use bytes::Bytes;
use serde::Serialize;

use super::anthropic;
use crate::refusal::{Reason, Refusal};

/// Returns the error's `type`, which says who caused it.
const fn error_type(reason: Reason) -> &'static str {
    match reason {
        Reason::RateLimited | Reason::TokenLimited => "rate_limit_error",
        Reason::Unauthorized => "authentication_error",
        Reason::RequestTooLarge
        | Reason::BadRequest
        | Reason::BodyTooLarge
        | Reason::BodyTimeout
        | Reason::UnsupportedEncoding
        | Reason::NotFound
        | Reason::MethodNotAllowed
        | Reason::Conflict
        | Reason::KeyReused
        | Reason::Expired
        | Reason::Unsupported => "invalid_request_error",
        Reason::Overloaded
        | Reason::QueueTimeout
        | Reason::NoWorker
        | Reason::Draining
        | Reason::Maintenance
        | Reason::LimiterUnavailable
        | Reason::UpstreamUnreachable
        | Reason::UpstreamBroke
        | Reason::UpstreamTimeout
        | Reason::InternalError => "server_error",
    }
}

/// Returns the error's `code`: that of the OpenAI API if it has one, else the reason.
const fn code(reason: Reason) -> &'static str {
    match reason {
        Reason::RateLimited => "rate_limit_exceeded",
        Reason::TokenLimited => "tokens_limit_exceeded",
        Reason::Unauthorized => "invalid_api_key",
        other => other.as_str(),
    }
}

#[derive(Serialize)]
struct ErrorEnvelope<'a> {
    error: ErrorObject<'a>,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}

/// Returns the body of a refusal: `{"error":{"message","type","param","code"}}`.
#[must_use]
pub(crate) fn body(refusal: &Refusal) -> Bytes {
    envelope(refusal, "", "")
}

/// Format of a stream's events, and so of an error among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamFormat {
    /// Unnamed data: chat and completions.
    #[default]
    Bare,
    /// Named events, which readers tell apart by name.
    Named,
    /// Messages API: readers skip unnamed events, and errors have a shape of their own.
    Messages,
}

/// Returns a refusal as an event for a started stream, of the request `id`. The empty lines before
/// it end an event that was cut off.
#[must_use]
pub(crate) fn event(refusal: &Refusal, stream_format: StreamFormat, id: &str) -> Bytes {
    match stream_format {
        StreamFormat::Bare => envelope(refusal, "\n\ndata: ", "\n\n"),
        StreamFormat::Named => envelope(refusal, "\n\nevent: error\ndata: ", "\n\n"),
        StreamFormat::Messages => anthropic::event(refusal, id),
    }
}

fn envelope(refusal: &Refusal, before: &str, after: &str) -> Bytes {
    let error = ErrorObject {
        message: &refusal.message,
        r#type: error_type(refusal.reason),
        param: refusal.param.as_deref(),
        code: code(refusal.reason),
    };
    // Serializing strings to memory cannot fail.
    let json = serde_json::to_string(&ErrorEnvelope { error }).unwrap_or_default();
    [before, &json, after].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::tap::SseTap;
    use crate::request::Blame;
    use serde_json::{Value, json};

    #[test]
    fn every_reason_has_the_status_type_and_code_of_the_contract() {
        let table = [
            ("rate_limited", 429, "rate_limit_error", "rate_limit_exceeded"),
            ("token_limited", 429, "rate_limit_error", "tokens_limit_exceeded"),
            ("request_too_large", 400, "invalid_request_error", "request_too_large"),
            ("overloaded", 503, "server_error", "overloaded"),
            ("queue_timeout", 503, "server_error", "queue_timeout"),
            ("no_worker", 503, "server_error", "no_worker"),
            ("draining", 503, "server_error", "draining"),
            ("maintenance", 503, "server_error", "maintenance"),
            ("limiter_unavailable", 503, "server_error", "limiter_unavailable"),
            ("upstream_unreachable", 502, "server_error", "upstream_unreachable"),
            ("upstream_broke", 502, "server_error", "upstream_broke"),
            ("upstream_timeout", 504, "server_error", "upstream_timeout"),
            ("unauthorized", 401, "authentication_error", "invalid_api_key"),
            ("bad_request", 400, "invalid_request_error", "bad_request"),
            ("body_too_large", 413, "invalid_request_error", "body_too_large"),
            ("body_timeout", 408, "invalid_request_error", "body_timeout"),
            ("unsupported_encoding", 415, "invalid_request_error", "unsupported_encoding"),
            ("not_found", 404, "invalid_request_error", "not_found"),
            ("method_not_allowed", 405, "invalid_request_error", "method_not_allowed"),
            ("conflict", 409, "invalid_request_error", "conflict"),
            ("key_reused", 422, "invalid_request_error", "key_reused"),
            ("expired", 410, "invalid_request_error", "expired"),
            ("unsupported", 501, "invalid_request_error", "unsupported"),
            ("internal_error", 500, "server_error", "internal_error"),
        ];
        let ours = Reason::ALL.map(|reason| {
            let error: Value = serde_json::from_slice(&body(&Refusal::new(reason, ""))).unwrap();
            let text = |name: &str| error["error"][name].as_str().unwrap().to_owned();
            (reason.as_str(), reason.status().as_u16(), text("type"), text("code"))
        });
        let table =
            table.map(|(name, status, family, code)| (name, status, family.to_owned(), code.to_owned()));
        assert_eq!(ours, table);
    }

    #[test]
    fn a_message_is_escaped_and_an_event_can_be_read() {
        let refusal =
            Refusal::new(Reason::UpstreamBroke, "said \"no\"\n\ndata: x\u{7f}é\\").with_param("a.b");
        let read: Value = serde_json::from_slice(&body(&refusal)).unwrap();
        let error = json!({"message": refusal.message, "type": "server_error", "param": "a.b", "code": "upstream_broke"});
        assert_eq!(read, json!({ "error": error }));

        for stream_format in [StreamFormat::Bare, StreamFormat::Named, StreamFormat::Messages] {
            let event = event(&refusal, stream_format, "r1");
            let mut tap = SseTap::new();
            tap.feed(b"data: {\"choices\":[{\"delta\":{\"content\":\"cut o");
            let seen = tap.feed(&event);
            assert_eq!((seen.error, seen.done), (Some(Blame::Worker), false));
            let text = std::str::from_utf8(&event).unwrap();
            assert!(text.ends_with("}\n\n") && text.starts_with("\n\n"));
            assert_eq!(text.contains("\nevent: error\ndata: "), stream_format != StreamFormat::Bare);
        }
    }
}
