//! Patterns in which `*` stands for any run of characters, as the settings use them.

/// Whether `pattern` matches all of `text`. Takes at most `pattern.len() · text.len()` steps and no memory.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when the present reading fails: behind the last star, which then takes one byte more.
    let mut retry: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(same) if same == byte => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((behind_star, from)) => {
                    (p, t) = (behind_star, from + 1);
                    retry = Some((p, t));
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_runs() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("/v1/*", "/v1/files", true),
            ("/v1/*", "/v1/", true),
            ("/v1/*", "/v1", false),
            ("*/end", "/a/b/end", true),
            ("/a*b*c", "/aXbYbZc", true),
            ("/a*b*c", "/aXbYbZ", false),
            ("/exact", "/exact", true),
            ("/exact", "/exactly", false),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
