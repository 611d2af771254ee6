//! Secrets, which only the code that compares them can read. No log, error or listing shows them.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::Syntax;
use crate::hex;

/// Text shown in place of a secret.
pub(crate) const REDACTED: &str = "<redacted>";

/// A secret in plain text. `Debug` and `Display` print `<redacted>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Returns the secret in plain text.
    #[must_use]
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Returns `true` if `offered` is this secret. The time taken reveals nothing about the secret.
    #[must_use]
    pub fn is(&self, offered: &[u8]) -> bool {
        // Both are hashed first, so that the time does not reveal the length either.
        Sha256::digest(self.0.as_bytes()).ct_eq(&Sha256::digest(offered)).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Syntax for Secret {
    const NAME: &'static str = "secret";
    const EXPECTED: &'static str = "a secret of at least one character, without control characters";
    const PATTERN: &'static str = "^.+$";

    fn read(text: &str) -> Option<Self> {
        (!text.is_empty() && !text.chars().any(char::is_control)).then(|| Self(text.into()))
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// SHA-256 of a caller's key. It is never shown, because a weak key can be guessed from it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest(pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Syntax for Digest {
    const NAME: &'static str = "SHA-256";
    const EXPECTED: &'static str =
        "the SHA-256 of the caller's key in 64 hexadecimal digits (`printf %s KEY | sha256sum`)";
    const PATTERN: &'static str = "^[0-9A-Fa-f]{64}$";

    fn read(text: &str) -> Option<Self> {
        hex::read(text.as_bytes()).map(Self)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Text;
    use super::*;

    #[test]
    fn secrets_compare_and_never_show() {
        let secret = Secret::read("hunter2").unwrap();
        assert!(secret.is(b"hunter2") && !secret.is(b"hunter") && !secret.is(b""));
        assert_eq!(
            format!("{secret} {secret:?} {:?}", Text(secret.clone())),
            "<redacted> <redacted> <redacted>"
        );
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(Secret::read(""), None);
        assert_eq!(Secret::read("a\nb"), None);
    }

    #[test]
    fn digests_are_64_hexadecimal_digits() {
        let text = "00ffA1".to_owned() + &"5b".repeat(29);
        let digest = Digest::read(&text).unwrap();
        assert_eq!(digest.0[..4], [0x00, 0xff, 0xa1, 0x5b]);
        assert_eq!(format!("{digest:?}"), REDACTED);
        for wrong in ["", "zz", &text[..62], &format!("{text}00"), &"g".repeat(64)] {
            assert_eq!(Digest::read(wrong), None, "{wrong}");
        }
    }
}
