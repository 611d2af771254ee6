//! Content type of a response, by its head.

use http::header::{CONTENT_TYPE, HeaderMap};

use crate::net::fields::is_encoded;

/// Content type of a response, as far as it decides how to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyForm {
    /// Server-sent events; unreadable to the gateway if `encoded` (compressed).
    Events { encoded: bool },
    /// JSON texts, one per line; unreadable to the gateway if `encoded`.
    Lines { encoded: bool },
    /// One JSON document, which is useful only as a whole.
    Document { encoded: bool },
    /// HTML or XML page, which no model writes: a login, or the error of a proxy in between.
    Page,
    /// Picture, sound or video.
    Media,
    /// Any other type, or none.
    Other,
}

impl BodyForm {
    /// Returns the content type given by these headers.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let encoded = is_encoded(headers);
        let named = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        let named = named.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        // Nearly all are one of these two, spelled like this.
        match named {
            b"application/json" => return Self::Document { encoded },
            b"text/event-stream" => return Self::Events { encoded },
            _ => {}
        }
        let named = String::from_utf8_lossy(named).to_ascii_lowercase();
        // Many names are in use for this; only the last two are registered.
        let lines = ["ndjson", "jsonl", "json-lines", "json-stream", "stream+json", "json-seq"];
        match &*named {
            "text/event-stream" => Self::Events { encoded },
            name if lines.iter().any(|part| name.contains(part)) => Self::Lines { encoded },
            name if name.ends_with("json") => Self::Document { encoded },
            name if name.starts_with("image/") && name.ends_with("+xml") => Self::Media,
            name if name.ends_with("xml") || name == "text/html" => Self::Page,
            name if ["image/", "audio/", "video/", "font/"].iter().any(|kind| name.starts_with(kind)) => {
                Self::Media
            }
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
            ("text/event-stream", None, BodyForm::Events { encoded: false }),
            ("Text/Event-Stream ; charset=utf-8", Some("identity"), BodyForm::Events { encoded: false }),
            ("text/event-stream", Some("gzip"), BodyForm::Events { encoded: true }),
            ("text/event-stream", Some("identity, BR"), BodyForm::Events { encoded: true }),
            ("application/x-ndjson", Some("gzip"), BodyForm::Lines { encoded: true }),
            ("application/jsonl; charset=utf-8", None, BodyForm::Lines { encoded: false }),
            ("application/stream+json", None, BodyForm::Lines { encoded: false }),
            ("application/json", None, BodyForm::Document { encoded: false }),
            ("application/problem+json", Some("zstd"), BodyForm::Document { encoded: true }),
            ("text/html; charset=utf-8", None, BodyForm::Page),
            ("application/xhtml+xml", Some("gzip"), BodyForm::Page),
            ("text/plain; charset=utf-8", None, BodyForm::Other),
            ("audio/mpeg", None, BodyForm::Media),
            ("image/svg+xml", None, BodyForm::Media),
            ("application/octet-stream", None, BodyForm::Other),
            ("", None, BodyForm::Other),
        ] {
            let mut headers = HeaderMap::new();
            if !kind.is_empty() {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            if let Some(encoding) = encoding {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            assert_eq!(BodyForm::of(&headers), form, "{kind} {encoding:?}");
        }
    }
}
