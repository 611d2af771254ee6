//! Names as a reader takes them that ignores letter case.
//!
//! Go's `encoding/json` does so, and .NET where it is told to: to such a worker `Model` is `model`.

/// Longest name that is compared, in bytes: three for each letter of the longest known name.
const LONGEST: usize = 64;

/// Returns a name in lower case; `None` if it is, or is longer than any name that the gateway knows.
pub(in crate::openai) fn folded(name: &[u8]) -> Option<String> {
    let is_lower = |byte: &u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    if name.len() > LONGEST || name.iter().all(is_lower) {
        return None;
    }
    // By way of upper case: `ſ` is a small letter, and an S to those who fold it.
    let letters = std::str::from_utf8(name).ok()?.chars();
    Some(letters.flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_folded_as_go_folds_them() {
        let folded = |name: &str| folded(name.as_bytes());
        assert_eq!(folded("max_tokens"), None);
        for name in ["Max_Tokens", "MAX_TOKENS", "max_token\u{17f}", "max_to\u{212a}ens"] {
            assert_eq!(folded(name).as_deref(), Some("max_tokens"), "{name}");
        }
        assert_eq!(folded("mödel").as_deref(), Some("mödel"));
        assert_eq!(folded(&"M".repeat(65)), None);
    }
}
