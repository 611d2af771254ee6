//! The id of a caller: a name in a namespace, written `key:team-a`.

use std::fmt;

/// How a caller is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerNamespace {
    /// By an API key.
    Key,
    /// By a signed token (JWT).
    Token,
    /// By a header that a trusted proxy sets.
    Header,
    /// By its address.
    Address,
}

impl CallerNamespace {
    const ALL: [Self; 4] = [Self::Key, Self::Token, Self::Header, Self::Address];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Token => "jwt",
            Self::Header => "hdr",
            Self::Address => "ip",
        }
    }
}

/// The id of a caller. Rules, logs and metrics show it as text: `key:team-a`, `ip:2001:db8::/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerId<'a> {
    /// How the caller is known.
    pub namespace: CallerNamespace,
    /// Its name there.
    pub name: &'a str,
}

impl<'a> CallerId<'a> {
    /// Reads an id as it is shown; `None` for other texts, such as that of a caller without an id.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (namespace, name) = text.split_once(':')?;
        let namespace = CallerNamespace::ALL.into_iter().find(|known| known.as_str() == namespace)?;
        Some(Self { namespace, name })
    }
}

impl fmt::Display for CallerId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace.as_str(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_is_shown() {
        for text in ["key:team-a", "jwt:a:b", "hdr:42", "ip:192.0.2.1", "ip:2001:db8::/64"] {
            assert_eq!(CallerId::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(CallerId::parse("jwt:a:b").map(|id| id.name), Some("a:b"));
        assert!(CallerId::parse("anonymous").is_none() && CallerId::parse("Key:a").is_none());
    }
}
