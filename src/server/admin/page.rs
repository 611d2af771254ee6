//! The page at `/`: one file without anything from elsewhere.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use sha2::{Digest, Sha256};

pub(super) const PAGE: &str = include_str!("index.html");

/// The content security policy of every answer: the page's own script and style, known by their hashes, and requests
/// to where it came from.
pub(super) fn policy() -> HeaderValue {
    static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            source("<script>", "</script>"),
            source("<style>", "</style>"),
        );
        // Letters and base64 only, so this is always a header value; if not, a page that does nothing is safe.
        HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
    });
    POLICY.clone()
}

fn source(open: &str, close: &str) -> String {
    let inside =
        PAGE.split_once(open).and_then(|(_, rest)| rest.split_once(close)).map_or("", |(inside, _)| inside);
    format!("sha256-{}", STANDARD.encode(Sha256::digest(inside.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_and_one_style_and_nothing_that_needs_more() {
        assert_eq!((PAGE.matches("<script>").count(), PAGE.matches("<style>").count()), (1, 1));
        for foreign in ["src=", "http://", "https://", "innerHTML", " style=", " onclick", "eval("] {
            assert!(!PAGE.contains(foreign), "{foreign}");
        }
        let policy = policy();
        let policy = policy.to_str().unwrap();
        assert!(
            policy.contains("frame-ancestors 'none'") && policy.matches("'sha256-").count() == 2,
            "{policy}"
        );
    }
}
