//! Parses Prometheus' text format, as far as it is needed here.

use std::collections::HashMap;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct SeriesSample<'a> {
    labels: &'a str,
    pub(super) value: f64,
}

impl<'a> SeriesSample<'a> {
    /// Returns a label's value, not unescaped: the labels that are needed have no escapes.
    pub(super) fn label(&self, name: &str) -> Option<&'a str> {
        labels(self.labels).find(|(label, _)| *label == name).map(|(_, value)| value)
    }
}

/// The samples of a scrape, by metric name.
#[derive(Debug, Default)]
pub(super) struct Scrape<'a>(HashMap<&'a str, Vec<SeriesSample<'a>>>);

impl<'a> Scrape<'a> {
    /// Parses a text. Skips lines that are not samples.
    pub(super) fn read(text: &'a str) -> Self {
        let mut series: HashMap<&str, Vec<SeriesSample<'_>>> = HashMap::new();
        for (name, sample) in text.lines().filter_map(sample) {
            series.entry(name).or_default().push(sample);
        }
        Self(series)
    }

    pub(super) fn get(&self, name: &str) -> &[SeriesSample<'a>] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

fn sample(line: &str) -> Option<(&str, SeriesSample<'_>)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let name_ends = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(name_ends);
    let (labels, rest) = match rest.strip_prefix('{') {
        // A brace within quotes does not end the labels.
        Some(inner) => inner.split_at_checked(closing(inner)?).map(|(labels, rest)| (labels, &rest[1..]))?,
        None => ("", rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, SeriesSample { labels, value }))
}

/// Returns the position of the brace that closes a list of labels.
fn closing(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

fn labels(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (name, after) = rest.split_once("=\"")?;
        let mut escaped = false;
        let end = after.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })?;
        let (value, tail) = after.split_at(end);
        rest = tail.get(1..).unwrap_or_default();
        Some((name.trim_matches([',', ' ']), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_names_labels_and_values() {
        let text = "# HELP a b\n# TYPE a gauge\na 1\nb{x=\"1\", y=\"a\\\"}b\",z=\"\\\\\"} 2.5 1700000000\n\
            b{x=\"2\"} +Inf\nbroken{x=\"1\nempty{} 3\nnothing\nword up\n  c\t4  \n";
        let scrape = Scrape::read(text);
        let values = |name| scrape.get(name).iter().map(|sample| sample.value).collect::<Vec<_>>();
        assert_eq!((values("a"), values("b")), (vec![1.0], vec![2.5, f64::INFINITY]));
        assert_eq!((values("empty"), values("c"), values("broken")), (vec![3.0], vec![4.0], vec![]));
        assert_eq!((values("nothing"), values("word")), (vec![], vec![]));
        let first = &scrape.get("b")[0];
        assert_eq!(
            (first.label("x"), first.label("y"), first.label("z")),
            (Some("1"), Some("a\\\"}b"), Some("\\\\"))
        );
        assert_eq!(first.label("w"), None);
    }

    #[test]
    fn no_line_makes_it_panic() {
        for line in [
            "{",
            "}",
            "a{",
            "a{}",
            "a{}}",
            "a{\"",
            "a{x=\"\\",
            "a{é=\"ü\"} 1",
            "é 1",
            "a{x=\"\"\" 1} 2",
            "\u{0}",
        ] {
            let scrape = Scrape::read(line);
            assert!(scrape.0.values().flatten().all(|sample| sample.label("q").is_none()), "{line}");
        }
    }
}
