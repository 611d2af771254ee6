//! Reads a gateway's metrics in Prometheus' text format.

/// A histogram: each bound with the number of values at or below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    /// Sums all series of the histogram `name` in `text`.
    pub(crate) fn read(text: &str, name: &str) -> Self {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (labels, value) in samples(text, &format!("{name}_bucket")) {
            let Some(bound) = label(labels, "le").and_then(|bound| bound.parse().ok()) else { continue };
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += value,
                None => buckets.push((bound, value)),
            }
        }
        buckets.sort_unstable_by(|a, b| f64::total_cmp(&a.0, &b.0));
        Self(buckets)
    }

    /// Returns the values added since `earlier`, a reading of the same histogram.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before =
            |bound: f64| earlier.0.iter().find(|(known, _)| *known == bound).map_or(0.0, |pair| pair.1);
        Self(self.0.iter().map(|(bound, count)| (*bound, count - before(*bound))).collect())
    }

    /// Returns the quantile `q`, interpolated within its bucket as Prometheus does. `None` if the
    /// histogram is empty or the quantile lies beyond the last bound.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        let rank = q * self.0.last().map(|(_, all)| *all).filter(|all| *all > 0.0)?;
        let mut below = (0.0, 0.0);
        for &(bound, count) in &self.0 {
            if count >= rank {
                return bound
                    .is_finite()
                    .then(|| below.0 + (bound - below.0) * (rank - below.1) / (count - below.1).max(1e-12));
            }
            below = (bound, count);
        }
        None
    }
}

/// Sums the series of a gauge or counter.
pub(crate) fn sum(text: &str, name: &str) -> Option<f64> {
    samples(text, name).map(|(_, value)| value).reduce(|a, b| a + b)
}

fn samples<'a>(text: &'a str, name: &str) -> impl Iterator<Item = (&'a str, f64)> {
    text.lines().filter_map(move |line| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        (labels.is_empty() || labels.starts_with('{')).then_some(())?;
        Some((labels, value.parse().ok()?))
    })
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE wait histogram\n\
        wait_bucket{pool=\"a\",le=\"0.1\"} 10\nwait_bucket{pool=\"a\",le=\"0.2\"} 20\nwait_bucket{pool=\"a\",le=\"+Inf\"} 20\n\
        wait_bucket{pool=\"b\",le=\"0.1\"} 30\nwait_bucket{pool=\"b\",le=\"0.2\"} 30\nwait_bucket{pool=\"b\",le=\"+Inf\"} 31\n\
        wait_count{pool=\"a\"} 20\nlimit{worker=\"w1\"} 12\nlimit{worker=\"w2\"} 7.5\nlimit_total 3\n";

    #[test]
    fn series_are_added_up() {
        assert_eq!(
            Histogram::read(TEXT, "wait"),
            Histogram(vec![(0.1, 40.0), (0.2, 50.0), (f64::INFINITY, 51.0)])
        );
        assert_eq!(sum(TEXT, "limit"), Some(19.5));
        assert_eq!(sum(TEXT, "limit_total"), Some(3.0));
        assert_eq!(sum(TEXT, "lim"), None);
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let histogram = Histogram(vec![(0.1, 50.0), (0.2, 100.0), (f64::INFINITY, 100.0)]);
        assert!((histogram.quantile(0.75).unwrap() - 0.15).abs() < 1e-9);
        assert!((histogram.quantile(0.5).unwrap() - 0.1).abs() < 1e-9);
        assert_eq!(Histogram::default().quantile(0.5), None);
        // A quantile beyond the last bound is unknown.
        assert_eq!(Histogram(vec![(0.1, 1.0), (f64::INFINITY, 100.0)]).quantile(0.99), None);
    }

    #[test]
    fn only_what_came_since_counts() {
        let earlier = Histogram(vec![(0.1, 40.0), (f64::INFINITY, 40.0)]);
        let later = Histogram(vec![(0.1, 40.0), (f64::INFINITY, 45.0)]);
        assert_eq!(later.since(&earlier), Histogram(vec![(0.1, 0.0), (f64::INFINITY, 5.0)]));
    }
}
