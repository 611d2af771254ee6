//! 90th percentile of recent observations, from a histogram that counts since the start.

use std::collections::VecDeque;

use super::text::Scrape;

/// Scrapes per window: enough for a meaningful number, few enough to follow the load.
const SPAN: usize = 10;

/// Cumulative bucket counts of a histogram as `(bound, count)`, by ascending bounds.
type BucketCounts = Vec<(f64, f64)>;

/// One histogram over the last scrapes.
#[derive(Debug, Default)]
pub(super) struct HistogramWindow(VecDeque<BucketCounts>);

impl HistogramWindow {
    /// Adds the histogram `name` of a scrape, summed over its label sets. Returns the 90th
    /// percentile since the start of the window; `None` without observations.
    pub(super) fn p90(&mut self, scrape: &Scrape<'_>, name: &str) -> Option<f64> {
        let counts = counts(scrape, name);
        let fits = |old: &BucketCounts| {
            old.len() == counts.len()
                && old.iter().zip(&counts).all(|(old, new)| old.0.total_cmp(&new.0).is_eq() && old.1 <= new.1)
        };
        if !self.0.iter().all(fits) {
            // The worker was restarted.
            self.0.clear();
        }
        let recent: Option<BucketCounts> = self
            .0
            .front()
            .map(|oldest| oldest.iter().zip(&counts).map(|(old, new)| (new.0, new.1 - old.1)).collect());
        self.0.push_back(counts);
        if self.0.len() > SPAN {
            self.0.pop_front();
        }
        recent.as_ref().and_then(p90)
    }
}

fn counts(scrape: &Scrape<'_>, name: &str) -> BucketCounts {
    let mut counts: BucketCounts = Vec::new();
    for sample in scrape.get(&format!("{name}_bucket")) {
        let Some(bound) = sample.label("le").and_then(|bound| bound.parse::<f64>().ok()) else { continue };
        if bound.is_nan() || !sample.value.is_finite() {
            continue;
        }
        match counts.iter_mut().find(|(other, _)| other.total_cmp(&bound).is_eq()) {
            Some((_, count)) => *count += sample.value,
            None => counts.push((bound, sample.value)),
        }
    }
    counts.sort_by(|one, other| one.0.total_cmp(&other.0));
    counts
}

/// Interpolates linearly within the bucket of the 90th percentile. Beyond the highest bound it
/// returns that bound.
fn p90(counts: &BucketCounts) -> Option<f64> {
    let total = counts.last()?.1;
    if total <= 0.0 {
        return None;
    }
    let rank = total * 0.9;
    let (mut below, mut floor) = (0.0, 0.0);
    for &(bound, count) in counts {
        if count >= rank {
            let share = (rank - below) / (count - below).max(f64::MIN_POSITIVE);
            return Some(if bound.is_finite() { floor + (bound - floor) * share } else { floor });
        }
        (below, floor) = (count, if bound.is_finite() { bound } else { floor });
    }
    Some(floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p90_of(window: &mut HistogramWindow, counts: [u32; 4]) -> Option<f64> {
        let text: String = ["0.1", "0.5", "1.0", "+Inf"]
            .iter()
            .zip(counts)
            .map(|(bound, count)| format!("t_bucket{{m=\"a\",le=\"{bound}\"}} {count}\n"))
            .collect();
        window.p90(&Scrape::read(&text), "t").map(|p90| (p90 * 1000.0).round() / 1000.0)
    }

    #[test]
    fn only_what_came_since_counts() {
        let mut window = HistogramWindow::default();
        assert_eq!(p90_of(&mut window, [1000, 1000, 1000, 1000]), None);
        assert_eq!(p90_of(&mut window, [1000, 1000, 1000, 1000]), None);
        // Ten more between 0.1 and 0.5: the ninth of them is at nine tenths of that way.
        assert_eq!(p90_of(&mut window, [1000, 1010, 1010, 1010]), Some(0.46));
        for _ in 0..SPAN {
            p90_of(&mut window, [1000, 1010, 1010, 1010]);
        }
        assert_eq!(p90_of(&mut window, [1000, 1010, 1010, 1010]), None, "that was long ago");
        // Beyond every bound, only the highest bound is known.
        assert_eq!(p90_of(&mut window, [1000, 1010, 1010, 1011]), Some(1.0));
    }

    #[test]
    fn a_restart_begins_anew() {
        let mut window = HistogramWindow::default();
        p90_of(&mut window, [50, 50, 50, 50]);
        assert_eq!(p90_of(&mut window, [0, 0, 3, 3]), None);
        assert_eq!(p90_of(&mut window, [10, 10, 13, 13]), Some(0.09));
    }

    #[test]
    fn label_sets_are_added_up() {
        let scrape = |one: u32, other: u32| {
            format!(
                "t_bucket{{e=\"0\",le=\"1\"}} {one}\nt_bucket{{e=\"1\",le=\"1\"}} {other}\nt_bucket{{e=\"0\",le=\"x\"}} 9\n"
            )
        };
        let mut window = HistogramWindow::default();
        assert_eq!(window.p90(&Scrape::read(&scrape(1, 1)), "t"), None);
        assert_eq!(window.p90(&Scrape::read(&scrape(5, 7)), "t"), Some(0.9));
        assert_eq!(window.p90(&Scrape::read(""), "t"), None);
    }
}
