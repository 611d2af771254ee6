//! "Did you mean …?"

/// The name among `names` that `text` was probably meant to be.
pub(super) fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Anything longer than every name is no slip of the finger, and comparing takes the product of the lengths.
    const LONGEST: usize = 64;
    if text.len() > LONGEST {
        return None;
    }
    let folded = |name: &str| name.to_lowercase().replace('-', "_");
    let text = folded(text);
    names
        .map(|name| (distance(&text, &folded(name)), name))
        .filter(|(slips, name)| *slips <= (name.len() / 3).clamp(1, 3))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, name)| name)
}

/// The fewest insertions, deletions, replacements and swaps of neighbours that make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX / 2);
            let replaced = at(&above, j) + usize::from(x != y);
            let mut fewest = replaced.min(at(&above, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                fewest = fewest.min(at(&before, j - 1) + 1);
            }
            row.push(fewest);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, slips) in [
            ("", "", 0),
            ("rate", "rate", 0),
            ("rat", "rate", 1),
            ("raet", "rate", 1),
            ("", "abc", 3),
            ("ab", "cd", 2),
        ] {
            assert_eq!(distance(a, b), slips, "{a} {b}");
            assert_eq!(distance(b, a), slips, "{b} {a}");
        }
    }

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
