//! How long it took until all was well again.

use super::Second;

/// As good as it can be.
const WELL: f64 = 0.95;
/// Seconds over which it must hold, so that a lucky second does not count.
const HOLDS: usize = 3;

/// Seconds from `since` until the work done was 95 % of the most there could be, or 95 % of what was offered was
/// good. Infinite when that never came.
pub(super) fn recovery(seconds: &[Second], since: usize) -> f64 {
    let well = |window: &[Second]| {
        let of_peak = window.iter().map(|second| second.of_peak).sum::<f64>() / window.len() as f64;
        let offered: u64 = window.iter().map(|second| second.offered).sum();
        let good: u64 = window.iter().map(|second| second.good).sum();
        of_peak >= WELL || good as f64 >= WELL * offered as f64
    };
    let windows = seconds.get(since..).unwrap_or_default().windows(HOLDS);
    windows.enumerate().find(|(_, window)| well(window)).map_or(f64::INFINITY, |(second, _)| second as f64)
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
        assert!((recovery(&seconds, 2) - 3.0).abs() < 1e-9);
        assert!(recovery(&seconds[..5], 2).is_infinite());
    }
}
