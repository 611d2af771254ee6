//! Values written as text with a syntax of their own: durations, rates, addresses.
//!
//! Each implements [`Syntax`]; `Text` carries it through serde and the JSON Schema. `check` runs
//! before anything is deserialised, so that an invalid text is one error and not the end of
//! reading.

mod amounts;
mod kubernetes;
mod meant;
mod names;
mod net;
mod secret;

pub(crate) use amounts::quarter;
pub(crate) use amounts::{Rate, Size};
pub(crate) use kubernetes::{LabelSelector, ObjectName, PortName};
pub(crate) use names::{Field, FilePath, PathGlob, RuleName, UrlPath, Word};
pub use names::{Glob, Id};
pub(crate) use net::{AllowedHost, CollectorUrl, Host, Jwks, Network, Origin, redacted_url};
pub use net::{RedisUrl, WorkerUrl};
pub use secret::Secret;
pub(crate) use secret::{Digest, REDACTED};

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use traffic_dam_lab::simulate::Policy;
use traffic_dam_lab::simulate::scenario::{Bound, ScenarioDuration};

use crate::openai::body::Pointer;

/// A type of value that is written as text.
pub trait Syntax: Sized {
    /// Name of this syntax in the schema (`x-syntax`).
    const NAME: &'static str;
    /// Description of the expected text, to complete "must be …".
    const EXPECTED: &'static str;
    /// Regular expression for editors that check files by the schema. Every valid text matches it.
    const PATTERN: &'static str;

    /// Parses a text; `None` if it is invalid.
    fn read(text: &str) -> Option<Self>;

    /// Returns what an invalid text was probably meant to be. The result may be invalid too.
    fn meant(_: &str) -> Option<String> {
        None
    }

    /// Writes a text that parses to this value.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// A value with a textual syntax, in the settings file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text<T>(pub T);

impl<T: Syntax> fmt::Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f)
    }
}

impl<T: Syntax> fmt::Debug for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f)
    }
}

impl<T: Syntax> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, T: Syntax> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let expected = || serde::de::Error::custom(format_args!("must be {}", T::EXPECTED));
        T::read(&text).map(Self).ok_or_else(expected)
    }
}

impl<T: Syntax> JsonSchema for Text<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::NAME.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": T::PATTERN, "x-syntax": T::NAME })
    }
}

/// The check that `x-syntax` in the schema names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SyntaxName {
    pub(crate) name: &'static str,
    /// Description of the expected text, to complete "must be …".
    pub(crate) expected: &'static str,
    pub(crate) accepts: fn(&str) -> bool,
    /// Returns a valid text that an invalid one was probably meant to be.
    pub(crate) meant: fn(&str) -> Option<String>,
}

impl SyntaxName {
    const fn of<T: Syntax>() -> Self {
        Self {
            name: T::NAME,
            expected: T::EXPECTED,
            accepts: |text| T::read(text).is_some(),
            meant: |text| T::meant(text).filter(|meant| T::read(meant).is_some()),
        }
    }
}

/// Syntaxes of scenarios, whose types read themselves.
const SCENARIO_CHECKS: [SyntaxName; 3] = [
    SyntaxName {
        name: "time",
        expected: "a number of us, ms, s, m or h, such as `300us` or `1.5s`",
        accepts: |text| text.parse::<ScenarioDuration>().is_ok(),
        meant: |_| None,
    },
    SyntaxName {
        name: "range",
        expected: "a range: `>= 0.95`, `<= 1s`, `== 0`, or two of them with a comma",
        accepts: |text| text.parse::<Bound>().is_ok(),
        meant: |_| None,
    },
    SyntaxName {
        name: "limit policy",
        expected: "`none`, `slots`, a limit algorithm or a number above 0",
        accepts: |text| text.parse::<Policy>().is_ok(),
        meant: |_| None,
    },
];

const CHECKS: [SyntaxName; 27] = [
    SyntaxName::of::<AllowedHost>(),
    SyntaxName::of::<CollectorUrl>(),
    SyntaxName::of::<Digest>(),
    SyntaxName::of::<Field>(),
    SyntaxName::of::<FilePath>(),
    SyntaxName::of::<Glob>(),
    SyntaxName::of::<HeaderName>(),
    SyntaxName::of::<Host>(),
    SyntaxName::of::<Id>(),
    SyntaxName::of::<Jwks>(),
    SyntaxName::of::<Duration>(),
    SyntaxName::of::<LabelSelector>(),
    SyntaxName::of::<Network>(),
    SyntaxName::of::<ObjectName>(),
    SyntaxName::of::<Origin>(),
    SyntaxName::of::<PathGlob>(),
    SyntaxName::of::<Pointer>(),
    SyntaxName::of::<PortName>(),
    SyntaxName::of::<Rate>(),
    SyntaxName::of::<RedisUrl>(),
    SyntaxName::of::<RuleName>(),
    SyntaxName::of::<Secret>(),
    SyntaxName::of::<Size>(),
    SyntaxName::of::<SocketAddr>(),
    SyntaxName::of::<UrlPath>(),
    SyntaxName::of::<Word>(),
    SyntaxName::of::<WorkerUrl>(),
];

/// Returns the check with this name.
pub(crate) fn check(name: &str) -> Option<&'static SyntaxName> {
    CHECKS.iter().chain(&SCENARIO_CHECKS).find(|check| check.name == name)
}

impl Syntax for SocketAddr {
    const NAME: &'static str = "address";
    const EXPECTED: &'static str = "an IP address and a port, such as `127.0.0.1:8080` or `[::]:8080`";
    const PATTERN: &'static str = "^.+:[0-9]{1,5}$";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn meant(text: &str) -> Option<String> {
        meant::address(text)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Syntax for HeaderName {
    const NAME: &'static str = "header";
    const EXPECTED: &'static str = "the name of an HTTP header";
    const PATTERN: &'static str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_a_unit_a_port_or_a_scheme_is_completed() {
        for (name, text, expected) in [
            ("duration", "5", Some("5s")),
            ("duration", "1.5s", Some("1500ms")),
            ("duration", "10 min", Some("10m")),
            ("duration", "5S", Some("5s")),
            ("duration", "5 parsecs", None),
            ("duration", "99999999d", None),
            ("rate", "10", Some("10/s")),
            ("rate", "10/min", Some("10/m")),
            ("rate", "10 rps", Some("10/s")),
            ("rate", "10/ms", None),
            ("rate", "0.5/s", Some("30/m")),
            ("rate", "1.5/s", Some("90/m")),
            ("rate", "0.1/m", Some("6/h")),
            ("rate", "10.0/s", Some("10/s")),
            ("rate", "0.5/d", None),
            ("rate", "0/s", None),
            ("rate", "10000000000/s", None),
            ("size", "8MB", Some("8MiB")),
            ("size", "8 g", Some("8GiB")),
            ("size", "1.5M", None),
            ("address", "8080", Some("127.0.0.1:8080")),
            ("address", ":8080", Some("0.0.0.0:8080")),
            ("address", "*:80", Some("0.0.0.0:80")),
            ("address", "localhost:81", Some("127.0.0.1:81")),
            ("address", "10.0.0.1", Some("10.0.0.1:8080")),
            ("address", "::1", Some("[::1]:8080")),
            ("address", "[::1]", Some("[::1]:8080")),
            ("address", "::1:80", Some("[::1]:80")),
            ("address", ":::8080", Some("[::]:8080")),
            ("address", "2001:db8::1:443", Some("[2001:db8::1]:443")),
            ("address", "2001:db8:0:0:0:0:0:10", Some("[2001:db8::10]:8080")),
            ("address", "1:2:3:4:5:6:7:8:443", Some("[1:2:3:4:5:6:7:8]:443")),
            ("address", "http://127.0.0.1:8080/", Some("127.0.0.1:8080")),
            ("address", "gateway.example:8080", None),
            ("origin", "https://b.example:443", Some("https://b.example")),
            ("origin", "http://b.example:80/", Some("http://b.example")),
            ("origin", "https://u:p@b.example:443", None),
            ("origin", "b.example:443", None),
            ("URL", "127.0.0.1:8000", Some("http://127.0.0.1:8000")),
            ("URL", "http://h:8000/v1/chat/completions", Some("http://h:8000")),
            ("URL", "http://h:8000/v1/v1", Some("http://h:8000")),
            ("URL", "http://h:8000/V1/", Some("http://h:8000")),
            ("URL", "h:8000/v1/models", Some("http://h:8000")),
            ("URL", "http://u:p@h:8000/v1", None),
            ("URL", "u:p@h", None),
            ("URL", "h", None),
        ] {
            let meant = check(name).and_then(|syntax| (syntax.meant)(text));
            assert_eq!(meant.as_deref(), expected, "{text}");
        }
    }
}
