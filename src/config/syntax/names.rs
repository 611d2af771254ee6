//! Names, patterns and pointers.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::Syntax;
use crate::layers::paths::is_dot_segment;
use crate::openai::body::Pointer;

/// Maximum length of a pattern or pointer, in bytes; matching takes time in proportion to it.
const LONGEST: usize = 256;

pub(super) fn plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST && !text.chars().any(char::is_control)
}

/// Declares a syntax whose value is a validated text.
macro_rules! checked {
    ($(#[$doc:meta])* $vis:vis $type:ident,
        $name:literal, $expected:literal, $pattern:literal, $accepts:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis struct $type(pub Arc<str>);

        impl Syntax for $type {
            const NAME: &'static str = $name;
            const EXPECTED: &'static str = $expected;
            const PATTERN: &'static str = $pattern;

            fn read(text: &str) -> Option<Self> {
                let accepts: fn(&str) -> bool = $accepts;
                accepts(text).then(|| Self(text.into()))
            }

            fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

pub(super) use checked;

pub(super) fn made_of(text: &str, also: &[u8]) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || also.contains(&byte))
}

checked! {
    /// Name of a worker, pool, colour or caller; it appears in metric labels and log lines.
    pub Id, "name",
    "1 to 64 letters, digits, `.`, `_` or `-`", "^[A-Za-z0-9._-]{1,64}$", |text| made_of(text, b"._-")
}

checked! {
    /// Name of a rule; it appears in a header that allows no dots.
    pub(crate) RuleName, "rule name",
    "1 to 64 letters, digits, `_` or `-`", "^[A-Za-z0-9_-]{1,64}$", |text| made_of(text, b"_-")
}

checked! {
    /// A pattern, in which `*` matches any run of characters.
    pub Glob, "pattern", "1 to 256 characters, where `*` matches any characters", "^.{1,256}$", plain
}

checked! {
    /// A pattern for a path. It must be normalised, as are the paths that it is matched against.
    pub(crate) PathGlob, "path pattern",
    "a path that begins with `/`, where `*` matches any characters, without `//`, `.`, `..`, `?`, `#` or `%`",
    "^/[^?#%]{0,255}$",
    |text| {
        let segments = text.strip_prefix('/').map(|rest| rest.split('/'));
        // An empty last segment is a trailing slash, which makes a different path.
        let normal = segments.is_some_and(|segments| {
            let mut segments = segments.peekable();
            std::iter::from_fn(|| segments.next().map(|segment| (segment, segments.peek().is_none())))
                .all(|(segment, last)| {
                    !is_dot_segment(segment) && !segment.starts_with(';') && (last || !segment.is_empty())
                })
        });
        normal && plain(text) && !text.contains(['?', '#', '%', '\\']) && !text.contains(char::is_whitespace)
    }
}

checked! {
    /// A path of a URL, without a query.
    pub(crate) UrlPath, "URL path", "a path that begins with `/`, such as `/metrics`", "^/[^?# ]{0,255}$",
    |text| {
        let sound = text.starts_with('/') && plain(text) && !text.contains(['?', '#', '\\']);
        // The parser takes what is not ASCII too.
        sound && text.is_ascii() && text.parse::<http::uri::PathAndQuery>().is_ok()
    }
}

checked! {
    /// A text in a token: the name of a claim, or a value of one.
    pub(crate) Word, "word", "1 to 256 characters", "^.{1,256}$", plain
}

checked! {
    /// The name of a cookie.
    pub(crate) Field, "cookie name", "the name of a cookie", "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
    |text| text.len() <= LONGEST && http::HeaderName::from_bytes(text.as_bytes()).is_ok()
}

impl Syntax for Pointer {
    const NAME: &'static str = "JSON pointer";
    const EXPECTED: &'static str = "a JSON pointer such as `/messages` or `/user/id`";
    const PATTERN: &'static str = "^(/([^~/]|~[01])*){1,16}$";

    fn read(text: &str) -> Option<Self> {
        plain(text).then(|| Self::parse(text).ok()).flatten()
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Path of a file; relative paths start at the directory of the settings file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FilePath(pub PathBuf);

impl Syntax for FilePath {
    const NAME: &'static str = "file";
    const EXPECTED: &'static str = "the path of a file";
    const PATTERN: &'static str = "^.+$";

    fn read(text: &str) -> Option<Self> {
        let sound = !text.is_empty() && text.len() <= 4096 && !text.chars().any(char::is_control);
        sound.then(|| Self(text.into()))
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts<T: Syntax>(right: &[&str], wrong: &[&str]) {
        for text in right {
            assert!(T::read(text).is_some(), "{} `{text}`", T::NAME);
        }
        for text in wrong {
            assert!(T::read(text).is_none(), "{} `{text}`", T::NAME);
        }
    }

    #[test]
    fn names_and_patterns() {
        let long = "x".repeat(257);
        accepts::<Id>(&["w1", "a.b_c-D"], &["", "a b", "ä", "a/b", &long[..65]]);
        accepts::<RuleName>(&["a_b-1"], &["a.b", ""]);
        accepts::<Glob>(&["*", "gpt-*", "a b"], &["", "a\nb", &long]);
        let wrong = [
            "", "v1", "*", "/a//b", "//", "/./a", "/a/..", "/a?b", "/a#", "/%2f", "/a b", "/a\\b",
            "/a/..;/b", "/;",
        ];
        accepts::<PathGlob>(&["/", "/*", "/v1/*", "/a/", "/a.b/..c"], &wrong);
        accepts::<UrlPath>(
            &["/", "/metrics", "/a/b.c"],
            &["", "metrics", "/a?b", "/a#b", "/a b", "/ä", &long],
        );
        accepts::<Pointer>(&["/", "/a/0/b", "/a~1b~0"], &["", "a", "/a~2", "/a~", &"/".repeat(17)]);
        accepts::<Field>(&["session", "__Host-id"], &["", "a b", "a;b", "a=b", &long]);
        accepts::<FilePath>(&["cert.pem", "/etc/ssl/my cert.pem"], &["", "a\0b"]);
    }
}
