//! Places of the facts in a body.

use std::ops::Range;
use std::sync::Arc;

use super::{BodyFieldError, MediaUrls};
use crate::openai::kinds::{self, KindRow};
use crate::openai::scan::Scanner;
use crate::request::Kind;

/// Shape of a request body: that of a kind's endpoint or of a configured route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Endpoint whose members the body has.
    pub(super) kind: Kind,
    /// `true` if the body follows the kind's API exactly: a member of the wrong type is an error,
    /// and `stream_options` may be set. In a route's own body a member may mean something else.
    pub(super) strict: bool,
    pub(super) prompt: Option<Pointer>,
    pub(super) session: Option<Pointer>,
    pub(super) max_tokens: Option<Pointer>,
    pub(super) urls: MediaUrls,
}

impl Shape {
    /// Returns the shape of a body on an endpoint of the kind.
    #[must_use]
    pub const fn of_kind(kind: Kind) -> Self {
        Self { kind, strict: true, prompt: None, session: None, max_tokens: None, urls: MediaUrls::Allow }
    }

    /// Returns the shape of a configured route's body; the route stands for an endpoint of `kind`.
    ///
    /// `prompt` replaces the kind's own prompt members, `max_tokens` those of the output bound.
    #[must_use]
    pub const fn route(kind: Kind, prompt: Option<Pointer>, max_tokens: Option<Pointer>) -> Self {
        Self { kind, strict: false, prompt, session: None, max_tokens, urls: MediaUrls::Allow }
    }

    /// Adds a pointer to the session name.
    #[must_use]
    pub fn with_session(mut self, session: Option<Pointer>) -> Self {
        self.session = session;
        self
    }

    /// Sets which URLs of media may be passed on.
    #[must_use]
    pub(crate) fn with_media_urls(mut self, urls: MediaUrls) -> Self {
        self.urls = urls;
        self
    }

    /// Returns the kind of call.
    #[must_use]
    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn row(&self) -> &'static KindRow {
        kinds::row(self.kind)
    }
}

/// A JSON pointer (RFC 6901) that names at least one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    text: Arc<str>,
    head: Box<str>,
    tail: Box<[Box<str>]>,
}

/// Error of a text that is not a usable pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// Text that is empty or does not start with a slash.
    #[error("a JSON pointer starts with \"/\", as in \"/session_id\"")]
    NoSlash,
    /// Tilde that is followed by neither 0 nor 1.
    #[error("in a JSON pointer \"~\" is written \"~0\" and \"/\" is written \"~1\"")]
    Tilde,
    /// More than `Pointer::MAX_PARTS` parts.
    #[error("a JSON pointer has at most {} parts", Pointer::MAX_PARTS)]
    TooLong,
}

impl Pointer {
    /// Parts per pointer: each costs another scan of the selected value.
    pub(crate) const MAX_PARTS: usize = 16;

    /// Reads a pointer such as `/metadata/session_id` or `/messages/0`.
    ///
    /// # Errors
    /// If the text is not a JSON pointer, selects the whole document, or has too many parts.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        let mut parts = text.strip_prefix('/').ok_or(PointerError::NoSlash)?.split('/').map(unescape);
        let head = parts.next().unwrap_or(Err(PointerError::NoSlash))?;
        let tail: Box<[_]> = parts.collect::<Result<_, _>>()?;
        if tail.len() >= Self::MAX_PARTS {
            return Err(PointerError::TooLong);
        }
        Ok(Self { text: text.into(), head, tail })
    }

    /// Returns the pointer as written.
    #[must_use]
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns `true` if it selects the member `name` of the body, or something inside it.
    pub(super) fn enters(&self, name: &[u8]) -> bool {
        self.head.as_bytes() == name
    }

    /// Returns what it selects inside the value of the member that it [enters](Pointer::enters).
    pub(super) fn select<'a>(&self, value: &'a [u8]) -> Result<Option<&'a [u8]>, BodyFieldError> {
        let mut selected = value;
        for part in &self.tail {
            let mut found = None;
            let mut scanner = Scanner::new(selected);
            match scanner.peek()? {
                b'{' => scanner.object(|scanner, key| {
                    let value = span(scanner)?;
                    if *key.name() == *part.as_bytes() && found.replace(value).is_some() {
                        return Err(BodyFieldError::Duplicate { param: self.text.to_string().into() });
                    }
                    Ok(())
                })?,
                b'[' => {
                    let wanted = index(part);
                    let mut at = 0;
                    scanner.array::<BodyFieldError>(|scanner| {
                        let value = span(scanner)?;
                        if wanted == Some(at) {
                            found = Some(value);
                        }
                        at += 1;
                        Ok(())
                    })?;
                }
                _ => {}
            }
            let Some(inner) = found.and_then(|range: Range<usize>| selected.get(range)) else {
                return Ok(None);
            };
            selected = inner;
        }
        Ok(Some(selected))
    }
}

/// Reads one value and returns its range.
pub(super) fn span(scanner: &mut Scanner<'_>) -> Result<Range<usize>, BodyFieldError> {
    scanner.peek()?;
    let start = scanner.at();
    scanner.skip()?;
    Ok(start..scanner.at())
}

fn unescape(part: &str) -> Result<Box<str>, PointerError> {
    let mut pieces = part.split('~');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (mark, rest) = piece.split_at_checked(1).ok_or(PointerError::Tilde)?;
        plain.push(match mark {
            "0" => '~',
            "1" => '/',
            _ => return Err(PointerError::Tilde),
        });
        plain.push_str(rest);
    }
    Ok(plain.into())
}

fn index(part: &str) -> Option<usize> {
    let canonical = part == "0" || !part.starts_with(['0', '+']);
    canonical.then(|| part.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn selects_what_serde_json_selects() {
        let inner = json!({"a": [1, {"b~/c": "x"}, [[]]], "": {"": 2}, "0": null, "é\n": [true]});
        let body = serde_json::to_vec(&inner).unwrap();
        for tail in [
            "",
            "/a",
            "/a/0",
            "/a/1/b~0~1c",
            "/a/2/0",
            "/a/3",
            "/a/-",
            "/a/01",
            "/a/+1",
            "/",
            "//",
            "/0",
            "/é\n/0",
            "/a/0/x",
        ] {
            let pointer = Pointer::parse(&format!("/top{tail}")).unwrap();
            assert!(pointer.enters(b"top") && !pointer.enters(b"to"));
            let ours =
                pointer.select(&body).unwrap().map(|value| serde_json::from_slice::<Value>(value).unwrap());
            assert_eq!(ours.as_ref(), inner.pointer(tail), "{tail}");
        }
    }

    #[test]
    fn an_ambiguous_selection_is_a_fault() {
        let pointer = Pointer::parse("/meta/session").unwrap();
        let fault = pointer.select(br#"{"session":"a","sess\u0069on":"b"}"#).unwrap_err();
        assert_eq!(fault, BodyFieldError::Duplicate { param: "/meta/session".into() });
    }

    #[test]
    fn pointers_that_cannot_be_meant_are_refused() {
        assert_eq!(Pointer::parse(""), Err(PointerError::NoSlash));
        assert_eq!(Pointer::parse("limit"), Err(PointerError::NoSlash));
        assert_eq!(Pointer::parse("/a~"), Err(PointerError::Tilde));
        assert_eq!(Pointer::parse("/a~2"), Err(PointerError::Tilde));
        assert_eq!(Pointer::parse(&"/a".repeat(17)), Err(PointerError::TooLong));
    }
}
