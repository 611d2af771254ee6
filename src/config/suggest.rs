//! Finds the name for "did you mean …?".

/// Returns the name among `names` that `text` was probably meant to be.
pub(super) fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A longer text is no typo, and comparing takes time in proportion to both lengths.
    const LONGEST: usize = 64;
    if text.len() > LONGEST {
        return None;
    }
    let folded = |name: &str| name.to_lowercase().replace('-', "_");
    let text = folded(text);
    names
        // Swapping two adjacent letters counts as one typo.
        .map(|name| (strsim::osa_distance(&text, &folded(name)), name))
        .filter(|(slips, name)| *slips <= (name.len() / 3).clamp(1, 3))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let names = ["listen", "limits", "max_keys", "tls", "drain"];
        for (text, meant) in [
            ("lisen", Some("listen")),
            ("limit", Some("limits")),
            ("max-keys", Some("max_keys")),
            ("TLS", Some("tls")),
            ("darin", Some("drain")),
            ("redis", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, names.into_iter()), meant, "{text}");
        }
        assert_eq!(nearest(&"l".repeat(100_000), names.into_iter()), None);
    }
}
