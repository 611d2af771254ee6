//! How long it took until all was well again.

use super::Second;

/// As good as it can be.
const WELL: f64 = 0.95;
/// Seconds over which it must hold, so that a lucky second does not count.
const HOLDS: usize = 3;
/// Seconds before a disturbance that show what is usual.
const USUAL: usize = 5;

/// Seconds from `since` until the work done was 95 % of `usual`, a share of the most there can be, or 95 % of what was
/// offered was good. Infinite when that never came.
pub(super) fn recovery(seconds: &[Second], since: usize, usual: f64) -> f64 {
    let well = |window: &[Second]| {
        let offered: u64 = window.iter().map(|second| second.offered).sum();
        let good: u64 = window.iter().map(|second| second.good).sum();
        of_peak(window) >= WELL * usual || good as f64 >= WELL * offered as f64
    };
    let windows = seconds.get(since..).unwrap_or_default().windows(HOLDS);
    windows.enumerate().find(|(_, window)| well(window)).map_or(f64::INFINITY, |(second, _)| second as f64)
}

/// What is usual in the five seconds before `since`, after the second `from`; 1 when there are no such.
pub(super) fn usual(seconds: &[Second], from: usize, since: usize) -> f64 {
    let before = seconds.get(from.max(since.saturating_sub(USUAL))..since).unwrap_or_default();
    if before.is_empty() { 1.0 } else { of_peak(before).min(1.0) }
}

fn of_peak(window: &[Second]) -> f64 {
    window.iter().map(|second| second.of_peak).sum::<f64>() / window.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_disturbance_to_the_first_good_stretch() {
        let seconds: Vec<Second> = [1.0, 1.0, 0.2, 0.99, 0.3, 0.96, 0.96, 0.96]
            .map(|of_peak| Second { of_peak, offered: 10, ..Second::default() })
            .into_iter()
            .collect();
        assert!((recovery(&seconds, 2, 1.0) - 3.0).abs() < 1e-9);
        assert!(recovery(&seconds[..5], 2, 1.0).is_infinite());
        assert!((usual(&seconds, 0, 3) - 2.2 / 3.0).abs() < 1e-9);
        assert!((usual(&seconds, 3, 3) - 1.0).abs() < 1e-9);
    }
}
