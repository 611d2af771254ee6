//! In which form an answer comes, by what its head says.

use http::header::{CONTENT_TYPE, HeaderMap};

use crate::net::fields::is_encoded;

/// The form of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Server-sent events. What is `encoded` nobody can read along.
    Events { encoded: bool },
    /// One JSON text after another, each on a line of its own.
    Lines,
    /// One JSON document, which means something only when it is whole.
    Document { encoded: bool },
    /// A page for people, which no model writes as its answer: a login, an error of something in between.
    Page,
    /// Anything else, or unnamed.
    Other,
}

impl Form {
    /// The form of an answer with these fields.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let encoded = is_encoded(headers);
        let named = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        let named = named.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        // Nearly all are one of these two, as they are written here.
        match named {
            b"application/json" => return Self::Document { encoded },
            b"text/event-stream" => return Self::Events { encoded },
            _ => {}
        }
        let named = String::from_utf8_lossy(named).to_ascii_lowercase();
        // The names that are in use for it are many, and none is registered but the last two.
        let lines = ["ndjson", "jsonl", "json-lines", "json-stream", "stream+json", "json-seq"];
        match &*named {
            "text/event-stream" => Self::Events { encoded },
            name if lines.iter().any(|part| name.contains(part)) => Self::Lines,
            name if name.ends_with("json") => Self::Document { encoded },
            name if name.ends_with("xml") || name == "text/html" => Self::Page,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::CONTENT_ENCODING;

    #[test]
    fn the_head_says_in_which_form_an_answer_comes() {
        for (kind, encoding, form) in [
            ("text/event-stream", None, Form::Events { encoded: false }),
            ("Text/Event-Stream ; charset=utf-8", Some("identity"), Form::Events { encoded: false }),
            ("text/event-stream", Some("gzip"), Form::Events { encoded: true }),
            ("text/event-stream", Some("identity, BR"), Form::Events { encoded: true }),
            ("application/x-ndjson", Some("gzip"), Form::Lines),
            ("application/jsonl; charset=utf-8", None, Form::Lines),
            ("application/stream+json", None, Form::Lines),
            ("application/json", None, Form::Document { encoded: false }),
            ("application/problem+json", Some("zstd"), Form::Document { encoded: true }),
            ("text/html; charset=utf-8", None, Form::Page),
            ("application/xhtml+xml", Some("gzip"), Form::Page),
            ("text/plain; charset=utf-8", None, Form::Other),
            ("audio/mpeg", None, Form::Other),
            ("", None, Form::Other),
        ] {
            let mut headers = HeaderMap::new();
            if !kind.is_empty() {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            if let Some(encoding) = encoding {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            assert_eq!(Form::of(&headers), form, "{kind} {encoding:?}");
        }
    }
}
